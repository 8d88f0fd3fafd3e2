"""Trains SimpleRNN, LSTM and GRU to tell favourable film reviews from unfavourable ones.

The setting is that of Keras' IMDB example: the 10,000 most frequent words, the last 80 words of each review, an
embedding of 128, one recurrent layer of 128 units with dropout 0.2 and recurrent dropout 0.2, a dense unit; Adam,
batches of 32, 2 epochs.

    python experiments/imdb.py --cell all
    python experiments/imdb.py predict "A film that one can only admire."

The second command asks the models that the first has left; predict --help explains it.
"""

import argparse
import hashlib
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file rather than with -m
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from flax import nnx
from rich.console import Console

from experiments import files, options, predict, report, reviews, saved, trainer
from experiments.model import LAYERS, build
from experiments.terminal import Stop, patient_output
from flax_rnn import runtime

EVERY = 250
"""Steps between two saves, by default."""

NOT_OF_A_TRAINING = ("cell", "seed", "seeds", "patience", "output", "checkpoint", "every", "data", "data_dir")
"""Options that may change when a training goes on: what is trained is the same."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    return options.parse(__doc__ or "", arguments)


def summary(cell: str, chosen: argparse.Namespace, color: bool) -> str:
    """The model layer by layer, with shapes and counts of parameters."""
    # Without dropout, whose keys nnx.tabulate would count as parameters.
    model = build(cell, chosen.seed, chosen, dropout=0.0, recurrent_dropout=0.0)
    tokens = np.zeros((chosen.batch_size, chosen.maxlen), np.int32)
    return nnx.tabulate(model, tokens, depth=1, console_kwargs={"width": 100, "force_terminal": color})


def load(chosen: argparse.Namespace) -> reviews.Reviews:
    """The reviews.

    Raises:
      reviews.DataUnavailable: if they cannot be had.
    """
    return reviews.load(
        chosen.data,
        data_dir=chosen.data_dir,
        num_words=chosen.num_words,
        maxlen=chosen.maxlen,
        limit=chosen.limit,
        seed=chosen.seed,
    )


def open_store(cell: str, seed: int, data: reviews.Reviews, chosen: argparse.Namespace) -> Any:
    """Where a training is saved, or ``None`` if it is not."""
    if chosen.checkpoint is None:
        return None
    from experiments.checkpoints import Store  # orbax takes a while to import

    found = hashlib.sha256()
    for part in (*data.train, *data.test):
        found.update(part.tobytes())
    settings = {name: value for name, value in vars(chosen).items() if name not in NOT_OF_A_TRAINING}
    if chosen.schedule == "constant":  # otherwise the number of steps decides about each of them
        del settings["epochs"]
    settings |= {"cell": cell, "seed": seed, "data": data.name, "digest of the data": found.hexdigest()}
    return Store(chosen.checkpoint / f"{cell}-{seed}", settings, chosen.every or EVERY)


def train_all(chosen: argparse.Namespace, console: Console) -> list[report.Run]:
    """Trains every cell with every seed; what is measured is written after each epoch."""
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(chosen).items()}
    data = load(chosen)
    console.print(f"Data: {data.name}, {len(data.train.labels):,} reviews to train, {len(data.test.labels):,} to test")
    cells = [*LAYERS] if chosen.cell == "all" else [chosen.cell]
    names = [*report.FILES, *(name for cell in cells for name in saved.names(cell))]
    try:
        earlier = files.prepare(chosen.output, names)
    except OSError as error:
        raise files.Refused(f"--output: cannot write to {chosen.output}: {error}") from error
    if earlier is not None:
        console.print(f"What an earlier run has left in {chosen.output} is now in {earlier}", soft_wrap=True)

    runs: list[report.Run] = []
    paths: list[Path] = []

    @contextmanager
    def told() -> Generator[None]:
        try:
            yield
        except OSError as error:  # training is worth more than a picture of it
            console.print(f"--output: {error}", style="bold red", soft_wrap=True)

    def write(run: report.Run) -> None:
        everything = [*(one for one in runs if one is not run), run]
        with told():
            paths[:3] = report.write(everything, data.name, data.is_imdb, settings, chosen.output)

    with Stop() as stop:
        for cell in cells:
            print(summary(cell, chosen, console.is_terminal))
            for seed in range(chosen.seed, chosen.seed + chosen.seeds):
                store = open_store(cell, seed, data, chosen)
                try:
                    run, params = trainer.train(
                        cell, seed, data, chosen, console, store=store, stop=stop, after_epoch=write
                    )
                finally:
                    if store is not None:
                        store.close()
                runs.append(run)
                write(run)
                if seed == chosen.seed:
                    with told():
                        paths += saved.save(chosen.output, run, params, data, settings)
    report.show(runs, data.name, data.is_imdb, console)
    console.print("Wrote " + ", ".join(map(str, paths)), soft_wrap=True)
    return runs


def main(arguments: list[str] | None = None) -> list[report.Run]:
    """Loads the reviews, trains and reports; returns what was measured. ``predict`` is a command of its own."""
    with patient_output():
        return _main(sys.argv[1:] if arguments is None else arguments)


def _main(arguments: list[str]) -> list[report.Run]:
    if arguments[:1] == ["predict"]:
        predict.main(arguments[1:])
        return []
    chosen = parse(arguments)
    runtime.keep_memory()
    console = Console() if sys.stdout.isatty() else Console(width=160)
    try:
        return train_all(chosen, console)
    except trainer.Interrupted as error:
        console.print(str(error), soft_wrap=True)
        raise SystemExit(130) from error
    except KeyboardInterrupt as error:  # while there was no training to stop
        console.print("Interrupted.")
        raise SystemExit(130) from error
    except FloatingPointError as error:
        problem = f"{error}: try a --learning-rate below {chosen.learning_rate:g}"
    except reviews.DataUnavailable as error:
        problem = str(error)
    except files.Refused as error:
        problem = str(error)
    console.print(problem, style="bold red", soft_wrap=True)
    raise SystemExit(1)


if __name__ == "__main__":
    main()
