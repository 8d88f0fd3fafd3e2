"""What an implementation is: a way to evaluate the loop, that says by itself what keeps it from doing so."""

import dataclasses
from typing import Any, ClassVar, Protocol

from flax_rnn.cells.protocol import Carry, Cell
from flax_rnn.implementations.loop import Arrays, Loop


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be run, as far as a choice may depend on it.

    Attributes:
      cell: the cell.
      dtype: the compute dtype.
      resets: whether there are ``resets``.
      sharded: whether the inputs are, or may be, sharded over a mesh.
      platform: where jax compiles for, such as ``"cpu"``.
      portable: whether what is compiled has to run elsewhere, too; see ``flax_rnn.portable``.
      shape: rows of the batch and steps ``(B, T)``; ``None`` if they are not known.
      training: whether it is differentiated.
    """

    cell: Cell
    dtype: Any
    resets: bool
    sharded: bool
    platform: str
    portable: bool
    shape: tuple[int, int] | None = None
    training: bool = False


class Implementation(Protocol):
    """One entry of ``flax_rnn.implementations.IMPLEMENTATIONS``.

    Attributes:
      name: what the argument ``implementation`` calls it.
      time_major: whether its arrays have the time axis first, or right ahead of the features.
    """

    name: ClassVar[str]
    time_major: ClassVar[bool]

    def obstacle(self, request: Request) -> str | None:
        """Why it cannot run this, in words that end a sentence; ``None`` if it can."""
        ...

    def run(self, loop: Loop, arrays: Arrays) -> tuple[Any, Carry]:
        """``(outputs of all steps or of the last, last carry)``; outputs of all steps have the order of the inputs."""
        ...
