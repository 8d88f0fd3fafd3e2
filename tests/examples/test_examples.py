"""The examples, smaller where that is enough, do what they say."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from meshes import alone, randomized, with_gradients

import flax_rnn
from examples import in_flax, language, streaming, tagger, tensor_parallel, translate

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name != "__init__.py")
PAGE = ROOT / "docs" / "examples.md"


@pytest.mark.full
def test_only_both_directions_tell_what_is_in_brackets() -> None:
    scores = tagger.main(steps=200)
    assert scores["both"] > 0.97
    # They answer no, which is right for 0.84 of the letters.
    assert scores["forwards"] < 0.88 and scores["backwards"] < 0.88


def test_tags_are_those_of_the_definition() -> None:
    tokens, tags = tagger.draw(np.random.default_rng(2), 50)
    for row, expected in zip(tokens, tags, strict=True):
        text = "".join(tagger.ALPHABET[token] for token in row)
        found = [
            character.isalpha()
            and bool(re.search(r"\([^()]*$", text[:place]))
            and bool(re.match(r"[^()]*\)", text[place:]))
            for place, character in enumerate(text)
        ]
        assert found == expected.tolist()


@pytest.mark.full
def test_the_translator_translates_new_dates() -> None:
    assert translate.main().dates > 0.95


@pytest.mark.full
def test_the_language_model_knows_more_than_pairs_and_needs_its_state() -> None:
    bits = language.main(steps=250, units=128, written=20)
    assert bits.model < bits.forgetful - 0.05
    assert bits.forgetful < bits.pairs
    # Nobody foresees text as well as that without having seen it.
    assert bits.model > 1


def test_frames_give_what_the_sequence_gives() -> None:
    *same, forgetful = streaming.main(frames=20).values()
    assert len(same) == 4 and max(same) < 1e-5
    assert forgetful > 0.1


def test_cells_give_the_same_in_flax_and_here() -> None:
    differences = in_flax.main(rows=3, steps=7)
    assert len(differences) == 5 and max(differences.values()) < 1e-5


CELLS = flax_rnn.LSTMCell(6), flax_rnn.GRUCell(6), flax_rnn.GRUCell(6, reset_after=False)


@pytest.mark.parametrize("cell", CELLS, ids=["lstm", "gru", "gru, reset before"])
def test_divided_units_give_what_a_layer_gives(cell: Any) -> None:
    # XLA needs threads to spare for devices that wait for each other, so two of four devices it is.
    mesh = jax.make_mesh((1, 2), ("data", "model"), (AxisType.Auto,) * 2, devices=jax.devices()[:2])
    weights = randomized(jax.eval_shape(lambda: cell.init_params(jax.random.key(0), 5)))
    x = np.float32(np.random.default_rng(1).normal(size=(4, 3, 5)))

    def plain(weights: Any, x: Any) -> Any:
        return flax_rnn.rnn(cell, weights, x, return_sequences=True, implementation="scan")

    def divided(weights: Any, x: Any) -> Any:
        return tensor_parallel.layer(mesh, cell, weights, x, return_sequences=True)

    placed = tensor_parallel.place(mesh, tensor_parallel.by_units(cell, weights))
    assert all(leaf.addressable_shards[0].data.size * 2 == leaf.size for leaf in placed.values())
    gradients, outputs = jax.jit(with_gradients(divided))(placed, x)
    assert gradients["kernel"].sharding.is_equivalent_to(placed["kernel"].sharding, 3)
    actual = tensor_parallel.as_columns(jax.tree.map(np.asarray, gradients)), outputs
    chex.assert_trees_all_close(actual, alone(with_gradients(plain), weights, x), rtol=1e-5, atol=1e-5)


@pytest.mark.full
def test_training_with_divided_units_is_that_of_one_device() -> None:
    result = tensor_parallel.main(steps=2, units=8, devices=jax.devices()[:2])
    assert max(result.gradients, result.losses) < 1e-5 and result.weights < 1e-3
    assert len(result.held) == 2 and result.whole < 2 * min(result.held) == 2 * max(result.held) < result.whole + 64


@pytest.mark.full
def test_four_devices_learn_and_hold_their_share() -> None:
    code = (
        "import jax; jax.config.update('jax_num_cpu_devices', 8)\nfrom examples import tensor_parallel\n"
        "found = tensor_parallel.main(steps=60)\nassert found.last < 0.9, found\n"
        "assert max(found.gradients, found.losses) < 1e-4, found\nassert len(found.held) == 4, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.full
@pytest.mark.parametrize(
    "path", [path for path in EXAMPLES if path.stem in ("streaming", "in_flax")], ids=lambda p: p.stem
)
def test_an_example_runs_as_its_docstring_says(path: Path) -> None:
    assert f"python examples/{path.name}" in path.read_text()
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "e-0" in done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_page_quotes_the_example_as_it_is(path: Path) -> None:
    quoted = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(quoted) == len(EXAMPLES)
    # The formatter gives what is quoted an indentation of its own.
    text = "".join(path.read_text().split())
    assert sum("".join(code.split()) in text for code in quoted) == 1
    assert f"](../examples/{path.name})" in PAGE.read_text()
