"""The model of the experiment."""

import argparse
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flax_rnn.nnx import GRU, LSTM, Bidirectional, SimpleRNN

LAYERS = {"simple_rnn": SimpleRNN, "lstm": LSTM, "gru": GRU}
"""The recurrent layer of each ``--cell``."""

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Classifier(nnx.Module):
    """``tokens (B, T) -> logits (B,)``: an embedding, recurrent layers that read to the end, and a dense unit.

    Initial weights are drawn as Keras draws them. With ``dtype`` bfloat16 the weights, the sums of products, the states
    of the layers and the logits stay float32.

    Args:
      cell: one of ``LAYERS``.
      num_words, embedding, units: sizes.
      dropout, recurrent_dropout: rates, of each layer.
      layers: how many recurrent layers are on top of each other.
      bidirectional: whether each also reads from the end, and has ``2 * units`` outputs.
      dtype: of the computation.
      rngs: for weights and dropout.
    """

    def __init__(
        self,
        cell: str,
        *,
        num_words: int,
        embedding: int,
        units: int,
        dropout: float,
        recurrent_dropout: float,
        layers: int = 1,
        bidirectional: bool = False,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        uniform = functools.partial(jax.random.uniform, minval=-0.05, maxval=0.05)
        compute = DTYPES[dtype]
        self.embedding = nnx.Embed(num_words, embedding, embedding_init=uniform, dtype=compute, rngs=rngs)
        made: list[nnx.Module] = []
        features = embedding
        for number in range(1, layers + 1):
            layer = LAYERS[cell](
                features,
                units,
                dropout=dropout,
                recurrent_dropout=recurrent_dropout,
                return_sequences=number < layers,
                dtype=compute,
                rngs=rngs,
            )
            made.append(Bidirectional(layer, rngs=rngs) if bidirectional else layer)
            features = 2 * units if bidirectional else units
        # A layer by itself is not a sequence of one: saved models of one layer have its name.
        self.recurrent: Any = made[0] if layers == 1 else nnx.Sequential(*made)
        self.dense = nnx.Linear(features, 1, kernel_init=nnx.initializers.glorot_uniform(), rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """See above."""
        return self.dense(self.recurrent(self.embedding(tokens)).astype(jnp.float32))[:, 0]


def build(cell: str, seed: int, options: argparse.Namespace, **changes: Any) -> Classifier:
    """A model with fresh weights; ``changes`` replace options."""
    chosen: dict[str, Any] = vars(options) | changes
    names = ("num_words", "embedding", "units", "dropout", "recurrent_dropout", "layers", "bidirectional", "dtype")
    # Models that were saved before there was a choice have one layer of one direction.
    return Classifier(cell, **{name: chosen[name] for name in names if name in chosen}, rngs=nnx.Rngs(seed))
