"""A trained model as files that need nothing of ours: for Keras 3, and for jax alone.

Both take tokens ``(B, T)``, int32, and give how likely each review is favourable.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import flax_rnn
from experiments.model import Classifier, build
from flax_rnn import convert

PLATFORMS = ("cpu", "cuda", "tpu")
KERAS_NAMES = {"simple_rnn": "SimpleRNN", "lstm": "LSTM", "gru": "GRU"}


def write(folder: Path, cell: str, params: nnx.State[Any, Any], options: argparse.Namespace) -> list[Path]:
    """Writes what ``--export`` asks for, and returns the paths."""
    model = build(cell, 0, options, dropout=0.0, recurrent_dropout=0.0)
    nnx.update(model, params)
    paths: list[Path] = []
    for name in options.export:
        paths.append(folder / f"{cell}.{name}")
        EXPORTS[name](paths[-1], cell, model, options)
    return paths


def names(cell: str) -> list[str]:
    """The files of a model."""
    return [f"{cell}.{name}" for name in EXPORTS]


def to_jax(path: Path, cell: str, model: Classifier, options: argparse.Namespace) -> None:
    """For ``jax.export.deserialize(...).call(tokens)``, on any platform, for any number of reviews and words."""
    del cell, options
    graph, state = nnx.split(model)
    tokens = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, t"), jnp.int32)
    with flax_rnn.portable():
        probabilities = jax.jit(lambda tokens: jax.nn.sigmoid(nnx.merge(graph, state)(tokens)))
        exported = jax.export.export(probabilities, platforms=PLATFORMS)(tokens)
    path.write_bytes(exported.serialize())


def to_keras(path: Path, cell: str, model: Classifier, options: argparse.Namespace) -> None:
    """For ``keras.models.load_model``; in float32, and with the rates of dropout for those who train on."""
    layer = {
        "units": options.units, "dropout": options.dropout, "recurrent_dropout": options.recurrent_dropout,
    }  # fmt: skip
    embedding = {"input_dim": options.num_words, "output_dim": options.embedding}
    layers = [
        _layer("InputLayer", name="tokens", batch_shape=[None, None], dtype="int32"),
        _layer("Embedding", name="embedding", **embedding),
    ]
    places: dict[str, str] = {}
    for number in range(options.layers):
        inner = _layer(KERAS_NAMES[cell], **layer, return_sequences=number < options.layers - 1)
        name = f"{cell}_{number + 1}"
        places[name] = "recurrent" if options.layers == 1 else f"recurrent/layers/{number}"
        inner["config"]["name"] = name
        layers.append(_layer("Bidirectional", name=name, layer=inner) if options.bidirectional else inner)
    layers.append(_layer("Dense", name="dense", units=1, activation="sigmoid"))
    config = {"module": "keras", "class_name": "Sequential", "config": {"name": cell, "layers": layers}}
    classes = {one["config"]["name"]: one["class_name"] for one in layers[1:]}
    convert.save(path, model, classes, places, config=json.dumps(config))


def _layer(kind: str, **config: Any) -> dict[str, Any]:
    return {"module": "keras.layers", "class_name": kind, "config": config}


EXPORTS: dict[str, Callable[[Path, str, Classifier, argparse.Namespace], None]] = {"keras": to_keras, "jax": to_jax}
"""By the names that ``--export`` knows, which are the files' endings."""
