"""What ``experiments/gates.py`` says of a text: numbers, pictures, what it refuses, and the page that shows it."""

import argparse
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

from experiments import gates, report, reviews, saved
from experiments.model import LAYERS, build
from experiments.training import Score

ROOT = Path(__file__).parents[2]
SETTINGS: Any = {
    "num_words": 200, "embedding": 6, "units": 7, "maxlen": 12, "dropout": 0.0, "recurrent_dropout": 0.0, "limit": 60,
}  # fmt: skip
TEXT = "We saw it in May & expected something <awful>."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each cell whose dense layer is strong enough to have opinions."""
    path = tmp_path_factory.mktemp("models")
    data = reviews.load("generated", num_words=200, maxlen=12, limit=60)
    for cell in LAYERS:
        model: Any = build(cell, 0, argparse.Namespace(**SETTINGS))
        model.embedding.embedding[...] *= 40
        model.dense.bias[...] += 0.3
        saved.save(
            path, report.Run(cell, 0, 0, 1, test=[Score(0.7, 0.625)]), nnx.state(model, nnx.Param), data, SETTINGS
        )
    return path


@pytest.mark.parametrize("cell", LAYERS)
def test_a_reading_ends_with_the_verdict_of_the_model(cell: str, folder: Path) -> None:
    model = saved.load(folder, cell)
    for text in (TEXT, f"{TEXT} {TEXT}", "film"):  # shorter than the window, longer, and of one word
        reading = gates.read(model, text)
        assert reading.words == [word for word in reviews.tokenize(text) if word in model.numbers][-12:]
        np.testing.assert_allclose(reading.verdicts[-1], model.probabilities([text])[0], rtol=1e-5)
        np.testing.assert_allclose(reading.before + reading.changes.sum(), reading.verdicts[-1], rtol=1e-5)
        logit = reading.shares.sum() + 0.3
        np.testing.assert_allclose(1 / (1 + np.exp(-logit)), reading.verdicts[-1], rtol=1e-5)
        assert {values.shape for values in reading.values.values()} == {(len(reading.words), 7)}


def test_a_longer_text_than_the_window_begins_with_what_nothing_read(folder: Path) -> None:
    reading = gates.read(saved.load(folder, "gru"), f"{TEXT} {TEXT}")
    np.testing.assert_allclose(reading.before, 1 / (1 + np.exp(-0.3)), rtol=1e-5)


@pytest.mark.parametrize("cell", LAYERS)
def test_pictures_and_numbers_are_written(
    cell: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gates.main([TEXT, "film", "--model", str(folder), "--cell", cell, "--units", "3", "--output", str(tmp_path)])
    content = json.loads((tmp_path / "gates.json").read_text())
    picture = ""
    for number, found in enumerate(content["readings"], 1):
        picture = (tmp_path / f"{cell}-{number}.svg").read_text()
        texts = [node.text for node in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]
        assert texts[-len(found["words"]) :] == found["words"]
        assert sum(text in ("+", gates.MINUS) for text in texts) == (3 if cell == "simple_rnn" else 6)
        for turn in found["turns"]:
            assert f"{turn['change']:+.2f}".replace("-", gates.MINUS) in texts
        assert len(found["turns"]) == min(3, len(found["words"])) and len(found["means"]) == len(
            gates.SHOWN[cell].gates
        )
    first = content["readings"][0]
    changes = np.diff(first["verdicts"], prepend=first["before"])
    for turn in first["turns"]:
        assert first["words"][turn["place"]] == turn["word"]
        assert turn["change"] == pytest.approx(changes[turn["place"]], abs=2e-4)
    least = min(abs(turn["change"]) for turn in first["turns"])
    assert sum(abs(change) > least + 2e-4 for change in changes) < 3
    assert "generated reviews (NOT IMDB)" in picture and "turned most by" in capsys.readouterr().out


def test_without_a_text_short_reviews_of_the_test_split_are_read(folder: Path, tmp_path: Path) -> None:
    gates.main(["--model", str(folder), "--reviews", "2", "--output", str(tmp_path)])
    readings = json.loads((tmp_path / "gates.json").read_text())["readings"]
    _, _, test = reviews.load_texts("generated", limit=60)
    assert len(readings) == 2
    for found in readings:
        assert found["label"] == test.labels[test.texts.index(found["text"])]


def test_errors_are_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^gates.py: there is no LSTM in .*: train one by `python"):
        gates.main(["good", "--model", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^gates.py: text: expected words, got none"):
        gates.main(["", "--model", str(folder), "--output", str(tmp_path)])
    with pytest.raises(SystemExit) as error:
        gates.main(["good", "--units", "0"])
    assert error.value.code == 2


def test_the_numbers_on_the_page_are_those_of_the_command() -> None:
    page = re.sub(r"\s+(> )?", " ", (ROOT / "docs" / "gates.md").read_text())
    content = json.loads((ROOT / "docs" / "figures" / "gates.json").read_text())
    assert content["model"] in page
    figures = {f"figures/lstm-{number}.svg" for number, _ in enumerate(content["readings"], 1)}
    assert {*re.findall(r"\((\S+\.svg)\)", page)} == figures
    for found in content["readings"]:
        assert found["text"] in page
        assert f"{found['verdicts'][-1]:.2f}" in page
        for turn in found["turns"]:
            assert f"*{turn['word']}* ({turn['change']:+.2f})" in page
