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

import jax
import numpy as np
from flax import nnx
from rich.console import Console

from experiments import (
    devices,
    exports,
    files,
    logs,
    options,
    predict,
    processes,
    report,
    reviews,
    saved,
    trainer,
)
from experiments.model import LAYERS, build
from experiments.terminal import patient_output
from flax_rnn import runtime

EVERY = 250
"""Steps between two saves, by default."""

NOT_OF_A_TRAINING = (
    "cell", "seed", "seeds", "at_once", "patience", "output", "checkpoint", "every", "export", "log", "tensorboard",
    "data", "data_dir", *options.DEVICES,
)  # fmt: skip
"""Options that may change when a training goes on: what is trained is the same."""

MAY_DIFFER = ("output", "checkpoint", "export", "log", "tensorboard", "data_dir", *options.DEVICES)
"""Options that may differ between the processes of a training: only the first one writes."""


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


def digest(data: reviews.Reviews) -> str:
    """A number of all reviews."""
    found = hashlib.sha256()
    for part in (*data.train, *data.test):
        found.update(part.tobytes())
    return found.hexdigest()


def open_store(cell: str, seeds: list[int], data: reviews.Reviews, chosen: argparse.Namespace) -> Any:
    """Where a training is saved, or ``None`` if it is not."""
    if chosen.checkpoint is None:
        return None
    from experiments.checkpoints import Follower, Store  # orbax takes a while to import

    if not processes.is_first():
        return Follower()
    settings = {name: value for name, value in vars(chosen).items() if name not in NOT_OF_A_TRAINING}
    if chosen.schedule == "constant":  # otherwise the number of steps decides about each of them
        del settings["epochs"]
    settings |= {"cell": cell, "seed": seeds if len(seeds) > 1 else seeds[0]}
    settings |= {"data": data.name, "digest of the data": digest(data)}
    name = "-".join(map(str, [cell, *sorted({seeds[0], seeds[-1]})]))
    return Store(chosen.checkpoint / name, settings, chosen.every or EVERY)


def open_logs(cells: list[str], seeds: list[int], chosen: argparse.Namespace, console: Console) -> logs.Logs:
    """Those that are asked for; earlier ones are set aside, unless a training may go on."""
    if not processes.is_first():
        return logs.Logs([], console)
    is_new = chosen.checkpoint is None or not chosen.checkpoint.exists()
    found: list[logs.JsonLines | logs.Events] = []
    option = ""
    try:
        if chosen.tensorboard is not None:
            option, names = "--tensorboard", [f"{cell}-{seed}" for cell in cells for seed in seeds]
            found.append(logs.Events(chosen.tensorboard, names, is_new))
        if chosen.log is not None:
            option = "--log"
            found.append(logs.JsonLines(chosen.log, is_new))
    except OSError as error:
        raise files.Refused(f"{option}: cannot write: {error}") from error
    for log in found:
        tell_earlier(log.earlier, console)
    return logs.Logs(found, console)


def tell_earlier(folder: Path | None, console: Console) -> None:
    """Where a run has put what an earlier one had left."""
    if folder is not None:
        console.print(f"What an earlier run has left in {folder.parent} is now in {folder}", soft_wrap=True)


def train_all(chosen: argparse.Namespace, console: Console) -> list[report.Run]:
    """Trains every cell with every seed; what is measured is written after each epoch."""
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(chosen).items()}
    mesh = devices.make_mesh(chosen)
    data = load(chosen)
    alike = {name: value for name, value in vars(chosen).items() if name not in MAY_DIFFER}
    processes.check_alike(alike | {"data": data.name, "digest of the data": digest(data)})
    console.print(f"Data: {data.name}, {len(data.train.labels):,} reviews to train, {len(data.test.labels):,} to test")
    cells = [*LAYERS] if chosen.cell == "all" else [chosen.cell]
    names = [*report.FILES, *(name for cell in cells for name in (*saved.names(cell), *exports.names(cell)))]
    numbers = list(range(chosen.seed, chosen.seed + chosen.seeds))
    notes = open_logs(cells, numbers, chosen, console)
    try:
        if processes.is_first():
            tell_earlier(files.prepare(chosen.output, names), console)
    except OSError as error:
        raise files.Refused(f"--output: cannot write to {chosen.output}: {error}") from error

    runs: dict[tuple[str, int], report.Run] = {}
    paths: list[Path] = []

    @contextmanager
    def told() -> Generator[None]:
        try:
            yield
        except OSError as error:  # training is worth more than a picture of it
            console.print(f"--output: {error}", style="bold red", soft_wrap=True)

    def write(trained: list[report.Run]) -> None:
        runs.update({(run.cell, run.seed): run for run in trained})
        if not processes.is_first():
            return
        with told():
            paths[:3] = report.write([*runs.values()], data.name, data.is_imdb, settings, chosen.output)

    with processes.Stop() as stop:
        for cell in cells:
            if processes.is_first():
                print(summary(cell, chosen, console.is_terminal))
            for seeds in [numbers] if chosen.at_once else [[number] for number in numbers]:
                store = open_store(cell, seeds, data, chosen)
                try:
                    trained = trainer.train_seeds(
                        cell, seeds, data, chosen, console,
                        store=store, stop=stop, logs=notes, mesh=mesh, after_epoch=write,
                    )  # fmt: skip
                finally:
                    if store is not None:
                        store.close()
                write([run for run, _ in trained])
                if chosen.seed in seeds and processes.is_first():
                    run, params = trained[0]
                    with told():
                        paths += saved.save(chosen.output, run, params, data, settings)
                        paths += exports.write(chosen.output, cell, params, chosen)
    report.show([*runs.values()], data.name, data.is_imdb, console)
    console.print("Wrote " + ", ".join(map(str, paths)), soft_wrap=True)
    return [*runs.values()]


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
    devices.ask_for(chosen.devices)
    console = Console() if sys.stdout.isatty() else Console(width=160)
    try:
        with processes.together(chosen, trainer.Interrupted, FloatingPointError):
            console.quiet = not processes.is_first()
            return train_all(chosen, console)
    except trainer.Interrupted as error:
        console.print(str(error), soft_wrap=True)
        raise SystemExit(130) from error
    except KeyboardInterrupt as error:  # while there was no training to stop
        console.print("Interrupted.")
        raise SystemExit(130) from error
    except FloatingPointError as error:
        problem = f"{error}: try a --learning-rate below {chosen.learning_rate:g}"
    except (reviews.DataUnavailable, files.Refused) as error:
        problem = str(error) if processes.is_first() else f"Process {jax.process_index()}: {error}"
        console.quiet = False  # the other processes do not have it
    console.print(problem, style="bold red", soft_wrap=True)
    raise SystemExit(1)


if __name__ == "__main__":
    main()
