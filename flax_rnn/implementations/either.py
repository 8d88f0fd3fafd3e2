"""One implementation for outputs alone, and another where gradients are asked for, since their costs differ.

Only while jax differentiates does it become known which of the two is wanted.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from flax_rnn.cells.protocol import Carry
from flax_rnn.implementations.loop import Arrays, Loop
from flax_rnn.implementations.protocol import Implementation, Request


@dataclasses.dataclass(frozen=True)
class Either:
    """See ``Implementation``.

    Attributes:
      plain: what runs where nothing is differentiated.
      training: what runs where something is.
    """

    plain: Implementation
    training: Implementation

    @property
    def name(self) -> str:
        """That of ``plain``."""
        return self.plain.name

    @property
    def time_major(self) -> bool:
        """That of ``plain``."""
        return self.plain.time_major

    def obstacle(self, request: Request) -> str | None:
        """Whatever either of them has."""
        return self.plain.obstacle(request) or self.training.obstacle(request)

    def run(self, loop: Loop, arrays: Arrays) -> tuple[Any, Carry]:
        """As for every implementation."""

        def forward(arrays: Arrays) -> Any:
            return jax.vjp(lambda arrays: self._train(loop, arrays), arrays)

        run = jax.custom_vjp(lambda arrays: self.plain.run(loop, arrays))
        run.defvjp(forward, lambda pull, cotangents: pull(cotangents))
        return run(arrays)

    def _train(self, loop: Loop, arrays: Arrays) -> tuple[Any, Carry]:
        """``training.run``, from and to the axes of ``plain``."""
        behind_batch = arrays.x.ndim - loop.cell.num_feature_axes - 1
        here, there = (0 if one.time_major else behind_batch for one in (self.plain, self.training))
        x, mask, resets = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, here, there), arrays[-3:])
        outputs, carry = self.training.run(loop, arrays._replace(x=x, mask=mask, resets=resets))
        if loop.options.return_sequences:
            outputs = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, there, here), outputs)
        return outputs, carry
