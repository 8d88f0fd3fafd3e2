"""Sizes that are none, and those beyond all measure, in processes with a limit of memory.

    python -m tests.faults.sizes KIND CELL WAY

runs one kind, for a cell and an implementation, or for ``all``.
"""

import itertools
import resource
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tests.faults import plain, programs
from tests.faults.verdicts import Case, Setting, Verdict, expect

CELLS = ("SimpleRNN", "LSTM", "GRU")
WAYS = ("native", "fused", "scan")
STEPS = 2_000_000


def cases(setting: Setting) -> Iterator[Case]:
    """Each kind: the small ones in one process, the large ones in one each."""
    for name, kind in KINDS.items() if not setting.quick else [("no_rows", KINDS["no_rows"])]:
        every = [*itertools.product(CELLS, kind.ways)]
        for chosen in [("all", "all")] if kind.are_small else every:
            command = [sys.executable, "-m", "tests.faults.sizes", name, *chosen]
            ended = programs.run(command, programs.environment(), memory=kind.memory << 30, seconds=900)
            for cell, way in every if kind.are_small else [chosen]:
                yield _judge(kind.fault, ended, f"{name} {cell} {way}")


def _judge(fault: str, ended: programs.Ended, name: str) -> Case:
    said = {f"{name}: right": Verdict.SURVIVED, f"{name}: clear": Verdict.CLEAR}
    found = [verdict for line, verdict in said.items() if line in ended.text]
    # A process that is killed may have said all that it has to say before.
    is_fine = ended.code == 0 and not programs.has_traceback(ended.text) and len(found) == 1
    return expect(fault, is_fine, f"{name}: {ended.code}: {ended.last}", *found[:1])


def millions(cell: str, way: str) -> None:
    """Two million steps, forward and backward."""
    import jax

    import flax_rnn

    made, params, x = plain.problem(cell, 1, STEPS, 1, 1)
    run: Any = jax.jit(lambda params, x: flax_rnn.rnn(made, params, x, implementation=way)[0, 0])
    found = float(run(params, x))
    expected = plain.scalar(cell, params, x)
    _same(found, expected, 1e-4)
    _within(1 << 30)
    gradient = jax.jit(jax.grad(run))(params, x)
    step = 1e-3
    around = [
        plain.scalar(cell, params | {"kernel": params["kernel"].astype("f8") + sign * step}, x) for sign in (1, -1)
    ]
    _same(float(np.sum(gradient["kernel"])), (around[0] - around[1]) / (2 * step), 2e-2)
    _within(3 << 30)


def one_unit(cell: str, way: str) -> None:
    """A single unit, against the loop."""
    import jax

    import flax_rnn

    made, params, x = plain.problem(cell, 1, 50, 1, 1)
    found = jax.jit(lambda params, x: flax_rnn.rnn(made, params, x, implementation=way))(params, x)
    _same(float(found[0, 0]), plain.scalar(cell, params, x), 1e-5)


def many_units(cell: str, way: str) -> None:
    """10,000 units, two steps; from a state of zero, the first has no part of the recurrent kernel."""
    import jax

    import flax_rnn

    made, params, x = plain.problem(cell, 1, 2, 2, 10_000)
    found = jax.jit(lambda params, x: flax_rnn.rnn(made, params, x, implementation=way, return_sequences=True))(
        params, x
    )
    found = np.asarray(found, "f8")[0]
    h = c = np.zeros(10_000)
    for step in range(2):
        h, c = plain.step(cell, params, x[0, step], h, c)
        _same(found[step], h, 1e-4)


def no_rows(cell: str, way: str) -> None:
    """A batch of none, forward and backward."""
    import jax

    import flax_rnn

    made, params, x = plain.problem(cell, 0, 5, 3, 4)

    def loss(params: Any, x: Any) -> Any:
        found, state = flax_rnn.rnn(made, params, x, implementation=way, return_sequences=True, return_state=True)
        return found.sum(), (found, state)

    (dw, dx), (found, state) = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)
    assert found.shape == (0, 5, 4) and dx.shape == x.shape
    assert all(leaf.shape == (0, 4) for leaf in jax.tree.leaves(state))
    assert all(not np.any(leaf) and leaf.shape == params[name].shape for name, leaf in dw.items())


