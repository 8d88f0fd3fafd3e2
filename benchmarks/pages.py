"""Tables within pages of the guide, between two marks that name the command which wrote them."""

import re
from pathlib import Path

from benchmarks.record import replace

SCALING = Path(__file__).parent.parent / "docs" / "scaling-costs.md"


def section(command: str, text: str) -> str:
    """``text`` with its marks."""
    return f"<!-- {command}: begin -->\n\n{text.strip()}\n\n<!-- end -->"


def insert(path: Path, command: str, text: str) -> None:
    """Puts ``text`` in the place of what the page has from this command.

    Raises:
      ValueError: if it has no such place.
    """
    place = re.compile(rf"<!-- {re.escape(command)}: begin -->.*?<!-- end -->", re.DOTALL)
    page, count = place.subn(lambda _: section(command, text), path.read_text())
    if count != 1:
        raise ValueError(f"expected one place for {command} in {path}, got {count}")
    replace(path, page)
