"""One training from start to end, or from where it was interrupted; of one seed, or of several at once."""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from experiments import report, reviews, seeds
from experiments.checkpoints import Store
from experiments.logs import Logs, Timeline
from experiments.model import build
from experiments.optimizers import learning_rate, optimizer
from experiments.terminal import Meter, Stop
from experiments.training import Score, State, Steps, evaluate, mean, means, train_steps

CURVE_STEPS = 20
"""How many steps one point of a learning curve stands for; a training can stop and be saved behind each of them."""


class Interrupted(Exception):
    """The training was asked to stop; the message says what there is, and how to go on."""


@dataclass
class Snapshot:
    """All that a training changes.

    Attributes:
      runs: what was measured of each seed in the epochs behind, and in this one up to here.
      state: weights, keys, moments; of several seeds with a first axis for them.
      kept: the weights of the best epoch behind, if reviews are held out; a copy.
      sums: those of the steps of this epoch up to here, ``(loss, correct, reviews)`` each, of each seed if of several.
    """

    runs: list[report.Run]
    state: State
    kept: Any = None
    sums: list[Any] = field(default_factory=list[Any])

    @property
    def epoch(self) -> int:
        """How many epochs are behind."""
        return max(len(run.test) for run in self.runs)

    def going_on(self, options: argparse.Namespace) -> list[int]:
        """Which of the seeds are to go on; of the others, nothing that they go through beside these is looked at."""
        at_front = [number for number, run in enumerate(self.runs) if len(run.test) == self.epoch]
        return [number for number in at_front if not _is_over(self.runs[number], options)]

    def about(self) -> dict[str, Any]:
        """What is for JSON."""
        return {"runs": [report.as_json(run) for run in self.runs], "sums": self.sums}

    def arrays(self) -> Any:
        """What is not for JSON."""
        return {"state": self.state, **({} if self.kept is None else {"kept": self.kept})}


def hold_out(data: reviews.Reviews, share: float) -> tuple[reviews.Split, reviews.Split]:
    """The training reviews without the last of each label, and these: as many as ``share`` of them."""
    tokens, labels = data.train
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        (rows,) = np.nonzero(labels == label)
        held[rows[len(rows) - round(share * len(rows)) :]] = True
    return reviews.Split(tokens[~held], labels[~held]), reviews.Split(tokens[held], labels[held])


def train(
    cell: str, seed: int, data: reviews.Reviews, options: argparse.Namespace, console: Console, **more: Any
) -> tuple[report.Run, nnx.State[Any, Any]]:
    """``train_seeds`` for one."""
    (found,) = train_seeds(cell, [seed], data, options, console, **more)
    return found


