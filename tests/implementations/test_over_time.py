"""The loop as it is written for a GPU, which runs on a CPU, too: the same numbers as the plain loop's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from meshes import alone, assert_sharded, randomized, shard, with_gradients
from test_fused import CELLS, loss, problem

import flax_rnn
from flax_rnn.cells.conv_lstm import ConvLSTM2DCell
from flax_rnn.cells.protocol import affine
from flax_rnn.implementations.options import SequenceOptions
from flax_rnn.implementations.over_time import over_time, with_carries


def for_a_gpu(function: Any) -> Any:
    """``function``, traced for a GPU."""

    def run(*arguments: Any) -> Any:
        with flax_rnn.portable("gpu"):
            return jax.jit(lambda *arrays: function(*arrays))(*arguments)

    return run


def assert_close(actual: Any, expected: Any, far: float = 1e-11) -> None:
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=far, atol=far), actual, expected)


@pytest.mark.each(1, at_most=3, full=2)
@pytest.mark.parametrize("steps", [1, 7, 8, 19])
@pytest.mark.parametrize("options", [{}, {"return_sequences": True, "go_backwards": True}, {"unroll": 3}], ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_values_and_gradients(name: str, masked: bool, options: dict[str, Any], steps: int) -> None:
    with jax.enable_x64():
        cell = CELLS[name]
        params, x, carry, mask = problem(cell, steps=steps)
        both = [
            jax.value_and_grad(loss(cell, implementation, mask if masked else None, **options), (0, 1, 2))
            for implementation in ("fused", "scan")
        ]
        assert_close(for_a_gpu(both[0])(params, x, carry), jax.jit(both[1])(params, x, carry))


@pytest.mark.full
def test_it_can_be_differentiated_again() -> None:
    with jax.enable_x64():
        cell = CELLS["LSTM"]
        params, x, carry, mask = problem(cell)

        def slope(implementation: str) -> Any:
            def along(params: Any) -> jax.Array:
                gradients = jax.grad(loss(cell, implementation, mask, unroll=2), (0, 1))(params, x, carry)
                return sum((jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(gradients)), start=jnp.zeros(()))

            return jax.grad(along)

        assert_close(for_a_gpu(slope("fused"))(params), jax.jit(slope("scan"))(params))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_kept_as_it_is(dtype: str) -> None:
    """What is written as float32 comes back in its dtype: the same bits as without."""
    cell = flax_rnn.LSTMCell(6, dtype=dtype, recurrent_dropout=0.3)
    params, x, carry, mask = problem(cell, steps=19)
    carry = flax_rnn.LSTMCarry(carry[0].astype(dtype), carry[1].astype(jnp.float32))
    x = x.astype(dtype)

    def run(params: Any, x: jax.Array) -> Any:
        options: dict[str, Any] = {"return_sequences": True, "return_state": True, "implementation": "fused"}
        return flax_rnn.rnn(cell, params, x, initial_state=carry, mask=mask, **options)

    outputs, last = jax.jit(run)(params, x)
    got, got_last = for_a_gpu(run)(params, x)
    assert got.dtype == outputs.dtype == jnp.dtype(dtype)
    assert [leaf.dtype for leaf in got_last] == [leaf.dtype for leaf in last]
    assert_close(got.astype(jnp.float32), outputs.astype(jnp.float32), 0.02)


class Counting(flax_rnn.SimpleRNNCell):
    """A cell with an integer in its carry, and two features."""

    def initial_carry(self, params: Any, projected: Any) -> Any:
        h = super().initial_carry(params, projected)
        return h, jnp.zeros(h.shape[:-1], jnp.int32)

    def step(self, weights: Any, carry: Any, projected: Any, affine: Any = affine) -> Any:
        h, count = carry
        h, output = super().step(weights, h, projected, affine)
        return (h, count + 1), output * (1 + count[..., None] % 2)


def test_carries_of_several_kinds() -> None:
    """A cell of somebody else: shapes and dtypes that share no array."""
    cell = Counting(6)
    params, x, *_ = problem(flax_rnn.SimpleRNNCell(6), steps=19)

    def run(implementation: str) -> Any:
        def total(params: Any, x: jax.Array) -> Any:
            outputs, (h, count) = flax_rnn.rnn(
                cell, params, x, return_sequences=True, return_state=True, implementation=implementation
            )
            return jnp.sum(jnp.sin(outputs)) + jnp.sum(h), count

        return jax.value_and_grad(total, has_aux=True)

    got, expected = for_a_gpu(run("fused"))(params, x), jax.jit(run("scan"))(params, x)
    assert got[0][1].dtype == jnp.int32 and (got[0][1] == 19).all()
    assert_close(got, expected, 1e-4)


@pytest.mark.full
def test_convolutions() -> None:
    cell = ConvLSTM2DCell(3, 2, recurrent_dropout=0.2)
    params, x = cell.init_params(jax.random.key(0), 2), jax.random.normal(jax.random.key(1), (2, 9, 4, 4, 2))

    def run(implementation: str) -> Any:
        def total(params: Any) -> jax.Array:
            key = jax.random.key(2)
            return jnp.sum(flax_rnn.rnn(cell, params, x, dropout_key=key, implementation=implementation) ** 2)

        return jax.grad(total)

    assert_close(for_a_gpu(run("fused"))(params), jax.jit(run("scan"))(params), 1e-5)


@pytest.mark.full
def test_under_vmap_and_in_chunks() -> None:
    cell = CELLS["GRU"]
    params, x, carry, mask = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), problem(cell, steps=19))
    mask = mask.astype(bool)
    many = jnp.stack([x, 2 * x, -x])

    def gradients(implementation: str, **options: Any) -> Any:
        return jax.vmap(lambda x: jax.grad(loss(cell, implementation, mask, **options))(params, x, carry))

    expected = jax.jit(gradients("scan"))(many)
    assert_close(for_a_gpu(gradients("fused"))(many), expected, 1e-4)
    assert_close(for_a_gpu(gradients("fused", checkpoint_every=8))(many), expected, 1e-4)


@pytest.mark.full
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_on_a_mesh(kind: Any) -> None:
    cell = CELLS["LSTM"]
    params = randomized(jax.eval_shape(lambda: cell.init_params(jax.random.key(0), 4)))
    x = np.float32(np.random.default_rng(3).normal(size=(8, 19, 4)))

    def run(implementation: str) -> Any:
        options: dict[str, Any] = {"dropout_key": jax.random.key(7), "return_sequences": True, "return_state": True}
        return with_gradients(lambda w, x: flax_rnn.rnn(cell, w, x, implementation=implementation, **options))

    expected = alone(run("scan"), params, x)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        replicated = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        gradients, result = for_a_gpu(run("fused"))(replicated, shard(mesh, x))
        assert_close((gradients, result), expected, 1e-5)
        assert_sharded(mesh, result)


def test_it_is_one_array_of_eight_steps_that_an_iteration_writes() -> None:
    def run(x: jax.Array) -> Any:
        return with_carries(
            lambda carry, x: ((carry[0] + x, carry[1] * x), (carry[0] + x, x * x)),
            (x[0], x[1]), x, SequenceOptions(), reverse=False,
        )  # fmt: skip

    x = jnp.asarray(np.random.default_rng(0).normal(size=(24, 2, 3)), jnp.float32)
    with flax_rnn.portable("gpu"):
        loops = [e for e, _ in oracle.equations(jax.make_jaxpr(run)(x).jaxpr) if e.primitive.name == "scan"]
    (loop,) = loops
    assert [v.aval.shape for v in loop.outvars] == [(2, 3)] * 2 + [(24, 4, 2, 3)]
    assert loop.params["unroll"] == 8
    assert_close(for_a_gpu(run)(x), jax.jit(run)(x), 0.0)


@pytest.mark.parametrize("reverse", [False, True])
def test_carries_ahead_of_steps(reverse: bool) -> None:
    xs = jnp.arange(1.0, 12.0)
    for run in (for_a_gpu, jax.jit):
        last, ys, ahead = run(
            lambda xs: with_carries(lambda c, x: (c + x, c * x), jnp.zeros(()), xs, SequenceOptions(), reverse)
        )(xs)
        order = xs[::-1] if reverse else xs
        expected = jnp.cumsum(order) - order
        assert last == 66 and (ahead == (expected[::-1] if reverse else expected)).all()
        assert (ys == ahead * xs).all()


def test_without_anything_kept() -> None:
    run = for_a_gpu(lambda xs: over_time(lambda c, x: (c + x, None), jnp.zeros(()), xs, SequenceOptions(), False))
    assert run(jnp.arange(20.0)) == (190, None)
