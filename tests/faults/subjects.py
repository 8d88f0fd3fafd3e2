"""Files that are read back: how each kind is written, read, and told from what it was."""

import contextlib
import functools
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from flax_rnn import convert

Found = dict[str, Any]
"""What was read: arrays or strings by name."""

WORDS, D, H = 7, 4, 3


class Subject(NamedTuple):
    """A kind of file or folder.

    Attributes:
      make: writes one into a folder; returns its path.
      read: reads it.
      errors: what reading may raise.
      is_sealed: whether checksums tell that it is not what was written, so that other numbers must not come out.
      also: other values than those that were written which are right.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], Found]
    errors: tuple[type[BaseException], ...]
    is_sealed: bool = False
    also: tuple[Found, ...] = ()


def _tree(seed: int = 0) -> Any:
    """Weights of an embedding, an LSTM, a bidirectional GRU and a dense unit, as linen has them."""
    rng = np.random.default_rng(seed)

    def cell(features: int, gates: int, bias: tuple[int, ...]) -> dict[str, Any]:
        shapes = {"kernel": (features, gates * H), "recurrent_kernel": (H, gates * H), "bias": bias}
        return {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}

    return {
        "embedding": {"embedding": rng.normal(size=(WORDS, D)).astype("f4")},
        "lstm": {"cell": cell(D, 4, (4 * H,))},
        "both": {name: {"cell": cell(H, 3, (2, 3 * H))} for name in ("forward_layer", "backward_layer")},
        "dense": {"kernel": rng.normal(size=(2 * H, 1)).astype("f4"), "bias": rng.normal(size=1).astype("f4")},
    }


def _flat(tree: Any) -> Found:
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _make_safetensors(folder: Path) -> Path:
    convert.save_safetensors(path := folder / "model.safetensors", _tree())
    return path


def _read_safetensors(path: Path) -> Found:
    free = convert.load_safetensors(path)
    found = _flat(convert.load_safetensors(path, _tree(1)))
    if not all(np.array_equal(found[name], array, equal_nan=True) for name, array in _flat(free).items()):
        raise AssertionError("it is not the same with and without a structure")
    return found


@functools.cache
def _keras_model() -> Any:
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    layers = keras.layers
    model = keras.Sequential([
        keras.Input((5,), dtype="int32"), layers.Embedding(WORDS, D, name="embedding"),
        layers.LSTM(H, return_sequences=True, name="lstm"), layers.Bidirectional(layers.GRU(H), name="both"),
        layers.Dense(1, name="dense"),
    ])  # fmt: skip
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    return model


def _make_keras(name: str, folder: Path) -> Path:
    path = folder / name
    model = _keras_model()
    model.save_weights(path) if name.endswith(".weights.h5") else model.save(path)
    return path


def _read_keras(path: Path) -> Found:
    return _flat(convert.load(path, _tree(1)))


def _torch_tree() -> Any:
    rng = np.random.default_rng(0)
    shapes = {
        "embedding.weight": (WORDS, D), "lstm.weight_ih_l0": (4 * H, D), "lstm.weight_hh_l0": (4 * H, H),
        "lstm.bias_ih_l0": (4 * H,), "lstm.bias_hh_l0": (4 * H,), "dense.weight": (2, H), "dense.bias": (2,),
    }  # fmt: skip
    return {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}


def _torch_target() -> Any:
    zeros: Any = np.zeros
    cell = {"kernel": zeros((D, 4 * H), "f4"), "recurrent_kernel": zeros((H, 4 * H), "f4"), "bias": zeros(4 * H, "f4")}
    return {
        "embedding": {"embedding": zeros((WORDS, D), "f4")}, "lstm": {"cell": cell},
        "dense": {"kernel": zeros((H, 2), "f4"), "bias": zeros(2, "f4")},
    }  # fmt: skip


def _make_torch(folder: Path, old: bool = False) -> Path:
    import torch

    state = {name: torch.from_numpy(array) for name, array in _torch_tree().items()}
    torch.save(state, path := folder / "model.pt", _use_new_zipfile_serialization=not old)
    return path


def _read_torch(path: Path) -> Found:
    return _flat(convert.load_torch(path, _torch_target()))


def make_saved(folder: Path) -> Path:
    from flax import nnx

    from experiments import options, report, reviews, saved
    from experiments.model import build
    from experiments.training import Score

    settings = vars(options.parse("", ["--num-words", "60", "--embedding", "4", "--units", "3", "--maxlen", "12"]))
    settings |= {"output": "runs", "data": "generated"}
    data = reviews.load("generated", num_words=60, maxlen=12, limit=20)
    model = build("lstm", 0, options.argparse.Namespace(**settings))
    (path := folder / "saved").mkdir()
    saved.save(path, report.Run("lstm", 0, 0, 1, test=[Score(0.7, 0.5)]), nnx.state(model, nnx.Param), data, settings)
    return path


def _read_saved(path: Path) -> Found:
    """What the command says; it ends with a line where that cannot be."""
    from experiments import predict

    with contextlib.redirect_stdout(io.StringIO()) as said:
        predict.main(["Everybody called this film dull in May", "--model", str(path)])
    return {"said": said.getvalue()}


def _store(path: Path) -> Any:
    from experiments.checkpoints import Store

    return Store(path, {"units": H, "words": "é"}, every=1)


def _state(number: int) -> Any:
    return {"state": {"a": jax.numpy.full((30, 7), number, "f4"), "key": jax.random.key(number)}}


def _make_checkpoint(folder: Path) -> Path:
    store = _store(path := folder / "saves")
    for number in (1, 2):
        if not store.save(_state(number), {"number": number, "sums": []}):
            raise RuntimeError(store.problem)
    store.close()
    return path


def _saved_as(number: int) -> Found:
    state = _state(number)["state"]
    return {"a": np.asarray(state["a"]), "key": np.asarray(jax.random.key_data(state["key"])), "number": number}


def _read_checkpoint(path: Path) -> Found:
    store = _store(path)
    try:
        found = store.restore(_state(0))
        if found is None:
            raise AssertionError("it begins anew, as if there were nothing")
        arrays, about = found
        if about["number"] == 1 and "damaged" not in store.problem:
            raise AssertionError("an earlier save is taken without a word")
        state = arrays["state"]
        return {
            "a": np.asarray(state["a"]),
            "key": np.asarray(jax.random.key_data(state["key"])),
            "number": about["number"],
        }
    finally:
        store.close()


def _make_prepared(folder: Path) -> Path:
    from experiments import imdb_source
    from tests.faults import archives

    archives.trust(archives.place(folder / "data", 12))
    imdb_source.read(folder / "data")
    return folder / "data" / "imdb_reviews"


def _read_prepared(path: Path) -> Found:
    from experiments import reviews

    name, *splits = reviews.load_texts("imdb", path.parent)
    return {"name": name} | {
        f"{what} {number}": value
        for number, split in enumerate(splits)
        for what, value in (("labels", split.labels), ("texts", "|".join(split.texts)))
    }


def _subjects() -> dict[str, Subject]:
    from experiments import files, reviews

    ours = (convert.ConversionError,)
    return {
        "safetensors": Subject(_make_safetensors, _read_safetensors, ours),
        ".keras": Subject(functools.partial(_make_keras, "model.keras"), _read_keras, ours),
        ".weights.h5": Subject(functools.partial(_make_keras, "model.weights.h5"), _read_keras, ours),
        "legacy .h5": Subject(functools.partial(_make_keras, "model.h5"), _read_keras, ours),
        "torch .pt": Subject(_make_torch, _read_torch, ours),
        "torch .pt before 1.6": Subject(functools.partial(_make_torch, old=True), _read_torch, ours),
        "saved model": Subject(make_saved, _read_saved, (SystemExit,)),
        "checkpoint": Subject(_make_checkpoint, _read_checkpoint, (files.Refused,), True, (_saved_as(1),)),
        "prepared reviews": Subject(_make_prepared, _read_prepared, (reviews.DataUnavailable,), True),
    }


SUBJECTS = functools.cache(_subjects)
