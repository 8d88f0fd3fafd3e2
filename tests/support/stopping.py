"""Interrupts a training where a test wants it."""

import signal

from experiments.terminal import Stop


class StopAfter(Stop):
    """Asks to stop after so many questions."""

    def __init__(self, questions: int):
        self.left = questions

    @property
    def signal(self) -> int | None:  # pyright: ignore (an attribute there)
        self.left -= 1
        return signal.SIGINT if self.left < 0 else None
