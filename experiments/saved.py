"""A trained model in a folder: its weights, and what is needed to read a text as the training did.

``CELL.safetensors`` has the weights, ``CELL.json`` the settings and all words of the training reviews by rank, which
tell the number of each word, and which words the model has never met.
"""

import argparse
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments import reviews
from experiments.model import Classifier, build
from experiments.report import TITLES, Run
from flax_rnn import convert

_MOST = 1 << 24  # words of a review, or of a vocabulary: more is damage


class ModelUnavailable(RuntimeError):
    """There is no such model, or its files are not those of one; the message says what to do about it."""


@dataclass(frozen=True)
class Model:
    """A trained model.

    Attributes:
      cell: its recurrent layer, one of ``TITLES``.
      data: the name of the reviews that it was trained on.
      seed, accuracy: of the training, and on the test reviews behind it.
      settings: the arguments of the training.
      words: those of the training reviews, by rank.
      classifier: the network, without dropout.
    """

    cell: str
    data: str
    seed: int
    accuracy: float
    settings: dict[str, Any]
    words: list[str]
    classifier: Classifier

    def __str__(self) -> str:
        return f"{TITLES[self.cell]} trained on {self.data}, seed {self.seed}, test accuracy {self.accuracy:.3f}"

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each word."""
        return reviews.number(self.words)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """The texts as the training had them: ``(N, maxlen)`` int32."""
        sizes = {name: self.settings[name] for name in ("num_words", "maxlen")}
        return reviews.encode(texts, self.numbers, **sizes)

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """How likely each of the texts is favourable, as the model has it."""
        return np.asarray(jax.nn.sigmoid(self.classifier(jnp.asarray(self.encode(texts)))), np.float64).tolist()

    def check(self, text: str) -> list[str]:
        """The words of a text that the model has met, which are what it reads.

        Raises:
          ValueError: if there are none.
        """
        words = reviews.tokenize(text)
        if not words:
            raise ValueError("text: expected words, got none")
        known = [word for word in words if word in self.numbers]
        if not known:
            raise ValueError(f"text: expected a word that the training reviews have, got none in {words[:10]}")
        return known


def save(
    folder: Path, run: Run, params: nnx.State[Any, Any], data: reviews.Reviews, settings: dict[str, Any]
) -> list[Path]:
    """Writes a model to ``folder``, in place of an earlier one of its cell, and returns the paths of the two files."""
    weights, about = _paths(folder, run.cell)
    convert.save_safetensors(weights, nnx.to_pure_dict(params))
    content = {
        "cell": run.cell, "data": data.name, "seed": run.seed, "accuracy": run.kept("test").accuracy,
        "settings": settings, "words": data.words,
    }  # fmt: skip
    about.write_text(json.dumps(content) + "\n")
    return [weights, about]


def load(folder: Path, cell: str) -> Model:
    """Reads what ``save`` wrote.

    Raises:
      ModelUnavailable: if it is not there, or broken.
    """
    weights, about = _paths(folder, cell)
    if not (weights.is_file() and about.is_file()):
        raise ModelUnavailable(
            f"there is no {TITLES[cell]} in {folder}: train one by "
            f"`python experiments/imdb.py --cell {cell} --output {folder}`"
        )
    try:
        content = json.loads(about.read_text())
        _check(content)
        fresh = functools.partial(
            build, cell, 0, argparse.Namespace(**content["settings"]), dropout=0.0, recurrent_dropout=0.0
        )
        # The sizes are those of the weights before anything of these sizes is made.
        shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(fresh), nnx.Param))
        arrays = convert.load_safetensors(weights, shapes)
        classifier = fresh()
        state = nnx.state(classifier, nnx.Param)
        nnx.replace_by_pure_dict(state, arrays)
        nnx.update(classifier, state)
        return Model(**content, classifier=classifier)
    except (ValueError, KeyError, TypeError, OverflowError, RuntimeError) as error:
        raise ModelUnavailable(f"{about} and {weights} are not those of a model: {error!r}") from error


_KINDS = {"cell": str, "data": str, "seed": int, "accuracy": float, "settings": dict, "words": list}


def _check(content: Any) -> None:
    """Raises ``ValueError`` unless this is what ``save`` writes of a model."""
    if not isinstance(content, dict) or any(not isinstance(content.get(name), kind) for name, kind in _KINDS.items()):
        raise ValueError(f"expected an object with {', '.join(_KINDS)}")
    if not all(isinstance(word, str) for word in content["words"]):
        raise ValueError("words: expected strings")
    for name in ("num_words", "maxlen"):
        if type(value := content["settings"].get(name)) is not int or not 1 <= value < _MOST:
            raise ValueError(f"{name}: expected a whole number from 1 to {_MOST:,}, got {value!r}")


def load_all(folder: Path, cell: str | None) -> list[Model]:
    """The model of ``cell``, or of all cells that there are.

    Raises:
      ModelUnavailable: if there is none, or one is broken.
    """
    found = [name for name in TITLES if all(path.is_file() for path in _paths(folder, name))]
    if cell is None and not found:
        raise ModelUnavailable(
            f"there is no model in {folder}: train one by `python experiments/imdb.py --output {folder}`"
        )
    return [load(folder, name) for name in (found if cell is None else [cell])]


def names(cell: str) -> tuple[str, str]:
    """The files of a model."""
    return f"{cell}.safetensors", f"{cell}.json"


def _paths(folder: Path, cell: str) -> tuple[Path, Path]:
    weights, about = names(cell)
    return folder / weights, folder / about
