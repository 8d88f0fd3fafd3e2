"""How a case can end."""

from enum import Enum
from pathlib import Path
from typing import NamedTuple


class Verdict(Enum):
    """Only the last one is a defect.

    ``CHANGED`` is a special case of survival: what was read is in the file, but not what was once written, in a format
    that has no checksum to tell.
    """

    SURVIVED = "survived"
    CHANGED = "changed"
    CLEAR = "clear error"
    LOST = "lost"


class Case(NamedTuple):
    """One thing that was tried.

    Attributes:
      fault: the row of the table that it counts for.
      verdict: how it ended.
      detail: what there is to know where it is lost, and how to repeat it.
    """

    fault: str
    verdict: Verdict
    detail: str = ""


class Setting(NamedTuple):
    """What the cases of a group are made from.

    Attributes:
      folder: an empty one, to work in.
      seed: of all that is random.
      quick: a rehearsal: every kind of case, but few of each.
    """

    folder: Path
    seed: int
    quick: bool

    def count(self, many: int, few: int = 1) -> int:
        """How many cases there are to be."""
        return few if self.quick else many


def expect(fault: str, holds: bool, detail: str = "", verdict: Verdict = Verdict.SURVIVED) -> Case:
    """A case that ended with ``verdict`` if something holds, and is lost otherwise."""
    return Case(fault, verdict if holds else Verdict.LOST, "" if holds else detail)
