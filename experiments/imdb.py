"""Trains SimpleRNN, LSTM and GRU to tell favourable film reviews from unfavourable ones.

The setting is that of Keras' IMDB example: the 10,000 most frequent words, the last 80 words of each review, an
embedding of 128, one recurrent layer of 128 units with dropout 0.2 and recurrent dropout 0.2, a dense unit; Adam,
batches of 32, 2 epochs.

    python experiments/imdb.py --cell all
    python experiments/imdb.py predict "A film that one can only admire."

The second command asks the models that the first has left; predict --help explains it.
"""

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any, Self

if __package__ in (None, ""):  # run as a file rather than with -m
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from experiments import predict, report, reviews, saved
from experiments.training import LAYERS, Classifier, Score, batches, compile_steps, evaluate, train_epoch
from flax_rnn import runtime

CURVE_STEPS = 20
"""How many steps one point of a learning curve stands for."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    description, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="imdb.py", description=description, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument_group
    model = add("model")
    cells = [*LAYERS, "all"]
    model.add_argument(
        "--cell", choices=cells, default="lstm", help="recurrent layer, or all three in turn [%(default)s]"
    )
    model.add_argument("--units", type=positive, default=128, help="size of the recurrent layer [%(default)s]")
    model.add_argument("--embedding", type=positive, default=128, help="size of the word vectors [%(default)s]")
    model.add_argument("--dropout", type=_rate, default=0.2, help="rate on the layer's inputs [%(default)s]")
    model.add_argument("--recurrent-dropout", type=_rate, default=0.2, help="rate on its state [%(default)s]")
    training = add("training")
    training.add_argument("--epochs", type=positive, default=2, help="passes over the reviews [%(default)s]")
    training.add_argument("--batch-size", type=positive, default=32, help="reviews in a step [%(default)s]")
    training.add_argument("--learning-rate", type=float, default=1e-3, help="of Adam [%(default)s]")
    training.add_argument(
        "--clip-norm", type=_norm, metavar="NORM", help="scale gradients of a larger norm down to this one [never]"
    )
    training.add_argument(
        "--seed", type=int, default=0, help="of weights, dropout and the order of reviews [%(default)s]"
    )
    training.add_argument(
        "--seeds", type=positive, default=1, help="train with so many seeds, from --seed on [%(default)s]"
    )
    data = add("data")
    data.add_argument(
        "--data", choices=("auto", "imdb", "generated"), default="auto",
        help="imdb: the real reviews; generated: made-up ones; auto: the real ones, or else, after a warning, the "
        "made-up ones [%(default)s]",
    )  # fmt: skip
    data.add_argument("--data-dir", help="folder of TensorFlow Datasets [$TFDS_DATA_DIR or ~/tensorflow_datasets]")
    data.add_argument("--num-words", type=positive, default=10_000, help="size of the vocabulary [%(default)s]")
    data.add_argument("--maxlen", type=positive, default=80, help="words of a review, the last ones [%(default)s]")
    data.add_argument("--limit", type=positive, help="reviews in each split, for a quick look [all]")
    output = add("output")
    output.add_argument(
        "--output", type=Path, default=Path("runs/imdb"),
        help="folder for results.json, table.md, learning_curves.png, and of each cell the model of the first seed, as "
        "CELL.safetensors and CELL.json [%(default)s]",
    )  # fmt: skip
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    """The number that an argument of the command line is, from 1 on."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text}")
    return int(text)


def _norm(text: str) -> float:
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return float(text)


