"""`jax.vmap`, `pmap`, `shard_map`, shards of a batch and donated buffers: the bits are those of plain calls."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import flax_rnn
from tests.stress.problems import CELLS, Row, numbers, problem, same

DEVICES = 4
SIZES = (5, 7, 4, 24)


def run(size: int) -> Iterator[Row]:
    repeats = max(1, size // 100)
    for what in ("jax.vmap", "jax.pmap", "jax.shard_map", "jax.lax.map"):
        right = [same(*_mapped(what, name, function)) for name in CELLS for function in ("forward", "gradient")]
        yield Row(f"{what} over {DEVICES} sets of weights and inputs", len(right), right.count(False))
    yield from _sharded(repeats)
    yield from _donated(repeats * 10)


def _mapped(what: str, name: str, function: str) -> tuple[Any, list[Any]]:
    """What a call for all of them returns, and one by one the same."""
    ones = [problem(name, SIZES, seed=seed) for seed in range(DEVICES)]
    plain = jax.jit(getattr(ones[0], function))
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *[plain(*one.arguments) for one in ones])
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *[one.arguments for one in ones])
    call: Any
    match what:
        case "jax.vmap":
            call = jax.jit(jax.vmap(plain))
        case "jax.pmap":
            call = jax.pmap(plain)
        case "jax.lax.map":
            call = jax.jit(lambda *stacked: jax.lax.map(lambda one: plain(*one), stacked))
        case _:
            mesh = jax.make_mesh((DEVICES,), ("shard",), axis_types=(jax.sharding.AxisType.Auto,))
            each = lambda *arrays: jax.tree.map(  # noqa: E731
                lambda leaf: leaf[None], plain(*jax.tree.map(lambda leaf: leaf[0], arrays))
            )
            call = jax.jit(jax.shard_map(each, mesh=mesh, in_specs=P("shard"), out_specs=P("shard")))
    return call(*stacked), numbers(expected)


def _sharded(repeats: int) -> Iterator[Row]:
    """A batch over devices: each runs the kernels for its rows, whose outputs are those of a batch of these alone."""
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, replicated = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    failed = 0
    for name in CELLS:
        cell = CELLS[name](24)
        one = problem(name, (DEVICES * 5, 7, 4, 24))
        weights, x, mask, _ = one.arguments

        def forward(weights: Any, x: Any, mask: Any, cell: Any = cell) -> Any:
            return flax_rnn.rnn(cell, weights, x, mask=mask, return_sequences=True, implementation="native")

        parts = [jax.jit(forward)(weights, x[at : at + 5], mask[at : at + 5]) for at in range(0, len(x), 5)]
        arguments = jax.device_put((weights, x, mask), (replicated, rows, rows))
        call = jax.jit(forward)
        failed += sum(not same(call(*arguments), [np.concatenate(parts)]) for _ in range(repeats))
    yield Row(f"a batch over {DEVICES} devices", len(CELLS) * repeats, failed)


def _donated(steps: int) -> Iterator[Row]:
    """Inputs, states and weights that give their memory to outputs, states and new weights, step by step."""
    failed = 0
    for name in CELLS:
        cell = CELLS[name](16)
        weights, x, mask, _ = problem(name, (6, 5, 16, 16)).arguments

        def step(weights: Any, x: Any, state: Any, mask: Any, cell: Any = cell) -> Any:
            def loss(weights: Any) -> Any:
                result = flax_rnn.rnn(
                    cell, weights, x, initial_state=state, mask=mask, return_sequences=True, return_state=True,
                    implementation="native",
                )  # fmt: skip
                return jnp.sum(result[0] ** 2), result

            gradients, (outputs, state) = jax.grad(loss, has_aux=True)(weights)
            return jax.tree.map(lambda w, d: w - 1e-3 * d, weights, gradients), outputs, state

        state: Any = [np.zeros((6, 16), np.float32)] * (2 if name == "LSTM" else 1)
        state = flax_rnn.LSTMCarry(*state) if name == "LSTM" else state[0]
        kept = given = jax.tree.map(jnp.array, (weights, x, state))
        given = jax.tree.map(jnp.array, given)
        plain, donating = jax.jit(step), jax.jit(step, donate_argnums=(0, 1, 2))
        for _ in range(steps):
            kept, given = plain(*kept, mask), donating(*given, mask)
            failed += not same(given, numbers(kept))
    yield Row("donated weights, inputs and states, step after step", len(CELLS) * steps, failed)
