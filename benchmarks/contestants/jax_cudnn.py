"""cuDNN as JAX offers it: ``jax.experimental.rnn``, which is an LSTM in float32 or TF32 and needs a GPU."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import Case, Layers
from benchmarks.contestants import with_jax
from benchmarks.contestants.interface import Run, refuse
from flax_rnn.convert import from_torch, to_torch


def flat(layers: Layers) -> np.ndarray:
    """The weights as one vector: the matrices of all cells ahead of their biases."""
    state = to_torch(layers)
    return np.concatenate([state[name].ravel() for name in order(state)])


def unflat(vector: np.ndarray, layers: Layers) -> Layers:
    """The inverse of ``flat``, for the shapes of ``layers``; each gradient of a bias is there twice, and taken once."""
    shapes = {name: array.shape for name, array in to_torch(layers).items()}
    names = order(shapes)
    parts = np.split(vector, np.cumsum([np.prod(shapes[name]) for name in names])[:-1])
    state = {name: part.reshape(shapes[name]) for name, part in zip(names, parts, strict=True)}
    return from_torch({name: 0 * array if "bias_hh" in name else array for name, array in state.items()})


def order(state: Any) -> list[str]:
    """Names of torch's parameters in cuDNN's order."""
    return [*filter(lambda name: "weight" in name, state), *filter(lambda name: "bias" in name, state)]


PRECISIONS = {"float32": jax.lax.Precision.HIGHEST, "tf32": jax.lax.Precision.HIGH}


class JaxCuDNN(with_jax.OnJax):
    """``jax.experimental.rnn.lstm``, which always asks for cuDNN's standard algorithm."""

    def build(self, case: Case) -> Run:
        """See ``Contestant``."""
        refuse(
            (self.platform != "gpu", "needs a GPU"),
            (case.cell != "lstm", "has LSTMs only"),
            (case.dtype not in PRECISIONS, "has float32 and TF32 only"),
            (case.variant == "mask", "takes lengths of sequences, and no masks"),
            (case.dropout > 0, "has no recurrent dropout"),
            (case.activation != "tanh", "has tanh only"),
            (not case.bias, "cannot do without a bias"),
        )
        from jax.experimental import rnn

        cells = case.depth * case.directions
        state = jnp.zeros((cells, case.batch, case.units))
        lengths = jnp.full(case.batch, case.steps, jnp.int32)

        def apply(weights: jax.Array, x: jax.Array, extras: Any) -> jax.Array:
            state, lengths = extras
            results: Any = rnn.lstm(
                x, state, state, weights, lengths, case.features, case.units, case.depth, 0.0, case.directions == 2,
                PRECISIONS[case.dtype],
            )  # fmt: skip
            return results[0]

        weights = case.weights()
        return self.run(
            case, apply, jnp.asarray(flat(weights)), (state, lengths), lambda vector: unflat(vector, weights)
        )
