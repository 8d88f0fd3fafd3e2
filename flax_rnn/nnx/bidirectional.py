"""Layers in both directions, as an ``flax.nnx`` module."""

from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike

from flax_rnn._docstrings import SignatureOfInit, describe, describe_call
from flax_rnn.cells.protocol import Carry
from flax_rnn.layers.bidirectional import bidirectional, check_directions, check_merge_mode, check_runs
from flax_rnn.nnx.base import RngSource
from flax_rnn.nnx.foreign import view
from flax_rnn.nnx.layers import Layer


@describe
class Bidirectional(nnx.Module):
    """A layer and its counterpart in the other direction, with their outputs merged.

    Sequences of outputs are in the order of the inputs in both directions, and zero at masked steps. Without
    ``return_sequences`` the backward output is the one after the first step of the inputs. Weights are those of
    ``forward_layer`` and ``backward_layer``.

    Args:
      layer: the forward layer, whose options hold for both.
      merge_mode: ``"concat"``, ``"sum"``, ``"ave"``, ``"mul"``, or ``None`` for a pair of outputs.
      backward_layer: the other one; ``None`` for a layer with the arguments of ``layer`` and weights of its own.
      rngs: for the weights of that layer.

    Raises:
      ValueError: for an unknown ``merge_mode``, for layers that differ in their options or go in the same direction,
        and for neither ``backward_layer`` nor ``rngs``.
      TypeError: for what is no layer of this module.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_rnn.nnx import GRU, Bidirectional
      >>> rngs = nnx.Rngs(0)
      >>> forward = GRU(3, 4, return_sequences=True, rngs=rngs)
      >>> layer = Bidirectional(forward, rngs=rngs)
      >>> layer(jnp.ones((2, 5, 3))).shape
      (2, 5, 8)

    Source: Schuster & Paliwal 1997, "Bidirectional Recurrent Neural Networks"; ``keras.layers.Bidirectional``.
    """

    __signature__ = SignatureOfInit()

    def __init__(
        self,
        layer: Layer,
        merge_mode: str | None = "concat",
        backward_layer: Layer | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ):
        check_merge_mode(merge_mode)
        for name, value in (("layer", layer), ("backward_layer", backward_layer or layer)):
            if not isinstance(value, Layer):
                raise TypeError(f"{name}: expected a layer of flax_rnn.nnx, got {type(value).__name__}")
            check_runs(name, value, value._runs_itself)
        if backward_layer is None:
            if rngs is None:
                raise ValueError("rngs: expected nnx.Rngs for the weights of the backward layer, got None")
            backward_layer = layer._fresh(rngs, go_backwards=not layer.go_backwards)
        check_directions(layer, backward_layer)
        self.forward_layer = layer
        self.backward_layer = backward_layer
        self.merge_mode = merge_mode

    def initialize_carry(self, input_shape: tuple[int, ...], rngs: nnx.Rngs | None = None) -> tuple[Carry, Carry]:
        """The pair of carries for one step of inputs of ``input_shape`` ``(*batch, D)``."""
        return (
            self.forward_layer.initialize_carry(input_shape, rngs),
            self.backward_layer.initialize_carry(input_shape, rngs),
        )

    @describe_call(bidirectional, Layer.__call__)
    def __call__(
        self,
        inputs: jax.Array,
        initial_state: Carry = None,
        mask: ArrayLike | None = None,
        training: bool | None = None,
        *,
        seq_lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        constants: Any = None,
        rngs: RngSource | None = None,
    ) -> Any:
        """Runs both layers over the time axis of ``inputs``; states are pairs ``(forward carry, backward carry)``."""
        forward, backward = self.forward_layer, self.backward_layer
        cells = view(forward.cell), view(backward.cell)
        keys = [layer._dropout_key(training, rngs) for layer in (forward, backward)]
        if initial_state is None:
            initial_state = forward._kept(inputs), backward._kept(inputs)
        outputs, carries = bidirectional(
            (cells[0].core, cells[1].core),
            (cells[0].weights(), cells[1].weights()),
            inputs,
            merge_mode=self.merge_mode,
            initial_state=initial_state,
            mask=mask,
            seq_lengths=seq_lengths,
            resets=resets,
            constants=constants,
            dropout_key=keys,
            **forward.options_with_state,
        )
        forward._keep(carries[0])
        backward._keep(carries[1])
        return (outputs, carries) if forward.return_state else outputs
