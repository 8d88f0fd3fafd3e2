"""Lines about what is done, and below them, where ``rich`` is installed and somebody watches, a bar."""

import contextlib
import importlib.util
import sys
from collections.abc import Generator
from typing import Any, Protocol


class Progress(Protocol):
    """How far a comparison has come."""

    def now(self, what: str) -> None:
        """What is being done."""
        ...

    def done(self, line: str) -> None:
        """One more is done, and this is what came of it."""
        ...


class Lines:
    """Lines alone."""

    def now(self, what: str) -> None:
        """Nothing, as it would be a line."""

    def done(self, line: str) -> None:
        """Prints it."""
        print(line, flush=True)


class Bar(Lines):
    """Lines above a bar of ``rich``."""

    def __init__(self, bar: Any, total: int):
        self._bar, self._task = bar, bar.add_task("", total=total)

    def now(self, what: str) -> None:
        """Beside the bar."""
        self._bar.update(self._task, description=what)

    def done(self, line: str) -> None:
        """Above the bar."""
        self._bar.advance(self._task)
        self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextlib.contextmanager
def progress(total: int) -> Generator[Progress]:
    """Of so many cases."""
    if not (sys.stdout.isatty() and importlib.util.find_spec("rich")):
        yield Lines()
        return
    from rich import progress as rich

    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn())
    with rich.Progress(*columns, rich.TimeElapsedColumn(), transient=True) as bar:
        yield Bar(bar, total)
