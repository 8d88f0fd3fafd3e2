"""Models that leave give the same probabilities elsewhere."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from experiments import exports, imdb
from experiments.model import build

TOKENS = np.random.default_rng(0).integers(0, 50, (4, 9)).astype(np.int32)
SHAPES = [(), ("--layers", "2"), ("--bidirectional",), ("--bidirectional", "--layers", "2")]
CELLS = ["simple_rnn", "lstm", "gru"]


def written(cell: str, folder: Path, name: str, *more: str) -> tuple[argparse.Namespace, np.ndarray, Path]:
    """Options, what the model itself gives, and the file of one with random weights, biases too."""
    chosen = imdb.parse(["--num-words=50", "--embedding=5", "--units=7", "--dropout=0.3", "--export", name, *more])
    model: Any = build(cell, 0, chosen)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), nnx.state(model, nnx.Param))
    nnx.update(model, params)
    model.eval()
    (path,) = exports.write(folder, cell, params, chosen)
    assert path == folder / f"{cell}.{name}" and path.name in exports.names(cell)
    logits = np.asarray(model(TOKENS), np.float64)
    return chosen, 1 / (1 + np.exp(-logits)), path


@pytest.mark.each(1, full=2)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("more", SHAPES)
def test_keras_gives_the_same_probabilities(cell: str, more: tuple[str, ...], tmp_path: Path) -> None:
    keras: Any = pytest.importorskip("keras")
    chosen, expected, path = written(cell, tmp_path, "keras", *more)
    model = keras.models.load_model(path)
    np.testing.assert_allclose(np.asarray(model(TOKENS))[:, 0], expected, atol=2e-6)
    assert np.ptp(expected) > 0.01
    inner = model.layers[1].forward_layer if chosen.bidirectional else model.layers[1]
    assert (inner.dropout, inner.recurrent_dropout) == (0.3, 0.2)


@pytest.mark.each(1, full=2)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("more", [*SHAPES, ("--dtype", "bfloat16")])
def test_jax_gives_the_same_probabilities(cell: str, more: tuple[str, ...], tmp_path: Path) -> None:
    _, expected, path = written(cell, tmp_path, "jax", *more)
    found = jax.export.deserialize(bytearray(path.read_bytes()))
    tolerance = 1e-2 if "bfloat16" in more else 2e-6
    np.testing.assert_allclose(np.asarray(found.call(TOKENS)), expected, atol=tolerance)
    np.testing.assert_allclose(np.asarray(found.call(TOKENS[:1])), expected[:1], atol=tolerance)
    assert {*found.platforms} >= {"cpu", "cuda"}


@pytest.mark.full
def test_jax_needs_nothing_of_ours(tmp_path: Path) -> None:
    _, expected, path = written("lstm", tmp_path, "jax")
    np.save(tmp_path / "tokens.npy", TOKENS)
    reader = f"""
import sys, jax, numpy as np
model = jax.export.deserialize(bytearray(open({str(path)!r}, "rb").read()))
np.save("found.npy", model.call(np.load("tokens.npy")))
assert not {{"flax", "flax_rnn", "experiments"}} & {{*sys.modules}}
"""
    subprocess.run([sys.executable, "-c", reader], cwd=tmp_path, check=True, timeout=300)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, atol=2e-6)
