"""Shows a trained model reading: its verdict after each word, its gates and its memory.

    python experiments/gates.py "A slow start, but the end is wonderful."

The model is one that python experiments/imdb.py has left. Without a text, short reviews of the test split are read.
Each gets a picture, and gates.json has the numbers.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

if __package__ in (None, ""):  # run as a file rather than with -m
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

import flax_rnn
from experiments import reviews, saved
from experiments.drawing import Heat, Lines, draw
from experiments.model import LAYERS
from experiments.options import count
from experiments.report import TITLES

LONGEST = 40
"""Words of a short review at most."""

TURNS = 3
MINUS = "\N{MINUS SIGN}"


class Names(NamedTuple):
    """What of a layer is drawn.

    Attributes:
      gates: what to call them, by their names in the equations; means of all, and single units of the first.
      state: name and what to call it.
    """

    gates: dict[str, str]
    state: tuple[str, str]


SHOWN = {
    "lstm": Names({"f": "forget gate", "i": "input gate"}, ("c", "cell state")),
    "gru": Names({"z": "update gate", "r": "reset gate"}, ("h", "state")),
    "simple_rnn": Names({}, ("h", "state")),
}


class Reading(NamedTuple):
    """What happened while a text was read.

    Attributes:
      text, words: the text, and its K words that the model has read.
      before: how likely it was favourable ahead of the first of them.
      verdicts: the same behind each ``(K,)``; the last is the verdict on the text.
      values: gates and states ``(K, H)`` by the names of the equations.
      shares: what each unit adds to the last verdict's logit ``(H,)``.
    """

    text: str
    words: list[str]
    before: float
    verdicts: np.ndarray
    values: dict[str, np.ndarray]
    shares: np.ndarray

    @property
    def changes(self) -> np.ndarray:
        """What each word did to the verdict ``(K,)``."""
        return np.diff(self.verdicts, prepend=self.before)

    @property
    def turns(self) -> list[int]:
        """The places of the words that did most, the first of them first."""
        return sorted(np.argsort(-np.abs(self.changes), kind="stable")[:TURNS].tolist())


def read(model: saved.Model, text: str) -> Reading:
    """Has ``model`` read ``text``.

    Raises:
      ValueError: for a text without a word that the model has met.
    """
    words = model.check(text)[-model.settings["maxlen"] :]
    network = model.classifier
    if not isinstance(network.recurrent, tuple(LAYERS.values())):
        raise ValueError("model: expected one with a single layer of one direction")
    cell: Any = network.recurrent.cell
    inputs = network.embedding(jnp.asarray(model.encode([text])))
    values: Any = flax_rnn.gates(cell.core, cell.weights(), inputs)
    states = jnp.pad(values.h[0], ((1, 0), (0, 0)))  # the state ahead of all steps
    verdicts = np.asarray(jax.nn.sigmoid(network.dense(states)), np.float64)[:, 0]
    last = {name: np.asarray(array[0, -len(words) :], np.float64) for name, array in values._asdict().items()}
    shares = last["h"][-1] * np.asarray(network.dense.kernel[...], np.float64)[:, 0]
    count = len(words)
    return Reading(text, words, verdicts[-count - 1].item(), verdicts[-count:], last, shares)


def picture(model: saved.Model, reading: Reading, units: int) -> str:
    """An SVG of a reading, with the ``units`` that had the most to do with the verdict."""
    gates, (state, title) = SHOWN[model.cell]
    chosen = np.argsort(-np.abs(reading.shares), kind="stable")[:units].tolist()
    signs = ["+" if reading.shares[unit] > 0 else MINUS for unit in chosen]
    which = f"the units that most raised (+) or lowered ({MINUS}) the verdict: {', '.join(map(str, chosen))}"
    marks = {place: f"{reading.changes[place]:+.2f}".replace("-", MINUS) for place in reading.turns}
    panels: list[Lines | Heat] = [
        Lines("verdict", "how likely the text is favourable, behind each word", [reading.verdicts])
    ]
    if gates:
        (name, words), (other, others) = gates.items()
        note = f"mean of all units, 1 is open; blue {words} {name}, orange {others} {other}"
        panels.append(Lines("gates", note, [reading.values[gate].mean(1) for gate in gates], width=70))
        note = f"{words}, full colour is open; {which}"
        panels.append(Heat(f"gate {name}", note, reading.values[name][:, chosen], signs, 1.0))
    values = reading.values[state][:, chosen]
    most = np.abs(values).max().item()
    note = f"{title}, blue above 0, orange below, full colour {most:.2f}; {'the same units' if gates else which}"
    panels.append(Heat(f"state {state}", note, values, signs, most))
    verdict = f"{reading.verdicts[-1]:.3f}, {'favourable' if reading.verdicts[-1] > 0.5 else 'unfavourable'}"
    return draw(f"{TITLES[model.cell]} reading: {verdict}", str(model), reading.words, marks, panels)


def numbers(reading: Reading, model: saved.Model, label: float | None) -> dict[str, Any]:
    """What goes into ``gates.json``, rounded to four digits."""
    gates = SHOWN[model.cell].gates

    def rounded(array: np.ndarray) -> list[float]:
        return array.round(4).tolist()

    return {
        "text": reading.text,
        "label": label,
        "words": reading.words,
        "before": round(reading.before, 4),
        "verdicts": rounded(reading.verdicts),
        "turns": [
            {"word": reading.words[place], "place": place, "change": round(reading.changes[place].item(), 4)}
            for place in reading.turns
        ],
        "means": {words: rounded(reading.values[name].mean(1)) for name, words in gates.items()},
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    description, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="gates.py", description=description, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="what to read; without, reviews of the test split")
    parser.add_argument("--reviews", type=count(), default=3, help="how many of these [%(default)s]")
    parser.add_argument("--data-dir", help="folder of TensorFlow Datasets [$TFDS_DATA_DIR or ~/tensorflow_datasets]")
    parser.add_argument("--model", type=Path, default=Path("runs/imdb"), help="folder with models [%(default)s]")
    parser.add_argument("--cell", choices=[*LAYERS], default="lstm", help="which of them reads [%(default)s]")
    parser.add_argument("--units", type=count(), default=8, help="how many units to show [%(default)s]")
    parser.add_argument("--output", type=Path, default=Path("runs/gates"), help="folder for pictures [%(default)s]")
    return parser.parse_args(arguments)


def short_reviews(model: saved.Model, count: int, data_dir: str | None) -> list[tuple[str, float | None]]:
    """The first ``count`` test reviews of at most ``LONGEST`` words, with their labels, of the data of the training."""
    source = "generated" if model.data == reviews.GENERATED else "imdb"
    _, _, test = reviews.load_texts(source, data_dir, model.settings["limit"], model.seed)
    pairs = zip(test.texts, test.labels.tolist(), strict=True)
    return [(text, label) for text, label in pairs if len(reviews.tokenize(text)) <= LONGEST][:count]


def main(arguments: list[str] | None = None) -> None:
    """Reads, draws and writes; ends with a line on standard error where that cannot be."""
    options = parse(arguments)
    try:
        model = saved.load(options.model, options.cell)
        texts = [(text, None) for text in options.texts]
        texts = texts or short_reviews(model, options.reviews, options.data_dir)
        readings = [read(model, text) for text, _ in texts]
    except (saved.ModelUnavailable, reviews.DataUnavailable, ValueError) as error:
        raise SystemExit(f"gates.py: {error}") from error
    options.output.mkdir(parents=True, exist_ok=True)
    print(model)
    for number, reading in enumerate(readings, 1):
        path = options.output / f"{model.cell}-{number}.svg"
        path.write_text(picture(model, reading, options.units))
        turns = ", ".join(f"{reading.words[place]} {reading.changes[place]:+.2f}" for place in reading.turns)
        print(f"{reading.verdicts[-1]:.3f}, turned most by: {turns}. Wrote {path}")
    found = [numbers(reading, model, label) for reading, (_, label) in zip(readings, texts, strict=True)]
    content = {"model": str(model), "cell": model.cell, "readings": found}
    (options.output / "gates.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
