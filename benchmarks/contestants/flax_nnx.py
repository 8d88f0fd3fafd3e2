"""``flax.nnx.RNN`` with Flax's own cells."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.cases import Case
from benchmarks.contestants import with_jax
from benchmarks.contestants.flax_linen import ACTIVATIONS, name_of_cell
from benchmarks.contestants.interface import Run, for_each_cell
from flax_rnn.convert import from_flax, to_flax


class NNX(with_jax.OnJax):
    """``flax.nnx``, split once ahead of the timing into what is fixed and its parameters.

    Attributes:
      lstm: which of Flax's two LSTM cells to take.
    """

    def __init__(self, lstm: str):
        super().__init__()
        self.lstm = lstm

    def build(self, case: Case) -> Run:
        """See ``Contestant``."""
        name = name_of_cell(case, self.lstm)

        def split(features: int, reverse: bool) -> tuple[Any, Any]:
            cell = getattr(nnx, name)(
                features, case.units, activation_fn=ACTIVATIONS[case.activation],
                recurrent_kernel_init=jax.nn.initializers.zeros,  # the usual one lacks bfloat16
                dtype=jnp.dtype(case.array_dtype), param_dtype=jnp.dtype(case.array_dtype), rngs=nnx.Rngs(0),
            )  # fmt: skip
            graph, _, rest = nnx.split(nnx.RNN(cell, reverse=reverse, keep_order=True), nnx.Param, ...)
            return graph, rest

        sizes = {case.features, case.units * case.directions}
        parts = {key: split(*key) for key in itertools.product(sizes, (False, True))}

        def one_direction(params: Any, x: jax.Array, reverse: bool) -> jax.Array:
            graph, rest = parts[x.shape[-1], reverse]
            copy = jax.tree.map(lambda leaf: leaf, rest)  # its counters may not outlive the trace that advances them
            return nnx.merge(graph, nnx.State({"cell": params}), copy)(x)

        full_name: Any = f"nnx.{name}"
        params = for_each_cell(lambda weights: to_flax(weights, full_name), case.weights())
        return self.run(
            case, lambda params, x, _: with_jax.layer_by_layer(one_direction, params, x),
            with_jax.on_device(case, params), layers=lambda gradients: for_each_cell(from_flax, gradients),
        )  # fmt: skip
