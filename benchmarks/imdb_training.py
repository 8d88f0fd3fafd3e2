"""A process that trains the model of the IMDB experiment once: ours, or Keras' own.

Ours is the training of ``experiments/imdb.py``, with its settings of the runtime. Keras' is its model, ``fit`` and
``evaluate`` on the backend that ``KERAS_BACKEND`` names; its process imports nothing of flax_rnn.
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.imdb_workloads import keras_model
from benchmarks.workers import serve

EVALUATION_BATCH = 500
"""Of both."""


def ours(cell: str, seed: int, path: str, settings: dict[str, Any]) -> dict[str, Any]:
    """As ``experiments/imdb.py`` does it, whose options the ``settings`` are."""
    from flax_rnn import runtime

    runtime.keep_memory()
    from rich.console import Console

    from experiments import imdb, reviews, trainer, training

    assert training.EVALUATION_BATCH == EVALUATION_BATCH
    train, test = load(path)
    data = reviews.Reviews(settings["data"], reviews.Split(*train), reviews.Split(*test), [], [])
    options = imdb.parse([])
    vars(options).update(settings)
    run, _ = trainer.train(cell, seed, data, options, Console(stderr=True))
    return {
        "parameters": run.parameters,
        "train": run.train[-1]._asdict(),
        "test": run.test[-1]._asdict(),
        "epoch_seconds": run.seconds,
        "test_seconds": run.test_seconds[-1],
    }


def keras(cell: str, seed: int, path: str, settings: dict[str, Any]) -> dict[str, Any]:
    """As a user of Keras does it, with the defaults of ``compile`` and ``fit``."""
    import keras

    keras.utils.set_random_seed(seed)
    names = (
        "num_words", "maxlen", "embedding", "units", "dropout", "recurrent_dropout", "learning_rate", "clip_norm",
    )  # fmt: skip
    model = keras_model(cell, **{name: settings[name] for name in names})
    train, test = load(path)
    ends = [time.perf_counter()]
    silent: Any = 0
    model.fit(
        *train, batch_size=settings["batch_size"], epochs=settings["epochs"], verbose=silent,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))],
    )  # fmt: skip
    evaluation = {"batch_size": EVALUATION_BATCH, "verbose": silent, "return_dict": True}
    on_train: Any = model.evaluate(*train, **evaluation)
    start = time.perf_counter()
    on_test: Any = model.evaluate(*test, **evaluation)
    return {
        "parameters": model.count_params(),
        "train": {name: float(on_train[name]) for name in ("loss", "accuracy")},
        "test": {name: float(on_test[name]) for name in ("loss", "accuracy")},
        "epoch_seconds": np.diff(ends).tolist(),
        "test_seconds": time.perf_counter() - start,
    }


SIDES = {"flax_rnn": ours, "Keras": keras}
"""By name; each takes the reviews from a file that ``save`` wrote, and returns scores, seconds and parameters."""


def save(path: Path, train: Any, test: Any) -> None:
    """Writes both splits, ``(tokens, labels)`` each, for the processes to read."""
    np.savez(path, *train, *test)


def load(path: str) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Reads what ``save`` wrote."""
    with np.load(path) as arrays:
        tokens, labels, *test = (arrays[name] for name in arrays.files)
    return (tokens, labels), (test[0], test[1])


if __name__ == "__main__":
    serve(lambda request: SIDES[sys.argv[1]](**request))
