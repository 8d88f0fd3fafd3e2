"""Our cells in a model that somebody wrote for Flax's cells, and Flax's cells in our layers, with equal numbers.

Flax's ``RNN`` runs our cells as they are; ``flax_rnn.convert`` takes trained weights along. The other way round, our
``RNN`` runs Flax's cells, which then have what our layers have, such as masks with holes.

    python examples/in_flax.py

prints the largest differences of outputs, and of gradients with respect to the inputs: all are rounding.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

import flax_rnn.linen
import flax_rnn.nnx
from flax_rnn import convert

FEATURES, UNITS = 8, 16


class LinenModel(nn.Module):
    """What somebody wrote: it gets a cell, and knows nothing of us."""

    cell: Any

    @nn.compact
    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        """A number for each step of each row."""
        outputs: Any = nn.RNN(self.cell, name="rnn")(x, seq_lengths=lengths)
        return nn.Dense(1, name="dense")(outputs)


class NnxModel(nnx.Module):
    """The same in nnx."""

    def __init__(self, cell: Any, rngs: nnx.Rngs):
        self.rnn = nnx.RNN(cell)
        self.dense = nnx.Linear(UNITS, 1, rngs=rngs)

    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        """A number for each step of each row."""
        outputs: Any = self.rnn(x, seq_lengths=lengths)
        return self.dense(outputs)


def difference(x: jax.Array, one: Callable[[jax.Array], Any], other: Callable[[jax.Array], Any]) -> float:
    """The largest one of outputs and of gradients."""

    def both(run: Callable[[jax.Array], Any]) -> Any:
        return run(x), jax.grad(lambda x: jnp.sum(jnp.sin(run(x))))(x)

    results = jax.jit(lambda: (both(one), both(other)))()
    differences = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), *results)
    return float(max(jax.tree.leaves(differences)))


def function(model: nnx.Module) -> Callable[..., Any]:
    """``model`` as a function of its inputs, which jax can differentiate."""
    graph, state = nnx.split(model)

    def call(*args: Any, **kwargs: Any) -> Any:
        model: Any = nnx.merge(graph, state, copy=True)
        return model(*args, **kwargs)

    return call


def in_linen(x: jax.Array, lengths: jax.Array) -> dict[str, float]:
    """Ours in theirs, and theirs in ours."""
    theirs, ours = LinenModel(nn.OptimizedLSTMCell(UNITS)), LinenModel(flax_rnn.linen.LSTMCell(UNITS))
    params: Any = theirs.init(jax.random.key(0), x, lengths)["params"]
    converted = params | {"cell": convert.from_flax(params["cell"])}
    layer = flax_rnn.linen.RNN(cell=nn.OptimizedLSTMCell(UNITS), return_sequences=True)
    return {
        "our LSTM cell in a linen model": difference(
            x,
            lambda x: ours.apply({"params": converted}, x, lengths),
            lambda x: theirs.apply({"params": params}, x, lengths),
        ),
        "linen's LSTM cell in our RNN": difference(
            x,
            lambda x: layer.apply({"params": {"cell": params["cell"]}}, x),
            lambda x: nn.RNN(nn.OptimizedLSTMCell(UNITS)).apply({"params": {"cell": params["cell"]}}, x),
        ),
    }


def in_nnx(x: jax.Array, lengths: jax.Array) -> dict[str, float]:
    """The same in nnx, and what a mask with holes does to a cell of Flax."""
    rngs = nnx.Rngs(0)
    cell = nnx.GRUCell(FEATURES, UNITS, rngs=rngs)
    theirs, ours = NnxModel(cell, rngs), NnxModel(flax_rnn.nnx.GRUCell(FEATURES, UNITS, rngs=rngs), rngs)
    nnx.update(ours.rnn.cell, convert.from_flax(nnx.to_pure_dict(nnx.state(cell, nnx.Param))))
    ours.dense = theirs.dense
    model, flax_model = function(ours), function(theirs)
    layer, flax_layer = function(flax_rnn.nnx.RNN(cell, return_sequences=True)), function(nnx.RNN(cell))
    holes = jnp.arange(x.shape[1]) % 3 != 1
    mask = jnp.broadcast_to(holes, x.shape[:2])
    return {
        "our GRU cell in an nnx model": difference(x, lambda x: model(x, lengths), lambda x: flax_model(x, lengths)),
        "nnx's GRU cell in our RNN": difference(x, layer, flax_layer),
        "the same, with holes in the mask": difference(
            x, lambda x: layer(x, mask=mask)[:, holes], lambda x: flax_layer(x[:, holes])
        ),
    }


def main(rows: int = 4, steps: int = 20) -> dict[str, float]:
    """Prints and returns the differences."""
    x = jax.random.normal(jax.random.key(1), (rows, steps, FEATURES))
    lengths = jnp.arange(rows) + steps - rows + 1
    differences = in_linen(x, lengths) | in_nnx(x, lengths)
    for what, value in differences.items():
        print(f"{what:>32}: {value:.1e}")
    return differences


if __name__ == "__main__":
    main()
