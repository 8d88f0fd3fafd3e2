"""Contestants in this process, where the benchmarks have one for each."""

from collections.abc import Callable
from typing import Any

from benchmarks.contestants.__main__ import Service
from benchmarks.contestants.interface import Contestant
from benchmarks.workers import WorkerError, in_a_line


class Local:
    """A contestant in this process, behind the interface of a worker."""

    def __init__(self, load: Callable[[], Contestant]):
        self.service = Service(load)

    def ask(self, timeout: float | None = None, **request: Any) -> dict[str, Any]:
        try:
            return self.service.handle(request)
        except Exception as error:
            raise WorkerError(in_a_line(error)) from error

    def close(self) -> None:
        pass
