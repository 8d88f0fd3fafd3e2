"""Sequence to sequence: an LSTM reads a date as people write it, another writes it as machines do, in nnx.

The state in which the encoder ends is the one that the decoder starts from: ``return_state`` and ``initial_state``. In
training the decoder is a layer, which runs over the right characters (teacher forcing). Later it has to go on with its
own, so its cell is called step by step, with the same weights.

    python examples/translate.py

prints how many of the dates that were kept from training come out right to the last digit, nearly all of them.
"""

import datetime
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from flax_rnn import apply_cell
from flax_rnn.nnx import LSTM

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
# The first character is padding, and what the decoder is given first.
ALPHABET = "_ ,-.0123456789" + "".join(sorted({letter for month in MONTHS for letter in month}))
READ, WRITTEN, BATCH = 18, 10, 128
FIRST, LAST = datetime.date(1900, 1, 1).toordinal(), datetime.date(2099, 12, 31).toordinal()


class Translator(nnx.Module):
    """An encoder and a decoder with one embedding of characters."""

    def __init__(self, units: int, rngs: nnx.Rngs):
        self.embed = nnx.Embed(len(ALPHABET), 32, rngs=rngs)
        self.encoder = LSTM(32, units, return_state=True, rngs=rngs)
        self.decoder = LSTM(32, units, return_sequences=True, rngs=rngs)
        self.logits = nnx.Linear(units, len(ALPHABET), rngs=rngs)

    def encode(self, source: jax.Array) -> Any:
        """All that the decoder is told of ``source (B, READ)``."""
        return self.encoder(self.embed(source), seq_lengths=jnp.sum(source > 0, 1))[1]

    def __call__(self, source: jax.Array, target: jax.Array) -> jax.Array:
        """The logits of each character of ``target (B, WRITTEN)``, given those before it."""
        before = jnp.pad(target[:, :-1], ((0, 0), (1, 0)))
        return self.logits(self.decoder(self.embed(before), initial_state=self.encode(source)))

    def translate(self, source: jax.Array) -> jax.Array:
        """What the decoder writes, where each time it takes the likeliest character, and goes on with it."""
        cell, weights = self.decoder.cell.core, self.decoder.cell.weights()

        def step(before: Any, _: None) -> Any:
            carry, character = before
            carry, output = apply_cell(cell, weights, carry, self.embed(character))
            character = jnp.argmax(self.logits(output), -1)
            return (carry, character), character

        start = self.encode(source), jnp.zeros(len(source), int)
        return jax.lax.scan(step, start, length=WRITTEN)[1].T


class Score(NamedTuple):
    """How many dates are translated without an error, and how many characters are right."""

    dates: float
    characters: float


def spelled(day: int, form: int) -> str:
    """A day as people write it, in one of three ways."""
    date = datetime.date.fromordinal(day)
    month = MONTHS[date.month - 1]
    ways = (f"{date.day} {month} {date.year}", f"{month} {date.day}, {date.year}", f"{date.day}.{date.month}.{date:%y}")
    # Of a year without its century, there is only one here.
    return ways[form if form < 2 or date.year >= 2000 else 0]


def encoded(texts: list[str], length: int) -> jax.Array:
    """The characters of texts as numbers ``(B, length)``."""
    tokens = [[ALPHABET.index(character) for character in text.ljust(length, "_")] for text in texts]
    return jnp.asarray(np.array(tokens))


def decoded(tokens: jax.Array) -> list[str]:
    """The inverse."""
    return ["".join(ALPHABET[token] for token in row).rstrip("_") for row in np.asarray(tokens)]


def draw(rng: np.random.Generator, days: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Dates in both spellings."""
    read = [spelled(day, form) for day, form in zip(days.tolist(), rng.integers(0, 3, len(days)), strict=True)]
    written = [datetime.date.fromordinal(day).isoformat() for day in days.tolist()]
    return encoded(read, READ), encoded(written, WRITTEN)


@nnx.jit
def train_step(
    model: Translator, optimizer: nnx.Optimizer[Translator], source: jax.Array, target: jax.Array
) -> jax.Array:
    """One step; returns the loss."""

    def loss(model: Translator) -> jax.Array:
        logits = model(source, target)
        return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, target))

    value, gradients = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradients)
    return value


def main(steps: int = 1200, units: int = 128) -> Score:
    """Prints and returns how well a thousand dates are translated that were not trained on."""
    rng = np.random.default_rng(0)
    days = rng.permutation(np.arange(FIRST, LAST + 1))
    kept, days = days[:1000], days[1000:]
    model = Translator(units, nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(optax.linear_schedule(4e-3, 0, steps)), wrt=nnx.Param)
    for step in range(1, steps + 1):
        loss = train_step(model, optimizer, *draw(rng, rng.choice(days, BATCH)))
        if step % 250 == 0:
            print(f"{step} steps: loss {loss:.4f}")
    source, target = draw(rng, kept)
    written = nnx.jit(Translator.translate)(model, source)
    for read, answer in zip(decoded(source[:6]), decoded(written[:6]), strict=True):
        print(f"{read:>18} -> {answer}")
    right = written == target
    score = Score(float(jnp.mean(jnp.all(right, 1))), float(jnp.mean(right)))
    print(f"without an error: {score.dates:.3f} of {len(kept)} dates")
    return score


if __name__ == "__main__":
    main()