def no_length(cell: str, way: str) -> None:
    """Sequences of length 0 among others give their initial state, and no gradient."""
    import jax

    import flax_rnn

    made, params, x = plain.problem(cell, 3, 5, 3, 4)
    start = jax.numpy.asarray(np.random.default_rng(1).normal(size=(3, 4)), "f4")
    state: Any = flax_rnn.LSTMCarry(start, 2 * start) if cell == "LSTM" else start

    def loss(params: Any, x: Any, lengths: Any) -> Any:
        found, last = flax_rnn.rnn(
            made, params, x, initial_state=state, seq_lengths=lengths, implementation=way, return_state=True
        )
        return found.sum(), (found, last)

    grad = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (_, dx), (_, last) = grad(params, x, np.array([0, 5, 2], "i4"))
    for leaf, first in zip(jax.tree.leaves(last), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(leaf[0], first[0])
    assert not np.any(dx[0]) and np.any(dx[1]) and not np.any(dx[2, 2:])
    (dw, dx), (_, last) = grad(params, x, np.zeros(3, "i4"))
    assert not np.any(dx) and not any(map(np.any, dw.values()))
    np.testing.assert_array_equal(jax.tree.leaves(last)[0], start)


def no_steps(cell: str, way: str) -> None:
    """A time axis of 0 steps is refused."""
    import flax_rnn

    made, params, x = plain.problem(cell, 2, 0, 3, 4)
    flax_rnn.rnn(made, params, x, implementation=way)


def no_units(cell: str, way: str) -> None:
    """A cell of 0 units is refused."""
    import flax_rnn

    getattr(flax_rnn, f"{cell}Cell")(0)


def absurd_units(cell: str, way: str) -> None:
    """A layer whose weights no machine holds."""
    import jax
    from flax import nnx

    import flax_rnn.nnx

    jax.block_until_ready(nnx.state(getattr(flax_rnn.nnx, cell)(1 << 20, 1 << 22, rngs=nnx.Rngs(0))))


def absurd_outputs(cell: str, way: str) -> None:
    """Outputs that are larger than the memory, of inputs that are not."""
    import jax

    import flax_rnn

    made, params, _ = plain.problem(cell, 1, 1, 1, 2000)
    many = jax.numpy.zeros((1, 2_000_000, 1), "f4")
    jax.block_until_ready(
        jax.jit(lambda p, x: flax_rnn.rnn(made, p, x, implementation=way, return_sequences=True))(params, many)
    )


def absurd_batch(cell: str, way: str) -> None:
    """States that are larger than the memory."""
    import jax

    import flax_rnn

    made, params, _ = plain.problem(cell, 1, 1, 1, 500)
    many = jax.numpy.zeros((8_000_000, 1, 1), "f4")
    jax.block_until_ready(jax.jit(lambda p, x: flax_rnn.rnn(made, p, x, implementation=way))(params, many))


def _same(found: Any, expected: Any, tolerance: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def _within(most: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    assert used < most, f"it took {used >> 20} MiB, expected less than {most >> 20}"


class Kind(NamedTuple):
    """What is tried.

    Attributes:
      fault: the row of the table.
      run: what to run, for a cell and an implementation.
      memory: the limit of memory in GiB.
      ways: the implementations.
      is_refused: whether an error is what it has to end with.
      are_small: whether one process can run all of them.
    """

    fault: str
    run: Callable[[str, str], None]
    memory: int = 16
    ways: tuple[str, ...] = WAYS
    is_refused: bool = False
    are_small: bool = True


KINDS = {
    kind.run.__name__: kind
    for kind in (
        Kind("1 unit", one_unit),
        Kind("a batch of 0", no_rows),
        Kind("lengths of 0", no_length),
        Kind("0 steps", no_steps, is_refused=True),
        Kind("0 units", no_units, ways=("native",), is_refused=True),
        Kind("10,000 units", many_units, ways=("native", "scan"), are_small=False),
        Kind(f"{STEPS:,} steps, forward and backward", millions, are_small=False),
        Kind("out of memory: weights", absurd_units, 12, ("native",), is_refused=True, are_small=False),
        Kind("out of memory: outputs", absurd_outputs, 12, is_refused=True, are_small=False),
        Kind("out of memory: states", absurd_batch, 12, is_refused=True, are_small=False),
    )
}


def try_one(name: str, cell: str, way: str) -> str:
    """Runs one; an error of the kinds that are documented is a line."""
    kind = KINDS[name]
    try:
        kind.run(cell, way)
    except (ValueError, MemoryError, RuntimeError) as error:
        if not kind.is_refused or (isinstance(error, RuntimeError) and "Out of memory" not in str(error)):
            raise
        return f"clear {type(error).__name__}: {error}"
    assert not kind.is_refused, "it should have been refused"
    return "right"


def main(name: str, cell: str, way: str) -> None:
    """Says how each of them ended."""
    for one in CELLS if cell == "all" else (cell,):
        for by in KINDS[name].ways if way == "all" else (way,):
            print(f"{name} {one} {by}: {try_one(name, one, by)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:4])
