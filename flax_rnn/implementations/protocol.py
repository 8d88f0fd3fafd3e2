"""What an implementation is: a way to evaluate the loop, that says by itself what keeps it from doing so."""

import dataclasses
from typing import Any, ClassVar, Protocol, runtime_checkable

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
      recurrent_dropout: whether there are the dropout masks of a ``recurrent_dropout``: of the state, or one of the
        inputs for each gate.
      device: the kind of GPU that it is for, as jax calls it; ``""`` on other platforms, and where that is not known.
    """

    cell: Cell
    dtype: Any
    resets: bool
    sharded: bool
    platform: str
    portable: bool
    shape: tuple[int, int] | None = None
    training: bool = False
    recurrent_dropout: bool = False
    device: str = ""


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


@runtime_checkable
class BothDirections(Implementation, Protocol):
    """One that can run two cells over the same steps in one go, one of them forwards and the other backwards."""

    def joins(self, loops: tuple[Loop, Loop], arrays: tuple[Arrays, Arrays]) -> bool:
        """Whether these can be run so, both of which it can run by themselves."""
        ...

    def run_both(
        self, loops: tuple[Loop, Loop], arrays: tuple[Arrays, Arrays]
    ) -> tuple[tuple[Any, Carry], tuple[Any, Carry]]:
        """What ``run`` returns for each."""
        ...
