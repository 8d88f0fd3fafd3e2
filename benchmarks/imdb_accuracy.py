"""Accuracy and time of the IMDB experiment: ours against Keras itself, on JAX, over the same number of seeds.

Both train the model of experiments/imdb.py on the same reviews, each as its user would: ours with that command's
settings of the runtime, Keras with fit as it is. Each training has a process of its own, and the two take turns: for
each seed all cells, for each cell ours and then Keras'. A seed is that of weights, dropout and the order of reviews,
and draws others on either side. The results are written after each training.

Times are those of training alone: batches, steps, metrics, and in the first epoch the compilation. Importing, reading
the reviews and evaluating come on top.

    python -m benchmarks.imdb_accuracy --seeds 6

The options of experiments/imdb.py are taken, too, with their defaults but for --data imdb, --cell all and --seeds 6.
"""

import importlib.util
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import command
from benchmarks.imdb_training import SIDES, save
from benchmarks.progress import progress
from benchmarks.record import RESULTS, write
from benchmarks.tables import described, markdown
from benchmarks.timing import machine
from benchmarks.workers import Worker, exit_on_termination
from experiments import imdb, reviews
from experiments.model import LAYERS
from experiments.report import PUBLISHED, TITLES, spread

ENVIRONMENTS = {"flax_rnn": {}, "Keras": {"KERAS_BACKEND": "jax"}}
SETTINGS = (
    "num_words", "maxlen", "embedding", "units", "dropout", "recurrent_dropout", "epochs", "batch_size",
    "learning_rate", "clip_norm",
)  # fmt: skip
"""The options that decide what is trained."""

Run = dict[str, Any]
"""What ``train`` returns."""

TIMES: dict[str, Callable[[Run], float]] = {
    "training": lambda run: sum(run["epoch_seconds"]),
    "first epoch": lambda run: run["epoch_seconds"][0],
    "last epoch": lambda run: run["epoch_seconds"][-1],
    "evaluation": lambda run: run["test_seconds"],
}


def train(side: str, cell: str, seed: int, path: Path, settings: dict[str, Any]) -> Run:
    """One training in a new process, and what was measured of it."""
    worker = Worker("benchmarks.imdb_training", side, environment=ENVIRONMENTS[side])
    try:
        found = worker.ask(cell=cell, seed=seed, path=str(path), settings=settings)
    finally:
        worker.close()
    return {"side": side, "cell": cell, "seed": seed, **found}


def order(cells: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, str, int]]:
    """Side, cell and seed of all trainings: a seed is complete before the next one begins."""
    return [(side, cell, seed) for seed in seeds for cell in cells for side in SIDES]


def paired(runs: Sequence[Run], side: str, cell: str) -> list[Run]:
    """The runs of a side whose seeds the other side has, too."""
    seeds = [{run["seed"] for run in runs if (run["side"], run["cell"]) == (name, cell)} for name in SIDES]
    both = set.intersection(*seeds)
    return [run for run in runs if (run["side"], run["cell"]) == (side, cell) and run["seed"] in both]


def table(runs: Sequence[Run], is_imdb: bool) -> str:
    """The mean of losses and accuracies and the median of times, with ranges, beside the published figures."""
    cells = [cell for cell in LAYERS if paired(runs, "Keras", cell)]
    rows: list[list[str]] = []

    def row(label: str, who: str, figure: Callable[[str], str]) -> None:
        rows.append([label, who, *map(figure, cells)])

    def values(side: str, cell: str, of: Callable[[Run], float]) -> list[float]:
        return [of(run) for run in paired(runs, side, cell)]

    def sides(label: str, of: Callable[[Run], float], average: Callable[[list[float]], Any], form: str) -> None:
        for side in SIDES:
            row(label, side, lambda cell, side=side: spread(values(side, cell, of), form, average))

    row("seeds", "both", lambda cell: str(len(paired(runs, "Keras", cell))))
    sides("parameters", lambda run: run["parameters"], np.mean, ",.0f")
    for split in ("test", "train"):
        for score in ("accuracy", "loss"):
            sides(f"{split} {score}", lambda run, key=(split, score): run[key[0]][key[1]], np.mean, ".3f")
            if split == "test":
                who = "published" if is_imdb else "published (IMDB)"
                row(f"{split} {score}", who, lambda cell, score=score: f"{getattr(PUBLISHED[cell], score):.3f}")
    for label, of in TIMES.items():
        sides(f"{label}, s", of, np.median, ".1f")
        row(
            f"{label}, s", "Keras / flax_rnn",
            lambda cell, of=of: f"{np.median(values('Keras', cell, of)) / np.median(values('flax_rnn', cell, of)):.2f}",
        )  # fmt: skip
    return markdown(["", "", *(TITLES[cell] for cell in cells)], rows, 2)


