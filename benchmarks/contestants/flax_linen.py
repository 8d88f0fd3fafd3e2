"""``flax.linen.RNN`` with Flax's own cells."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from benchmarks.cases import Case
from benchmarks.contestants import with_jax
from benchmarks.contestants.interface import Run, for_each_cell, refuse
from flax_rnn.convert import from_flax, to_flax

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}


def name_of_cell(case: Case, lstm: str) -> str:
    """Of Flax's cell for ``case``, ``lstm`` being that for LSTMs; refuses what ``RNN`` and the cells do not have."""
    refuse(
        (case.cell != "lstm" and lstm == "LSTMCell", "has another LSTM only"),
        (case.variant == "mask", "RNN takes lengths of sequences, and no masks"),
        (case.dropout > 0, "the cells have no recurrent dropout"),
        (not case.bias, "the cells cannot do without a bias"),
    )
    return {"lstm": lstm, "gru": "GRUCell", "simple_rnn": "SimpleCell"}[case.cell]


class Linen(with_jax.OnJax):
    """``flax.linen``.

    Attributes:
      lstm: which of Flax's two LSTM cells to take.
    """

    def __init__(self, lstm: str):
        super().__init__()
        self.lstm = lstm

    def build(self, case: Case) -> Run:
        """See ``Contestant``."""
        name = name_of_cell(case, self.lstm)
        cell = getattr(linen, name)(
            case.units, activation_fn=ACTIVATIONS[case.activation],
            recurrent_kernel_init=jax.nn.initializers.zeros,  # the usual one lacks bfloat16
            dtype=jnp.dtype(case.array_dtype), param_dtype=jnp.dtype(case.array_dtype),
        )  # fmt: skip
        layers: Any = [linen.RNN(cell, reverse=reverse, keep_order=True) for reverse in (False, True)]

        def one_direction(params: Any, x: jax.Array, reverse: bool) -> jax.Array:
            return layers[reverse].apply({"params": {"cell": params}}, x)

        full_name: Any = f"linen.{name}"
        params = for_each_cell(lambda weights: to_flax(weights, full_name), case.weights())
        return self.run(
            case, lambda params, x, _: with_jax.layer_by_layer(one_direction, params, x),
            with_jax.on_device(case, params), layers=lambda gradients: for_each_cell(from_flax, gradients),
        )  # fmt: skip
