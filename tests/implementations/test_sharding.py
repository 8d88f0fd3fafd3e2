"""Batches that are sharded over devices, on meshes with Auto and with Explicit axes: values, gradients, shardings."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import chex
import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import alone, assert_sharded, loss_of, randomized, shard, with_gradients

import flax_rnn as core
import flax_rnn.linen as linen_face
import flax_rnn.nnx as nnx_face

B, T, D, H = 8, 3, 3, 2
KEY = jax.random.key(7)
RNG = np.random.default_rng(9)
X: Any = np.float32(RNG.normal(size=(B, T, D)))
MASK: Any = RNG.random((B, T)) < 0.6
LENGTHS = np.array([0, 1, 2, 3, 3, 1, 2, 3])
STATES: Any = np.float32(RNG.normal(size=(2, B, H)))
DROPOUT: dict[str, Any] = {"dropout": 0.4, "recurrent_dropout": 0.3}

CELLS: dict[str, Any] = {
    "simple": core.SimpleRNNCell(H, **DROPOUT),
    "lstm": core.LSTMCell(H, **DROPOUT),
    "gru": core.GRUCell(H, **DROPOUT),
    "gru before": core.GRUCell(H, reset_after=False),
}
TOP: Any = core.GRUCell(3, dropout=0.4)
CELLS["stack"] = core.StackedRNNCells((CELLS["lstm"], TOP))


@pytest.fixture(params=[AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def mesh(request: pytest.FixtureRequest) -> Iterator[Any]:
    mesh = jax.make_mesh((4,), ("data",), axis_types=(request.param,))
    with jax.set_mesh(mesh):
        yield mesh


def weights_of(kind: str) -> Any:
    return randomized(jax.eval_shape(lambda: CELLS[kind].init_params(KEY, D)))


CASES: dict[str, dict[str, Any]] = {
    "last": {},
    "mask": {"mask": MASK},
    "mask, zeros": {"mask": MASK, "return_sequences": True, "zero_output_for_mask": True, "go_backwards": True},
    "lengths": {"seq_lengths": LENGTHS, "return_sequences": True, "unroll": True},
}
EVERYTHING: dict[str, Any] = {"mask": MASK, "dropout_key": KEY, "return_sequences": True}


# The kernels, where they can be had, and XLA.
both_ways = pytest.mark.parametrize("how", ["auto", "fused"])


def run_case(case: str, how: str) -> Callable[..., Any]:
    """``(weights, x, masks or lengths)`` to the result."""
    fixed = {name: value for name, value in CASES[case].items() if name not in ("mask", "seq_lengths")}
    options: dict[str, Any] = {"return_state": True, "implementation": how, **fixed}
    return lambda weights, x, arrays: core.rnn(CELLS["lstm"], weights, x, **arrays, **options)


def arrays_of(case: str) -> dict[str, Any]:
    return {name: value for name, value in CASES[case].items() if name in ("mask", "seq_lengths")}


@functools.cache
def expected_case(case: str) -> Any:
    return alone(run_case(case, "scan"), weights_of("lstm"), X, arrays_of(case))


@pytest.mark.each(1, at_most=3)
@both_ways
@pytest.mark.parametrize("case", CASES)
def test_options(mesh: Any, case: str, how: str) -> None:
    """Masks and lengths may be sharded like the inputs, or not."""
    arrays, run = arrays_of(case), jax.jit(run_case(case, how))
    for given in [arrays, shard(mesh, arrays)] if arrays else [arrays]:
        result = run(weights_of("lstm"), shard(mesh, X), given)
        chex.assert_trees_all_close(result, expected_case(case), rtol=1e-5, atol=1e-6)
        assert_sharded(mesh, result)


def run_everything(kind: str, how: str) -> Callable[..., Any]:
    options: dict[str, Any] = {"return_state": True, "implementation": how, **EVERYTHING}
    return with_gradients(lambda w, x: core.rnn(CELLS[kind], w, x, **options))


@functools.cache
def expected_everything(kind: str) -> Any:
    return alone(run_everything(kind, "scan"), weights_of(kind), X)


@pytest.mark.each(1, at_most=2)
@both_ways
@pytest.mark.parametrize("kind", CELLS)
def test_values_and_gradients_of_every_cell(mesh: Any, kind: str, how: str) -> None:
    replicated = jax.device_put(weights_of(kind), NamedSharding(mesh, P()))
    gradients, result = jax.jit(run_everything(kind, how))(replicated, shard(mesh, X))
    chex.assert_trees_all_close((gradients, result), expected_everything(kind), rtol=1e-5, atol=1e-5)
    assert_sharded(mesh, result)


def test_initial_states_and_time_major_inputs(mesh: Any) -> None:
    """A given state is sharded by the user; only zeros take the sharding of the inputs by themselves."""

    def run(weights: Any, x: Any, state: Any) -> Any:
        options: dict[str, Any] = {"return_sequences": True, "return_state": True, "time_major": True, "mask": MASK.T}
        return core.rnn(CELLS["lstm"], weights, x, initial_state=state, **options)

    weights, x, state = weights_of("lstm"), X.swapaxes(0, 1), tuple(STATES)
    result = jax.jit(run)(weights, shard(mesh, x, 1), shard(mesh, state))
    chex.assert_trees_all_close(result, alone(run, weights, x, state), rtol=1e-5, atol=1e-6)
    assert_sharded(mesh, result[0], 1)
    assert_sharded(mesh, result[1])


@pytest.mark.each(1, at_most=1)
def test_eager(mesh: Any) -> None:
    result = core.rnn(CELLS["stack"], weights_of("stack"), shard(mesh, X), return_state=True, **EVERYTHING)
    chex.assert_trees_all_close(result, expected_everything("stack")[1], rtol=1e-5, atol=1e-5)
    assert_sharded(mesh, result)


def run_both(weights: Any, x: Any) -> Any:
    return core.bidirectional((CELLS["gru"], CELLS["lstm"]), weights, x, return_state=True, **EVERYTHING)


@functools.cache
def expected_both() -> Any:
    return alone(run_both, (weights_of("gru"), weights_of("lstm")), X)


@pytest.mark.each(1, at_most=1)
def test_both_directions(mesh: Any) -> None:
    result = jax.jit(run_both)((weights_of("gru"), weights_of("lstm")), shard(mesh, X))
    chex.assert_trees_all_close(result, expected_both(), rtol=1e-5, atol=1e-6)
    assert_sharded(mesh, result)


FULL: dict[str, Any] = {"return_sequences": True, "return_state": True}


@functools.cache
def expected_gru() -> Any:
    cell: Any = core.GRUCell(H)
    return alone(with_gradients(lambda w, x: core.rnn(cell, w, x, mask=MASK, **FULL)), weights_of("gru"), X)


@pytest.mark.each(1, at_most=1)
def test_linen(mesh: Any) -> None:
    layer = linen_face.GRU(H, **FULL)
    variables = jax.jit(layer.init)(KEY, shard(mesh, X))
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(variables))
    variables = {"params": {"cell": weights_of("gru")}}
    run = with_gradients(lambda variables, x: layer.apply(variables, x, mask=MASK))
    gradients, result = jax.jit(run)(variables, shard(mesh, X))
    actual = gradients["params"]["cell"], result
    chex.assert_trees_all_close(actual, expected_gru(), rtol=1e-5, atol=1e-5)
    assert_sharded(mesh, result)


@pytest.mark.each(1, at_most=1)
def test_linen_dropout(mesh: Any) -> None:
    layer = linen_face.RNN(cell=[linen_face.SimpleRNNCell(H, **DROPOUT)])
    variables = {"params": {"cell": {"cells_0": weights_of("simple")}}}

    def run(x: Any) -> Any:
        return layer.apply(variables, x, training=True, rngs={"dropout": KEY})

    result = jax.jit(run)(shard(mesh, X))
    chex.assert_trees_all_close(result, alone(run, X), rtol=1e-5, atol=1e-6)
    assert_sharded(mesh, result)


@pytest.mark.each(1, at_most=1)
def test_nnx(mesh: Any) -> None:
    layer = nnx_face.GRU(D, H, rngs=nnx.Rngs(0), **FULL)
    nnx.update(layer.cell, weights_of("gru"))
    run = nnx.grad(lambda model, x: loss_of(model(x, mask=MASK)), has_aux=True)
    gradients, result = nnx.jit(run)(layer, shard(mesh, X))
    actual = nnx.to_pure_dict(gradients)["cell"], result
    chex.assert_trees_all_close(actual, expected_gru(), rtol=1e-5, atol=1e-5)
    assert_sharded(mesh, result)


@pytest.mark.each(1, at_most=1)
def test_nnx_dropout_and_both_directions(mesh: Any) -> None:
    forward = nnx_face.GRU(D, H, rngs=nnx.Rngs(0), **FULL, **DROPOUT)
    backward = nnx_face.LSTM(D, H, go_backwards=True, rngs=nnx.Rngs(0), **FULL, **DROPOUT)
    nnx.update(forward.cell, weights_of("gru"))
    nnx.update(backward.cell, weights_of("lstm"))
    both = nnx_face.Bidirectional(forward, backward_layer=backward)
    result = nnx.jit(lambda model, x: model(x, mask=MASK, rngs=KEY))(both, shard(mesh, X))
    chex.assert_trees_all_close(result, expected_both(), rtol=1e-5, atol=1e-6)
    assert_sharded(mesh, result)
