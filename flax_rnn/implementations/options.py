"""The options of a loop, stated once: ``rnn`` takes them by name, and layers have them as arguments."""

import dataclasses
from typing import Any

from flax_rnn import _checks
from flax_rnn.cells.arguments import KerasNames


@dataclasses.dataclass(unsafe_hash=True, kw_only=True)
class SequenceOptions(KerasNames):
    """How a layer runs its cell over time: the options of ``rnn`` that are fixed when a layer is built.

    Attributes:
      return_sequences: whether to return the outputs of all steps ``(B, T, H)`` or that of the last ``(B, H)``.
      return_state: whether to return ``(outputs, carry)`` in place of ``outputs``.
      go_backwards: whether to start at the last step. Outputs then come in the order of processing, as in Keras, unless
        ``keep_order``.
      keep_order: whether outputs come in the order of the inputs also where ``go_backwards``.
      unroll: ``False`` for a loop, ``True`` for none, or how many steps to put into one iteration of it.
      zero_output_for_mask: whether the outputs of masked steps are zeros, or those of the last step that was not masked
        (zeros where there was none). The last output ``(B, H)`` is always that of the last step that was not masked.
      time_major: whether inputs, outputs and mask have the time axis first: ``(T, B, D)``.
      checkpoint_every: for long sequences: of how many steps each only one state is kept for the backward pass, which
        computes the others again; ``None`` to keep what all steps leave behind. About the root of the number of steps
        takes the least memory. Numbers and gradients stay the same.
      implementation: how to evaluate the loop: ``"auto"`` for what is best, ``"scan"``, ``"fused"``, ``"native"``,
        ``"cudnn"`` or ``"cuda"``; see ``flax_rnn.choose``. Forward-mode derivatives need ``"scan"``, and no
        ``checkpoint_every``.

    Raises:
      ValueError: for arguments that make no sense, such as unknown names.
    """

    return_sequences: bool = False
    return_state: bool = False
    go_backwards: bool = False
    keep_order: bool = False
    unroll: bool | int = False
    zero_output_for_mask: bool = False
    time_major: bool = False
    checkpoint_every: int | None = None
    implementation: str = "auto"

    def __post_init__(self) -> None:
        self.check_options()

    def check_options(self) -> None:
        """Raises ``ValueError`` for options that make no sense."""
        if not isinstance(self.unroll, bool):
            _checks.positive_int("unroll", self.unroll)
        if self.checkpoint_every is not None:
            _checks.positive_int("checkpoint_every", self.checkpoint_every)

    @property
    def options(self) -> dict[str, Any]:
        """These fields as keyword arguments of ``rnn``."""
        return {name: getattr(self, name) for name in _NAMES}


_NAMES = tuple(field.name for field in dataclasses.fields(SequenceOptions))