def _rate(text: str) -> float:
    if not 0 <= float(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a rate in [0, 1), got {text}")
    return float(text)


def load(arguments: argparse.Namespace) -> reviews.Reviews:
    """The reviews.

    Raises:
      reviews.DataUnavailable: if the real ones are asked for, and cannot be had.
    """
    return reviews.load(
        arguments.data,
        data_dir=arguments.data_dir,
        num_words=arguments.num_words,
        maxlen=arguments.maxlen,
        limit=arguments.limit,
        seed=arguments.seed,
    )


def build(cell: str, seed: int, arguments: argparse.Namespace, **changes: float) -> Classifier:
    """A model with fresh weights; ``changes`` replace arguments."""
    arguments = argparse.Namespace(**vars(arguments) | changes)
    return Classifier(
        cell,
        num_words=arguments.num_words,
        embedding=arguments.embedding,
        units=arguments.units,
        dropout=arguments.dropout,
        recurrent_dropout=arguments.recurrent_dropout,
        rngs=nnx.Rngs(seed),
    )


def optimizer(arguments: argparse.Namespace) -> optax.GradientTransformation:
    """Keras' Adam, whose epsilon of 1e-7 is added before the second moment's bias is corrected, not after."""
    adam = optax.inject_hyperparams(optax.adam)
    keras_adam = adam(arguments.learning_rate, eps=lambda step: 1e-7 / jnp.sqrt(1 - 0.999 ** (step + 1.0)))
    if arguments.clip_norm is None:
        return keras_adam
    return optax.chain(optax.clip_by_global_norm(arguments.clip_norm), keras_adam)


def summary(cell: str, arguments: argparse.Namespace, color: bool) -> str:
    """The model layer by layer, with shapes and counts of parameters."""
    # Without dropout, whose keys nnx.tabulate would count as parameters.
    model = build(cell, arguments.seed, arguments, dropout=0.0, recurrent_dropout=0.0)
    tokens = np.zeros((arguments.batch_size, arguments.maxlen), np.int32)
    return nnx.tabulate(model, tokens, depth=1, console_kwargs={"width": 100, "force_terminal": color})


def train(
    cell: str, seed: int, data: reviews.Reviews, arguments: argparse.Namespace, console: Console
) -> tuple[report.Run, nnx.State[Any, Any]]:
    """Trains one model and evaluates it after each epoch; returns what was measured, and the weights."""
    model = build(cell, seed, arguments)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    state, steps = compile_steps(model, optimizer(arguments))
    run = report.Run(cell, seed, parameters, CURVE_STEPS)
    for epoch in range(arguments.epochs):
        order = np.random.default_rng((seed, epoch)).permutation(len(data.train.labels))
        label = f"{report.TITLES[cell]} seed {seed} epoch {epoch + 1}/{arguments.epochs}"
        start = time.perf_counter()
        with Meter(label, len(order), console) as meter:
            epoch_batches = batches(*data.train, arguments.batch_size, order)
            state, curve = train_epoch(steps, state, epoch_batches, every=CURVE_STEPS, report=meter.update)
        run.seconds.append(time.perf_counter() - start)
        run.reviews += len(order)
        run.curve += curve
        run.train.append(evaluate(steps, state, *data.train))
        start = time.perf_counter()
        run.test.append(evaluate(steps, state, *data.test))
        run.test_seconds.append(time.perf_counter() - start)
        console.print(
            f"{label}: train loss {run.train[-1].loss:.4f} accuracy {run.train[-1].accuracy:.4f}, "
            f"test loss {run.test[-1].loss:.4f} accuracy {run.test[-1].accuracy:.4f}, "
            f"{run.reviews_per_second:,.0f} reviews/s, on {data.name}",
            highlight=False,
            soft_wrap=True,
        )
    return run, state.params


class Meter:
    """A progress bar with loss, accuracy and reviews a second; silent where the output is not a terminal."""

    def __init__(self, label: str, total: int, console: Console):
        self.start = time.perf_counter()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=8),
            TaskProgressColumn(),
            TextColumn("{task.fields[score]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(label, total=total, score="compiling")

    def update(self, seen: int, score: Score) -> None:
        """Shows the mean score of the reviews seen so far."""
        speed = seen / (time.perf_counter() - self.start)
        text = f"loss {score.loss:.3f} accuracy {score.accuracy:.3f} {speed:,.0f} reviews/s"
        self.bar.update(self.task, completed=seen, score=text)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


def main(arguments: list[str] | None = None) -> list[report.Run]:
    """Loads the reviews, trains and reports; returns what was measured. ``predict`` is a command of its own."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["predict"]:
        predict.main(arguments[1:])
        return []
    options = parse(arguments)
    runtime.keep_memory()
    console = Console() if sys.stdout.isatty() else Console(width=160)
    try:
        data = load(options)
    except reviews.DataUnavailable as error:
        console.print(str(error), style="bold red")
        raise SystemExit(1) from error
    console.print(f"Data: {data.name}, {len(data.train.labels):,} reviews to train, {len(data.test.labels):,} to test")

    runs: list[report.Run] = []
    models: list[tuple[report.Run, nnx.State[Any, Any]]] = []
    for cell in LAYERS if options.cell == "all" else [options.cell]:
        print(summary(cell, options, console.is_terminal))
        trained = [train(cell, options.seed + i, data, options, console) for i in range(options.seeds)]
        runs += [run for run, _ in trained]
        models += trained[:1]

    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    paths = report.write(runs, data.name, data.is_imdb, settings, options.output)
    paths += [path for run, params in models for path in saved.save(options.output, run, params, data, settings)]
    report.show(runs, data.name, data.is_imdb, console)
    console.print("Wrote " + ", ".join(map(str, paths)), soft_wrap=True)
    return runs


if __name__ == "__main__":
    main()