def train_seeds(
    cell: str,
    numbers: Sequence[int],
    data: reviews.Reviews,
    options: argparse.Namespace,
    console: Console,
    *,
    store: Store | None = None,
    stop: Stop | None = None,
    logs: Logs | None = None,
    mesh: Mesh | None = None,
    after_epoch: Callable[[list[report.Run]], None] = lambda runs: None,
) -> list[tuple[report.Run, nnx.State[Any, Any]]]:
    """Trains a model for each seed, and evaluates it after each epoch.

    Args:
      cell, numbers, data, options, console: what to train, as on the command line, with which seeds, and where to say
        how it goes.
      store: where to save, and to go on from, what training changes.
      stop: whether to stop behind the next few steps.
      logs: where to note what is measured.
      mesh: several devices to train on.
      after_epoch: called with what was measured.

    Returns:
      What was measured of each, and the weights that are kept. These are the last ones, or where reviews are held out,
      those of the epoch with the least loss on them.

    Raises:
      FloatingPointError: if a loss is no longer finite.
      Interrupted: if ``stop`` says so.
    """
    models = [build(cell, seed, options) for seed in numbers]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(models[0], nnx.Param)))
    train, held = hold_out(data, options.validation)
    steps_of_epoch = -(-len(train.labels) // options.batch_size)
    in_all = options.epochs * steps_of_epoch
    state, steps = seeds.compile_all(models, optimizer(options, in_all), mesh)
    now = Snapshot([report.Run(cell, seed, parameters, CURVE_STEPS) for seed in numbers], state)
    name = f"{report.TITLES[cell]} {_named(numbers)}"
    if store is not None and (found := store.restore({"state": state, "kept": state.params})) is not None:
        arrays, about = found
        runs = [report.from_json(run) for run in about["runs"]]
        now = Snapshot(runs, arrays["state"], arrays.get("kept"), about["sums"])
        console.print(f"{name}: goes on from {store.last}", soft_wrap=True)
    logs = logs or Logs([], console)
    logs.begin(now.runs, Timeline(steps_of_epoch, learning_rate(options, in_all)))

    def save() -> None:
        if store is not None and not store.save(now.arrays(), now.about()):
            console.print(store.problem, style="bold red", soft_wrap=True)

    def pause() -> None:
        """Behind some steps: is it time to save, or to stop?"""
        if stop is not None and stop.signal is not None:
            save()
            raise Interrupted(f"stopped in epoch {now.epoch + 1}. " + (store.advice if store else _NOTHING_SAVED))
        if store is not None and store.is_due(len(now.sums)):
            save()

    while going_on := now.going_on(options):
        epoch = f"epoch {now.epoch + 1}/{options.epochs}"
        _pass(steps, now, going_on, train, options.batch_size, f"{name} {epoch}", console, logs, pause)
        _judge(steps, now, going_on, train, held, data.test)
        trained = [now.runs[number] for number in going_on]
        logs.epoch(trained)
        save()
        after_epoch(now.runs)
        for run in trained:
            line = f"{report.TITLES[cell]} seed {run.seed} {epoch}: {run}, on {data.name}"
            console.print(line, highlight=False, soft_wrap=True)
    kept = now.state.params if now.kept is None else now.kept
    return list(zip(now.runs, seeds.split(kept, len(numbers)), strict=True))


def _named(numbers: Sequence[int]) -> str:
    return f"seed {numbers[0]}" if len(numbers) == 1 else f"seeds {numbers[0]} to {numbers[-1]}"


_NOTHING_SAVED = "Nothing of this epoch is kept; --checkpoint DIR would have kept it."


def _pass(
    steps: Steps,
    now: Snapshot,
    going_on: Sequence[int],
    train: reviews.Split,
    size: int,
    label: str,
    console: Console,
    logs: Logs,
    pause: Callable[[], None],
) -> None:
    """Trains to the end of the epoch."""
    trained = [now.runs[number] for number in going_on]
    rest = seeds.epoch(train, size, [run.seed for run in now.runs], now.epoch, len(now.sums))
    if not now.sums:
        for run in trained:
            run.seconds.append(0.0)
    start, total = time.perf_counter(), len(train.labels)
    with Meter(label, total, min(len(now.sums) * size, total), console) as meter:
        for state, sums in train_steps(steps, now.state, rest, CURVE_STEPS, going_on):
            now.state = state
            now.sums += np.asarray(sums, np.float64).tolist()
            scores, seen = means(sums), _reviews(sums)
            seconds = time.perf_counter() - start
            for number, run in zip(going_on, trained, strict=True):
                run.curve.append(scores[number])
                run.reviews += seen
                run.seconds[-1] += seconds / len(trained)
            logs.point(trained, len(trained) * seen / seconds)
            meter.update(_reviews(now.sums), mean(now.sums))
            pause()
            start = time.perf_counter()
    now.sums = []


def _reviews(sums: Sequence[Any]) -> int:
    """How many one seed has seen."""
    return int(np.asarray(sums)[..., 2].reshape(len(sums), -1)[:, 0].sum())


def _judge(
    steps: Steps,
    now: Snapshot,
    going_on: Sequence[int],
    train: reviews.Split,
    held: reviews.Split,
    test: reviews.Split,
) -> None:
    """Evaluates the end of an epoch, and keeps it if it is the best."""

    def scores(split: reviews.Split) -> list[tuple[report.Run, Score]]:
        found = evaluate(steps, now.state, *split)
        return [(now.runs[number], found[number]) for number in going_on]

    for run, score in scores(train):
        run.train.append(score)
    if len(held.labels):
        for run, score in scores(held):
            run.validation.append(score)
        is_best = [number in going_on and run.best == len(run.validation) for number, run in enumerate(now.runs)]
        now.kept = seeds.pick(now.state.params, now.kept, is_best)
    start = time.perf_counter()
    for run, score in scores(test):
        run.test.append(score)
        run.test_seconds.append((time.perf_counter() - start) / len(going_on))


def _is_over(run: report.Run, options: argparse.Namespace) -> bool:
    if len(run.test) >= options.epochs:
        return True
    return options.patience is not None and len(run.validation) - run.best >= options.patience
