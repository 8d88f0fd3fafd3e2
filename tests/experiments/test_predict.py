"""A saved model is the same when it is loaded, and reads texts as in training; what ``predict`` says and refuses."""

import argparse
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

from experiments import imdb, predict, report, reviews, saved
from experiments.model import LAYERS, build
from experiments.training import Score

SETTINGS: Any = {"num_words": 60, "embedding": 4, "units": 5, "maxlen": 12, "dropout": 0.2, "recurrent_dropout": 0.2}


@pytest.fixture(scope="module")
def data() -> reviews.Reviews:
    return reviews.load("generated", num_words=60, maxlen=12, limit=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data: reviews.Reviews) -> Path:
    """One model of each cell, as it is before training."""
    path = tmp_path_factory.mktemp("models")
    for seed, cell in enumerate(LAYERS):
        run = report.Run(cell, seed, 0, 1, test=[Score(0.7, 0.625)])
        saved.save(path, run, nnx.state(fresh(cell, seed), nnx.Param), data, SETTINGS)
    return path


def fresh(cell: str, seed: int) -> Any:
    return build(cell, seed, argparse.Namespace(**SETTINGS))


@pytest.mark.parametrize("cell", LAYERS)
def test_a_loaded_model_has_the_weights_and_numbers_words_as_in_training(
    cell: str, folder: Path, data: reviews.Reviews
) -> None:
    model = saved.load(folder, cell)
    original = fresh(cell, [*LAYERS].index(cell))
    original.eval()
    texts = reviews.load_texts("generated", limit=40)[2].texts
    np.testing.assert_array_equal(model.encode(texts), data.test.tokens)
    expected = 1 / (1 + np.exp(-np.asarray(original(data.test.tokens), np.float64)))
    np.testing.assert_allclose(model.probabilities(texts), expected, rtol=1e-6)
    assert str(model).startswith(f"{report.TITLES[cell]} trained on generated reviews (NOT IMDB), seed")


def test_predict_is_a_command_beside_training(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert imdb.main(["predict", "We saw it in May.", "Nobody zyx called this film dull", "--model", str(folder)]) == []
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "trained on" in line] == ["SimpleRNN", "LSTM", "GRU"]
    verdicts = [line.split() for line in lines if "favourable" in line]
    assert len(verdicts) == 6
    assert all(word == ("favourable:" if float(number) > 0.5 else "unfavourable:") for number, word, *_ in verdicts)
    assert "  left out, since no review of the training has them: zyx" in lines


def test_files_and_standard_input(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "review.txt"
    file.write_text("We saw it\nin May.")
    model = ["--model", str(folder), "--cell", "gru"]
    predict.main(["--file", str(file), *model])
    from_file = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO("We saw it in May."))
    predict.main(model)
    assert capsys.readouterr().out == from_file and "We saw it in May." in from_file


def test_what_was_not_read_is_told(folder: Path, data: reviews.Reviews) -> None:
    model = saved.load(folder, "lstm")
    rare = data.words[-1]
    assert model.numbers[rare] >= SETTINGS["num_words"]
    lines = predict.verdict(model, f"film {rare} " * 20)
    assert lines[0].endswith("...") and len(lines) == 3
    assert lines[1] == f"  all read as one and the same rare word: {rare}"
    assert lines[2] == "  only the last 12 of its 40 words are read"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "text: expected words, got none"),
        (" ?! ", "text: expected words, got none"),
        ("zyx Zyxx", "text: expected a word that the training reviews have, got none in ['zyx', 'zyxx']"),
    ],
)
def test_texts_without_words_are_refused(text: str, message: str, folder: Path) -> None:
    with pytest.raises(SystemExit) as error:
        predict.main([text, "--model", str(folder), "--cell", "lstm"])
    assert error.value.code == f"imdb.py predict: {message}"


def test_missing_and_broken_models_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"there is no model in .*: train one by `python experiments/imdb.py --output"):
        predict.main(["good", "--model", str(tmp_path)])
    with pytest.raises(
        SystemExit, match=r"there is no LSTM in .*: train one by `python experiments/imdb.py --cell lstm"
    ):
        predict.main(["good", "--model", str(tmp_path), "--cell", "lstm"])
    with pytest.raises(SystemExit, match="No such file or directory"):
        predict.main(["--file", str(tmp_path / "none.txt"), "--model", str(folder), "--cell", "lstm"])
    for name, content in (("gru.safetensors", b"no"), ("gru.json", json.dumps({"cell": "gru"}).encode())):
        for part in ("gru.safetensors", "gru.json"):
            (tmp_path / part).write_bytes((folder / part).read_bytes())
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SystemExit, match="are not those of a model"):
            predict.main(["good", "--model", str(tmp_path)])


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("words", 3), {}, "words: expected strings"),
        (("settings", "maxlen"), 1 << 40, "maxlen: expected a whole number from 1 to"),
        (("settings", "num_words"), "60", "num_words: expected a whole number from 1 to"),
        (("settings", "units"), 1 << 20, "expected shape"),
        (("accuracy",), None, "expected an object with cell, data, seed, accuracy"),
    ],
)
def test_what_a_damaged_model_says_is_checked(
    place: tuple[Any, ...], value: Any, message: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "gru.safetensors").write_bytes((folder / "gru.safetensors").read_bytes())
    content: Any = json.loads((folder / "gru.json").read_text())
    node = content
    for name in place[:-1]:
        node = node[name]
    node[place[-1]] = value
    (tmp_path / "gru.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit, match=f"gru.json and .* are not those of a model: .*{message}"):
        predict.main(["good", "--model", str(tmp_path)])


def test_what_is_no_text_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path := tmp_path / "review").write_bytes(b"film \xff")
    with pytest.raises(SystemExit, match=r"predict: .*review: expected text in UTF-8, got something else"):
        predict.main(["--file", str(path), "--model", str(folder)])
    with path.open() as stream, monkeypatch.context() as patch:
        patch.setattr("sys.stdin", stream)
        with pytest.raises(SystemExit, match="predict: standard input: expected text in UTF-8"):
            predict.main(["--model", str(folder)])


@pytest.mark.full
@pytest.mark.parametrize(("ending", "status"), [(">&- 2>&- <&-", 0), ("> /dev/full", 1), ("| true", 1)])
def test_streams_that_cannot_be_written(ending: str, status: int, folder: Path) -> None:
    program = Path(imdb.__file__)
    line = f"set -o pipefail; {sys.executable} {program} predict film --model {folder} --cell gru {ending}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=300)
    assert done.returncode == status and "Traceback" not in done.stderr
    assert ("No space left on device" in done.stderr) == ("full" in ending)
