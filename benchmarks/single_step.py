"""Microseconds of a single step, one frame a call, as in streaming: the ways to ask for it, and torch's cell.

All are in one process and take turns; each call waits for its result, and hands the state on to the next one. Before
that the output of the first step is compared with torch's, of the same weights.

    python -m benchmarks.single_step --batch 1 --units 128
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import flax_rnn
import flax_rnn.nnx
from benchmarks import command
from benchmarks.record import RESULTS, write
from benchmarks.tables import markdown
from benchmarks.timing import interleave, machine, repeat
from flax_rnn import convert

CELLS: dict[str, Any] = {"lstm": "LSTM", "gru": "GRU"}
Step = Callable[[], Any]
"""A call that goes on where the last one ended, and returns the output."""


def carried(step: Callable[..., Any], state: Any, *arguments: Any) -> Step:
    """``step(state, *arguments) -> (output, state)``, called again and again."""
    kept = [state]

    def call() -> Any:
        output, kept[0] = step(kept[0], *arguments)
        return jax.block_until_ready(output)

    return call


def ours(cell: Any, weights: Any, x: jax.Array) -> dict[str, Step]:
    """The core: a cell, or a layer of one step."""
    state, sequence = flax_rnn.zero_carry(cell, x.shape), x[:, None]

    def one_step(state: Any, weights: Any) -> Any:
        new, output = flax_rnn.apply_cell(cell, weights, state, x)
        return output, new

    def layer(state: Any, weights: Any) -> Any:
        return flax_rnn.rnn(cell, weights, sequence, initial_state=state, return_state=True)

    return {
        "apply_cell": carried(jax.jit(one_step), state, weights),
        "apply_cell, weights closed over": carried(jax.jit(lambda state: one_step(state, weights)), state),
        "rnn": carried(jax.jit(layer), state, weights),
        "rnn, weights closed over": carried(jax.jit(lambda state: layer(state, weights)), state),
    }


def stateful(face: Any, features: int, units: int, weights: Any, x: jax.Array) -> dict[str, Step]:
    """A layer of nnx that keeps its state, in what moves it in and out of a compiled function."""
    sequence = x[:, None]

    def made() -> Any:
        layer = face(features, units, stateful=True, rngs=nnx.Rngs(0))
        for name, value in weights.items():
            getattr(layer.cell, name)[...] = value
        layer.reset_state(batch=x.shape[0])
        return layer

    run = nnx.jit(lambda layer: layer(sequence))
    graph, params, state = nnx.split(made(), nnx.Param, ...)

    def pure(state: Any, params: Any) -> Any:
        layer = nnx.merge(graph, params, state)
        return layer(sequence), nnx.state(layer, nnx.Not(nnx.Param))

    jitted, cached = made(), nnx.cached_partial(run, made())
    return {
        "stateful, nnx.split and jax.jit": carried(jax.jit(pure), state, params),
        "stateful, nnx.cached_partial": lambda: jax.block_until_ready(cached()),
        "stateful, nnx.jit": lambda: jax.block_until_ready(run(jitted)),
    }


def torchs(name: str, cell: Any, weights: Any, x: jax.Array) -> Step:
    """The same of torch, without gradients."""
    import torch

    module = getattr(torch.nn, f"{name}Cell")(x.shape[-1], cell.units)
    tensors = convert.to_torch(weights)
    module.load_state_dict({key.removesuffix("_l0"): torch.tensor(value) for key, value in tensors.items()})
    inputs, zeros = torch.tensor(np.asarray(x)), torch.zeros(x.shape[0], cell.units)
    kept: list[Any] = [(zeros, zeros) if name == "LSTM" else zeros]

    def call() -> Any:
        with torch.no_grad():
            kept[0] = module(inputs, kept[0])
        return kept[0][0] if name == "LSTM" else kept[0]

    return call


def measure(name: str, batch: int, features: int, units: int, rounds: int) -> dict[str, float]:
    """Microseconds of each, of one cell."""
    rng = np.random.default_rng(0)
    kind = CELLS[name]
    cell = getattr(flax_rnn, f"{kind}Cell")(units)
    weights = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.1, jnp.float32),
        cell.init_params(jax.random.key(0), features),
    )
    x = jnp.asarray(rng.normal(size=(batch, features)), jnp.float32)
    steps = {"torch": torchs(kind, cell, weights, x), **ours(cell, weights, x)}
    steps |= stateful(getattr(flax_rnn.nnx, kind), features, units, weights, x)
    first = {way: np.asarray(step()) for way, step in steps.items()}
    for way, output in first.items():
        np.testing.assert_allclose(output, first["torch"], atol=1e-5, err_msg=way)
    turns = {way: lambda step=step: repeat(step, 200) for way, step in steps.items()}
    return {way: 1e6 * timing.median for way, timing in interleave(turns, rounds).items()}


def table(results: dict[str, dict[str, float]]) -> str:
    """The results as Markdown."""
    ways = next(iter(results.values()))
    rows = [
        [way, *(f"{found[way]:.0f} ({found[way] / found['torch']:.2f})" for found in results.values())] for way in ways
    ]
    return markdown(["way", *(f"{name}, µs (times torch)" for name in results)], rows, 1)


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints and writes."""
    parser = command.parser("single_step", __doc__)
    parser.add_argument("--batch", type=int, default=1, help="[%(default)s]")
    parser.add_argument("--units", type=int, default=128, help="and features [%(default)s]")
    parser.add_argument("--rounds", type=int, default=21, help="turns of each [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="a few turns, nothing written")
    parser.add_argument("--output", type=Path, default=RESULTS / "single_step", help="of the results, without ending")
    options = parser.parse_args(arguments)
    rounds = 2 if options.quick else options.rounds
    results = {name: measure(name, options.batch, options.units, options.units, rounds) for name in CELLS}
    print(table(results))
    if options.quick:
        return
    called = command.line("single_step", arguments)
    here = machine()
    everything = {"command": called, "machine": here, "microseconds": results}
    where = f"{here['processor']} with {here['instruction_set']}"
    write(options.output, everything, f"# Single steps\n\n`{called}` on {where}\n\n{table(results)}")


if __name__ == "__main__":
    main()
