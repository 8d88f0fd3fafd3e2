"""What the pages on deploying and of recipes say beside their code: exports, executables, threads, frozen layers."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import flax_rnn

pytestmark = pytest.mark.full

FEATURES, UNITS = 4, 8
CELL = flax_rnn.LSTMCell(UNITS)
WEIGHTS = CELL.init_params(jax.random.key(0), FEATURES)


def exported(function: Any, *arguments: Any, platform: str | None = None, gradients: int = 0) -> Any:
    """What comes back of ``function`` as a file."""
    with flax_rnn.portable(platform):
        file = jax.export.export(jax.jit(function), platforms=["cpu", "cuda", "tpu"])(*arguments)
    return jax.export.deserialize(file.serialize(vjp_order=gradients))


def inputs(rows: int, steps: int) -> jax.Array:
    return jax.random.normal(jax.random.key(rows), (rows, steps, FEATURES))


def in_a_process(code: str, folder: Path) -> str:
    """What ``code`` prints in a new process."""
    paths = os.pathsep.join([str(Path(flax_rnn.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("sizes", ["b, t", "b, 8*k"])
def test_sizes_stay_open_with_lengths_and_for_a_gpu(sizes: str) -> None:
    def run(x: jax.Array, lengths: jax.Array) -> jax.Array:
        return flax_rnn.rnn(CELL, WEIGHTS, x, seq_lengths=lengths, return_sequences=True)

    batch, steps = jax.export.symbolic_shape(sizes)
    shapes = jax.ShapeDtypeStruct((batch, steps, FEATURES), "float32"), jax.ShapeDtypeStruct((batch,), "int32")
    again = exported(run, *shapes, platform="gpu" if "k" in sizes else None)
    for rows, count in [(2, 1), (3, 11)] if "t" in sizes else [(3, 16)]:
        given = inputs(rows, count), jnp.arange(rows, dtype=jnp.int32) * 10 + 1
        np.testing.assert_allclose(again.call(*given), run(*given), atol=1e-6)


def test_export_outside_of_portable_refuses_kernels_and_tells_so() -> None:
    if flax_rnn.choose(CELL).implementation != "native":
        pytest.skip("there are no kernels")
    with pytest.raises(ValueError, match="flax_rnn_forward"):
        jax.export.export(jax.jit(lambda x: flax_rnn.rnn(CELL, WEIGHTS, x)))(inputs(2, 5))


def test_states_and_gradients_travel() -> None:
    def step(carry: Any, x: jax.Array) -> Any:
        return flax_rnn.apply_cell(CELL, WEIGHTS, carry, x)

    x, carry = inputs(2, 1)[:, 0], [*flax_rnn.zero_carry(CELL, (2, FEATURES))]
    again = exported(step, carry, x, gradients=1)
    new, output = again.call(carry, x)
    assert isinstance(new, list)
    np.testing.assert_allclose(output, step(carry, x)[1], atol=1e-6)
    actual, expected = (jax.grad(lambda x, f=f: jnp.sum(f(carry, x)[1] ** 2))(x) for f in (again.call, step))
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_a_state_is_known_to_whoever_imports_the_library(tmp_path: Path) -> None:
    def step(carry: Any, x: jax.Array) -> Any:
        return flax_rnn.apply_cell(CELL, WEIGHTS, carry, x)

    x = inputs(2, 1)[:, 0]
    with flax_rnn.portable():
        file = jax.export.export(jax.jit(step))(flax_rnn.zero_carry(CELL, x.shape), x)
    (tmp_path / "step.bin").write_bytes(file.serialize())
    np.save(tmp_path / "x.npy", x)
    code = f"""
import jax, numpy as np, flax_rnn
step = jax.export.deserialize(bytearray(open("step.bin", "rb").read())).call
carry, output = step(flax_rnn.LSTMCarry(*np.zeros((2, 2, {UNITS}), "f")), np.load("x.npy"))
print(type(carry).__name__, float(np.abs(output).sum()))
"""
    name, total = in_a_process(code, tmp_path).split()
    assert name == "LSTMCarry"
    np.testing.assert_allclose(float(total), jnp.abs(step(flax_rnn.zero_carry(CELL, x.shape), x)[1]).sum(), rtol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("portable", [False, True])
def test_executables_need_the_kernels_to_be_known(portable: bool, tmp_path: Path) -> None:
    save = f"""
import contextlib, pickle
import jax, jax.numpy as jnp, flax_rnn
from jax.experimental.serialize_executable import serialize
cell = flax_rnn.LSTMCell({UNITS})
weights = cell.init_params(jax.random.key(0), {FEATURES})
with flax_rnn.portable() if {portable} else contextlib.nullcontext():
    run = jax.jit(lambda x: flax_rnn.rnn(cell, weights, x)).lower(jnp.ones((2, 5, {FEATURES}))).compile()
pickle.dump(serialize(run), open("run.pkl", "wb"))
"""
    load = f"""
import pickle, sys
import jax.numpy as jnp
from jax.experimental.serialize_executable import deserialize_and_load
run = deserialize_and_load(*pickle.load(open("run.pkl", "rb")))
print(float(run(jnp.ones((2, 5, {FEATURES}))).sum()), "flax_rnn" in sys.modules)
"""
    known = "import flax_rnn\nflax_rnn.choose(flax_rnn.LSTMCell(1))\n"
    in_a_process(save, tmp_path)
    total, imported = in_a_process(load if portable else known + load, tmp_path).split()
    expected = flax_rnn.rnn(CELL, WEIGHTS, jnp.ones((2, 5, FEATURES))).sum()
    np.testing.assert_allclose(float(total), expected, rtol=1e-5)
    assert imported == str(not portable)


def test_threads_get_the_numbers_of_one_thread() -> None:
    run = jax.jit(lambda x: flax_rnn.rnn(CELL, WEIGHTS, x, return_sequences=True))
    one_by_one = [run(inputs(rows, 20)) for rows in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        at_once = list(pool.map(lambda rows: run(inputs(rows, 20)), range(1, 9)))
    assert all(bool((one == other).all()) for one, other in zip(one_by_one, at_once, strict=True))


def test_optax_freezes_a_layer_of_linen() -> None:
    params: Any = {"lower": WEIGHTS, "upper": flax_rnn.GRUCell(3).init_params(jax.random.key(1), UNITS)}
    labels: Any = {"lower": "freeze", "upper": "train"}
    optimizer = optax.multi_transform({"train": optax.adam(0.1), "freeze": optax.set_to_zero()}, labels)
    updates: Any = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)[0]
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates["lower"]))
    assert all(leaf.all() for leaf in jax.tree.leaves(updates["upper"]))


def test_within_a_shard_map_one_key_drops_the_same_everywhere() -> None:
    cell = flax_rnn.LSTMCell(UNITS, dropout=0.5)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    x = jnp.ones((jax.device_count(), 3, FEATURES))

    def outputs(own: bool) -> jax.Array:
        def run(x: jax.Array) -> jax.Array:
            key = jax.random.key(2)
            key = jax.random.fold_in(key, jax.lax.axis_index("data")) if own else key
            return flax_rnn.rnn(cell, WEIGHTS, x, dropout_key=key)

        return jax.jit(jax.shard_map(run, mesh=mesh, in_specs=P("data"), out_specs=P("data")))(x)

    same, different = outputs(own=False), outputs(own=True)
    np.testing.assert_allclose(same, jnp.broadcast_to(same[:1], same.shape), atol=1e-6)
    assert len(np.unique(np.asarray(different[:, 0]))) > 1
