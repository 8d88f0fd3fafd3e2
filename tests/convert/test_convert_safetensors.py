"""Trees through files that the safetensors package itself reads and writes."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_rnn
from flax_rnn.convert import ConversionError, load_safetensors, save_safetensors

numpy = pytest.importorskip("safetensors.numpy")


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_array_equal(np.asarray(ours, np.float64), np.asarray(theirs, np.float64))


@pytest.mark.each(1, at_most=2)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_round_trip(dtype: Any, tmp_path: Path) -> None:
    stack = flax_rnn.StackedRNNCells([flax_rnn.LSTMCell(2, param_dtype=dtype), flax_rnn.GRUCell(3, param_dtype=dtype)])
    tree = {"rnn": {"cell": stack.init_params(jax.random.key(0), 4)}, "scale": jnp.asarray(0.1, dtype)}
    save_safetensors(tmp_path / "tree.safetensors", tree)
    assert_same(load_safetensors(tmp_path / "tree.safetensors"), tree)
    assert_same(load_safetensors(tmp_path / "tree.safetensors", like=jax.eval_shape(lambda: tree)), tree)


def test_names_and_layout(tmp_path: Path) -> None:
    path = tmp_path / "tree.safetensors"
    transposed = np.arange(6, dtype=np.float32).reshape(2, 3).T
    save_safetensors(path, {"a": [{"kernel": transposed}], "b": {"c": np.ones(0, np.float32)}})
    stored = numpy.load_file(path)
    assert {*stored} == {"a.0.kernel", "b.c"}
    np.testing.assert_array_equal(stored["a.0.kernel"], transposed)
    numpy.save_file({"x.1": np.ones(2, np.float32), "y": np.zeros(1, np.float32)}, path)
    assert_same(load_safetensors(path), {"x": {"1": np.ones(2, np.float32)}, "y": np.zeros(1, np.float32)})


def test_named_tuples_and_lists(tmp_path: Path) -> None:
    tree = {"carry": flax_rnn.LSTMCarry(jnp.ones(1), jnp.zeros(1)), "cells": [np.ones(2)]}
    save_safetensors(tmp_path / "tree.safetensors", tree)
    assert_same(load_safetensors(tmp_path / "tree.safetensors", like=tree), tree)


def test_errors(tmp_path: Path) -> None:
    path = tmp_path / "tree.safetensors"
    for tree, message in [
        ({"a.b": np.ones(1)}, "expected names without dots, got 'a.b'"),
        ({"a": {}}, "a: expected entries, got an empty dict"),
        ({"a": "text"}, "a: expected floating-point numbers"),
        (np.ones(1), "expected a dict, tuple or list, got ndarray"),
    ]:
        with pytest.raises(ConversionError, match=message):
            save_safetensors(path, tree)
    save_safetensors(path, {"a": np.ones((1, 2)), "b": np.ones(1)})
    with pytest.raises(ConversionError, match=r"expected the names of like, got none of \['c'\], and \['b'\]"):
        load_safetensors(path, like={"a": np.ones((1, 2)), "c": np.ones(1)})
    with pytest.raises(ConversionError, match=r"a: expected shape \(2, 1\), got \(1, 2\)"):
        load_safetensors(path, like={"a": np.ones((2, 1)), "b": np.ones(1)})
    numpy.save_file({"x": np.ones(2, "i4")}, other := tmp_path / "integers.safetensors")
    with pytest.raises(
        ConversionError, match=r"integers.safetensors: x: expected floating-point numbers, got dtype int32"
    ):
        load_safetensors(other)
    content = path.read_bytes()
    for broken in (b"", content[:20], content[:-4], b"\xff" * 100):
        path.write_bytes(broken)
        with pytest.raises(ConversionError, match="expected an intact safetensors file"):
            load_safetensors(path)
    numpy.save_file({"x": np.ones(2), "x.y": np.ones(1)}, path)
    with pytest.raises(ConversionError, match="none is the beginning of another"):
        load_safetensors(path)
    with pytest.raises(FileNotFoundError):
        load_safetensors(tmp_path / "missing.safetensors")
    with pytest.raises(OSError, match=r"none/model.safetensors: .*No such file"):
        save_safetensors(tmp_path / "none" / "model.safetensors", {"a": np.ones(1)})