def page(everything: dict[str, Any]) -> str:
    """The whole as Markdown."""
    settings = everything["settings"]
    return "\n".join(
        [
            f"# {settings['data']}, beside Keras itself\n",
            f"`{everything['command']}`\n",
            f"{described(everything['machine'], _NAMED)}. Keras runs on JAX.\n",
            f"After {settings['epochs']} epochs of {settings['train_reviews']:,} reviews in batches of "
            f"{settings['batch_size']}: the mean over seeds (range), and of times the median (range).\n",
            table(everything["runs"], settings["data"] == reviews.IMDB),
            "Training is all epochs, with batches, metrics and, in the first epoch, compilation; importing, reading "
            f"and evaluating come on top. Evaluation is that of the {settings['test_reviews']:,} test reviews, "
            "compiled before. Each training had a process of its own, ours and Keras' in turns.\n",
        ]
    )  # fmt: skip


_NAMED = ("jax", "flax", "optax", "keras", "numpy")


def earlier(path: Path, settings: dict[str, Any], here: dict[str, Any]) -> list[Run]:
    """The runs of a file that was left unfinished.

    Raises:
      SystemExit: if they are of other settings or of another machine.
    """
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    for name, value in (("settings", settings), ("machine", here)):
        if found[name] != value:
            raise SystemExit(f"imdb_accuracy: {path} is of other {name}: {found[name]}; choose another --output")
    return found["runs"]


def main(arguments: list[str] | None = None) -> None:
    """Trains, prints and writes."""
    parser = command.parser("imdb_accuracy", __doc__)
    parser.add_argument("--resume", action="store_true", help="go on with an --output that was left unfinished")
    parser.add_argument(
        "--output", type=Path, default=RESULTS / "imdb_accuracy", help="of the results, without ending"
    )  # fmt: skip
    own, others = parser.parse_known_args(arguments)
    options = imdb.parse(["--data", "imdb", "--cell", "all", "--seeds", "6", *others])
    if importlib.util.find_spec("keras") is None:
        raise SystemExit("imdb_accuracy: Keras is not installed; pip install -e '.[benchmarks]' installs it")
    try:
        data = imdb.load(options)
    except reviews.DataUnavailable as error:
        raise SystemExit(f"imdb_accuracy: {error}") from error
    sizes = {"train_reviews": len(data.train.labels), "test_reviews": len(data.test.labels)}
    settings = {"data": data.name, **sizes, **{name: getattr(options, name) for name in SETTINGS}}
    here = machine()
    runs = earlier(own.output.with_name(f"{own.output.name}.json"), settings, here) if own.resume else []
    called = command.line("imdb_accuracy", arguments)
    everything = {"command": called, "machine": here, "settings": settings, "runs": runs}
    cells = list(LAYERS) if options.cell == "all" else [options.cell]
    had = {(run["side"], run["cell"], run["seed"]) for run in runs}
    seeds = range(options.seed, options.seed + options.seeds)
    wanted = [training for training in order(cells, seeds) if training not in had]
    exit_on_termination()
    with tempfile.TemporaryDirectory() as folder, progress(len(wanted)) as shown:
        path = Path(folder) / "reviews.npz"
        save(path, data.train, data.test)
        for side, cell, seed in wanted:
            label = f"{TITLES[cell]} seed {seed} {side}"
            shown.now(label)
            runs.append(train(side, cell, seed, path, settings))
            shown.done(f"{label}: {_spoken(runs[-1])}")
            write(own.output, everything, page(everything))
    print("\n" + page(everything))


def _spoken(run: Run) -> str:
    seconds = " + ".join(f"{value:.1f}" for value in run["epoch_seconds"])
    return f"test accuracy {run['test']['accuracy']:.4f} loss {run['test']['loss']:.4f}, trained in {seconds} s"


if __name__ == "__main__":
    main()
