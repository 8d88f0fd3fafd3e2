"""The loop as ``jax.lax.scan``, which jax differentiates."""

from typing import Any, ClassVar

import jax

from flax_rnn.cells.protocol import Carry, Weights, dot
from flax_rnn.implementations.loop import Arrays, Inputs, Loop, State, advance, run
from flax_rnn.implementations.protocol import Request


class Scan:
    """See ``Implementation``; it runs every cell, and is what the others are measured by."""

    name: ClassVar[str] = "scan"
    time_major: ClassVar[bool] = True

    def obstacle(self, request: Request) -> str | None:
        """There is none."""
        del request
        return None

    def run(self, loop: Loop, arrays: Arrays) -> tuple[Any, Carry]:
        """As for every implementation."""
        return run(scan, dot, loop, arrays)


def scan(loop: Loop, weights: Weights, state: State, inputs: Inputs) -> tuple[State, Any]:
    """All iterations, one after the other; see ``loop.Evaluate``."""
    return jax.lax.scan(
        lambda state, inputs: advance(loop, weights, state, inputs),
        state,
        inputs,
        reverse=loop.options.go_backwards,
        unroll=loop.options.unroll or 1,
    )
