"""A language model of characters: a stateful LSTM in nnx, trained by truncated backpropagation through time.

The text is the help on its language that comes with Python. It is cut into rows that are read side by side, a piece of
each at a time. A stateful layer starts each piece in the state in which it left the piece before, so it knows what came
earlier, while gradients go no further back than the piece. In the end the model writes, one character a call, and its
state is all it remembers of what it wrote.

    python examples/language.py

prints bits per character on text that was kept from training: less than with pairs of characters, whose frequencies
were counted, and less than where the state is forgotten between pieces.
"""

from pydoc_data import topics
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from flax_rnn.nnx import LSTM, reset_state

ROWS, PIECE = 32, 32


class Model(nnx.Module):
    """``tokens (B, T) -> logits (B, T, characters)`` of what follows each of them."""

    def __init__(self, characters: int, units: int, rngs: nnx.Rngs):
        self.embed = nnx.Embed(characters, 64, rngs=rngs)
        self.recurrent = LSTM(64, units, return_sequences=True, stateful=True, rngs=rngs)
        self.logits = nnx.Linear(units, characters, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """See above."""
        return self.logits(self.recurrent(self.embed(tokens)))


class Bits(NamedTuple):
    """Bits per character: of the model, of the model without its memory, of counted pairs of characters."""

    model: float
    forgetful: float
    pairs: float


def loss(model: Model, tokens: jax.Array) -> jax.Array:
    """Mean cross-entropy for ``tokens (B, T + 1)``."""
    logits = model(tokens[:, :-1])
    return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]))


@nnx.jit
def train_step(model: Model, optimizer: nnx.Optimizer[Model], tokens: jax.Array) -> jax.Array:
    """One step; returns the loss. The model keeps its state."""
    value, gradients = nnx.value_and_grad(loss)(model, tokens)
    optimizer.update(model, gradients)
    return value


@nnx.jit
def next_character(model: Model, tokens: jax.Array, key: jax.Array) -> jax.Array:
    """Reads ``tokens (B, T)`` and draws what follows, ``(B, 1)``."""
    return jax.random.categorical(key, model(tokens)[:, -1:] / 0.7)


def pieces(text: np.ndarray, rows: int) -> list[jax.Array]:
    """Rows of ``text`` side by side, cut into pieces ``(rows, PIECE + 1)``, each of which ends as the next begins."""
    count = (len(text) - 1) // (rows * PIECE)
    inputs, following = (text[i:][: rows * count * PIECE].reshape(rows, count, PIECE) for i in (0, 1))
    return [jnp.concatenate([inputs[:, i], following[:, i, -1:]], 1) for i in range(count)]


def evaluate(model: Model, text: np.ndarray, forget: bool = False) -> float:
    """Bits per character, over pieces that follow each other."""
    reset_state(model, batch=4)
    losses: list[Any] = []
    judge = nnx.jit(loss)
    for piece in pieces(text, 4):
        losses.append(judge(model, piece))
        if forget:
            reset_state(model, batch=4)
    return float(np.mean(losses) / np.log(2))


def bits_of_pairs(train: np.ndarray, test: np.ndarray, characters: int) -> float:
    """Bits per character for who knows the character before, and how often which one followed it in ``train``."""
    counts = np.full((characters, characters), 0.1)
    np.add.at(counts, (train[:-1], train[1:]), 1)
    return float(-np.mean(np.log2((counts / counts.sum(1, keepdims=True))[test[:-1], test[1:]])))


def main(steps: int = 800, units: int = 256, written: int = 400) -> Bits:
    """Prints some text of its own, and prints and returns how well it foresees that of Python."""
    text = "\n".join(topics.topics.values()).encode("ascii", "ignore")
    alphabet, tokens = np.unique(np.frombuffer(text, np.uint8), return_inverse=True)
    train, test = tokens[:-20_000], tokens[-20_000:]
    model = Model(len(alphabet), units, nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)
    batches = pieces(train, ROWS)
    print(f"{len(train)} characters of {len(alphabet)} kinds, in {ROWS} rows of {len(batches)} pieces")
    for step in range(steps):
        if step % len(batches) == 0:  # the text begins anew
            reset_state(model, batch=ROWS)
        value = train_step(model, optimizer, batches[step % len(batches)])
        if (step + 1) % 100 == 0:
            print(f"{step + 1} steps: {value / np.log(2):.2f} bits per character")

    reset_state(model, batch=1)
    answer = [jnp.searchsorted(jnp.asarray(alphabet), np.frombuffer(b"The statement ", np.uint8))[None]]
    for key in jax.random.split(jax.random.key(0), written):
        answer.append(next_character(model, answer[-1], key))
    print("\n" + bytes(alphabet[np.concatenate(answer, 1)[0]]).decode() + "\n")

    bits = Bits(evaluate(model, test), evaluate(model, test, forget=True), bits_of_pairs(train, test, len(alphabet)))
    print(f"on {len(test)} characters of other pages: {bits.model:.2f} bits per character, {bits.forgetful:.2f} where")
    print(f"the state is forgotten every {PIECE} characters, {bits.pairs:.2f} by counts of pairs")
    return bits


if __name__ == "__main__":
    main()
