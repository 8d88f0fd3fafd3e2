"""Layers in both directions, as a ``flax.linen`` module."""

from typing import Any

import jax
from flax import linen as nn
from jax.typing import ArrayLike

from flax_rnn._docstrings import describe, describe_call
from flax_rnn.cells.protocol import Carry
from flax_rnn.layers.bidirectional import bidirectional, check_directions, check_merge_mode, check_runs
from flax_rnn.linen.foreign import view
from flax_rnn.linen.layers import Layer


@describe
class Bidirectional(nn.Module):
    """A layer and its counterpart in the other direction, with their outputs merged.

    Sequences of outputs are in the order of the inputs in both directions, and zero at masked steps. Without
    ``return_sequences`` the backward output is the one after the first step of the inputs.

    Attributes:
      layer: the forward layer, whose options hold for both; its parameters are under ``forward_layer``.
      merge_mode: ``"concat"``, ``"sum"``, ``"ave"``, ``"mul"``, or ``None`` for a pair of outputs.
      backward_layer: the other one; ``None`` for a layer with the arguments of ``layer``. Its parameters are under
        ``backward_layer``.

    Raises:
      ValueError: for an unknown ``merge_mode``, and for layers that differ in their options or go in the same
        direction.
      TypeError: for what is no layer of this module.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax_rnn.linen import GRU, Bidirectional
      >>> layer = Bidirectional(GRU(4, return_sequences=True))
      >>> x = jnp.ones((2, 5, 3))  # 2 sequences of 5 steps
      >>> outputs, variables = layer.init_with_output(jax.random.key(0), x)
      >>> outputs.shape
      (2, 5, 8)
      >>> sorted(variables["params"])
      ['backward_layer', 'forward_layer']

    Source: Schuster & Paliwal 1997, "Bidirectional Recurrent Neural Networks"; ``keras.layers.Bidirectional``.
    """

    layer: Layer
    merge_mode: str | None = "concat"
    backward_layer: Layer | None = None

    def __post_init__(self) -> None:
        check_merge_mode(self.merge_mode)
        for name, value in (("layer", self.layer), ("backward_layer", self.backward_layer or self.layer)):
            if not isinstance(value, Layer):
                raise TypeError(f"{name}: expected a layer of flax_rnn.linen, got {type(value).__name__}")
            check_runs(name, value, value.runs_itself)
        if self.backward_layer is None:
            self.backward_layer = self.layer.fresh(go_backwards=not self.layer.go_backwards)
        else:
            self.backward_layer = self.backward_layer.fresh()
        check_directions(self.layer, self.backward_layer)
        super().__post_init__()

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> tuple[Carry, Carry]:
        """The pair of carries for one step of inputs of ``input_shape`` ``(*batch, D)``."""
        assert self.backward_layer is not None  # __post_init__ made one
        return self.layer.initialize_carry(rng, input_shape), self.backward_layer.initialize_carry(rng, input_shape)

    def setup(self) -> None:
        """Names the forward parameters after their direction, not after the argument."""
        self.forward_layer = self.layer.fresh()

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
    ) -> Any:
        """Runs both layers over the time axis of ``inputs``; states are pairs ``(forward carry, backward carry)``."""
        forward, backward = self.forward_layer, self.backward_layer
        assert backward is not None  # __post_init__ made one
        first = forward.first(inputs)
        cells = view(forward.cell), view(backward.cell)
        keys = [layer.dropout_key(training) for layer in (forward, backward)]
        if initial_state is None:
            initial_state = forward.kept(inputs), backward.kept(inputs)
        outputs, carries = bidirectional(
            (cells[0].core, cells[1].core),
            (cells[0].weights(first, constants), cells[1].weights(first, constants)),
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
        forward.keep(carries[0])
        backward.keep(carries[1])
        return (outputs, carries) if forward.return_state else outputs
