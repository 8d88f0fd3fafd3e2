"""Two tasks that ask for nothing but memory, at any length: adding two marked numbers, and copying symbols.

Both are of Hochreiter & Schmidhuber 1997, "Long Short-Term Memory", in the form in which they are mostly used since:
numbers are drawn from 0 to 1, and of the two marks one is in the first half of a sequence and one in the second.
Examples are drawn anew for each step of training, so that nothing can be learned by heart.

A task has so many ``features`` that go in and ``outputs`` that come out at a step, of which the last ``answers`` steps
are judged: training makes ``loss`` small, ``error`` is reported, and ``chance`` is the error of the best answer that
does not look at the inputs.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Examples(NamedTuple):
    """``inputs (B, T, features)``, and ``targets`` for the last ``answers`` of the ``T`` steps."""

    inputs: jax.Array
    targets: jax.Array


@dataclasses.dataclass(frozen=True)
class Adding:
    """The adding problem: the sum of the two marked numbers among ``length``, after the last of them.

    A step has two features, a number from 0 to 1 and its mark, 1 or 0. The error is the mean square. Always to say 1 is
    the best without looking, and its error is the variance of the sum, 1/6.
    """

    length: int

    features: ClassVar[int] = 2
    outputs: ClassVar[int] = 1
    answers: ClassVar[int] = 1
    chance: ClassVar[float] = 1 / 6

    def draw(self, key: jax.Array, batch: int) -> Examples:
        """So many new examples; targets are ``(B, 1, 1)``."""
        values, first, second = jax.random.split(key, 3)
        numbers = jax.random.uniform(values, (batch, self.length))
        half = self.length // 2
        places = (
            jax.random.randint(first, (batch,), 0, half),
            jax.random.randint(second, (batch,), half, self.length),
        )
        marks = sum(jax.nn.one_hot(place, self.length) for place in places)
        return Examples(jnp.stack([numbers, marks], axis=-1), jnp.sum(numbers * marks, axis=-1)[:, None, None])

    def loss(self, predictions: jax.Array, targets: jax.Array) -> jax.Array:
        """The mean square, for predictions ``(B, 1, 1)``."""
        return jnp.mean(jnp.square(predictions - targets))

    error = loss


@dataclasses.dataclass(frozen=True)
class Copying:
    """Copying: ``symbols`` of an alphabet are shown, then ``length`` blanks, then as many cues to say them in order.

    So each symbol is to be held for ``symbols + length`` steps. A step is one-hot: the alphabet, the blank, the cue.
    The error is the share of wrong symbols; who guesses is right with one of the alphabet.
    """

    length: int
    symbols: int = 4
    alphabet: int = 8

    @property
    def features(self) -> int:
        """The alphabet, the blank and the cue."""
        return self.alphabet + 2

    @property
    def outputs(self) -> int:
        """A score for each of the alphabet."""
        return self.alphabet

    @property
    def answers(self) -> int:
        """One for each symbol."""
        return self.symbols

    @property
    def chance(self) -> float:
        """That of guessing."""
        return 1 - 1 / self.alphabet

    def draw(self, key: jax.Array, batch: int) -> Examples:
        """So many new examples; targets are the symbols as integers ``(B, symbols)``."""
        shown = jax.random.randint(key, (batch, self.symbols), 0, self.alphabet)
        blanks = jnp.full((batch, self.length), self.alphabet)
        cues = jnp.full((batch, self.symbols), self.alphabet + 1)
        steps = jnp.concatenate([shown, blanks, cues], axis=1)
        return Examples(jax.nn.one_hot(steps, self.features), shown)

    def loss(self, predictions: jax.Array, targets: jax.Array) -> jax.Array:
        """The cross entropy, for predictions ``(B, symbols, alphabet)``."""
        return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(predictions, targets))

    def error(self, predictions: jax.Array, targets: jax.Array) -> jax.Array:
        """The share of wrong symbols."""
        return jnp.mean(jnp.argmax(predictions, axis=-1) != targets)


Task = Adding | Copying

TASKS = {"adding": Adding, "copying": Copying}
