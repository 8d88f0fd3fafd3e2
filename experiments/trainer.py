"""One training from start to end, or from where it was interrupted."""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from experiments import report, reviews
from experiments.checkpoints import Store
from experiments.model import build
from experiments.optimizers import optimizer
from experiments.terminal import Meter, Stop
from experiments.training import State, Steps, batches, compile_steps, evaluate, mean, train_steps

CURVE_STEPS = 20
"""How many steps one point of a learning curve stands for; a training can stop and be saved behind each of them."""


class Interrupted(Exception):
    """The training was asked to stop; the message says what there is, and how to go on."""


@dataclass
class Snapshot:
    """All that a training changes.

    Attributes:
      run: what was measured in the epochs behind, and in this one up to here.
      state: weights, keys, moments.
      kept: the weights of the best epoch behind, if reviews are held out; a copy.
      sums: those of the steps of this epoch up to here, ``(loss, correct, reviews)`` each.
    """

    run: report.Run
    state: State
    kept: Any = None
    sums: list[list[float]] = field(default_factory=list[list[float]])

    @property
    def epoch(self) -> int:
        """How many epochs are behind."""
        return len(self.run.test)

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
    cell: str,
    seed: int,
    data: reviews.Reviews,
    options: argparse.Namespace,
    console: Console,
    *,
    store: Store | None = None,
    stop: Stop | None = None,
    mesh: Mesh | None = None,
    after_epoch: Callable[[report.Run], None] = lambda run: None,
) -> tuple[report.Run, nnx.State[Any, Any]]:
    """Trains one model and evaluates it after each epoch; returns what was measured, and the weights that are kept.

    These are the last ones, or where reviews are held out, those of the epoch with the least loss on them.

    Args:
      cell, seed, data, options, console: what to train, as on the command line, and where to say how it goes.
      store: where to save, and to go on from, what training changes.
      stop: whether to stop behind the next few steps.
      mesh: several devices to train on.
      after_epoch: called with what was measured.

    Raises:
      FloatingPointError: if the loss is no longer finite.
      Interrupted: if ``stop`` says so.
    """
    model = build(cell, seed, options)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    train, held = hold_out(data, options.validation)
    in_all = options.epochs * -(-len(train.labels) // options.batch_size)
    state, steps = compile_steps(model, optimizer(options, in_all), mesh)
    now = Snapshot(report.Run(cell, seed, parameters, CURVE_STEPS), state)
    if store is not None and (found := store.restore({"state": state, "kept": state.params})) is not None:
        arrays, about = found
        now = Snapshot(report.from_json(about["run"]), arrays["state"], arrays.get("kept"), about["sums"])
        console.print(f"{report.TITLES[cell]} seed {seed}: goes on from {store.last}", soft_wrap=True)

    def save() -> None:
        if store is not None and not store.save(now.arrays(), {"run": report.as_json(now.run), "sums": now.sums}):
            console.print(store.problem, style="bold red", soft_wrap=True)

    def pause() -> None:
        """Behind some steps: is it time to save, or to stop?"""
        if stop is not None and stop.signal is not None:
            save()
            raise Interrupted(f"stopped in epoch {now.epoch + 1}. " + (store.advice if store else _NOTHING_SAVED))
        if store is not None and store.is_due(len(now.sums)):
            save()

    while now.epoch < options.epochs and not _is_patience_over(now.run, options.patience):
        label = f"{report.TITLES[cell]} seed {seed} epoch {now.epoch + 1}/{options.epochs}"
        _pass(steps, now, train, options.batch_size, label, console, pause)
        _judge(steps, now, train, held, data.test)
        save()
        after_epoch(now.run)
        console.print(f"{label}: {now.run}, on {data.name}", highlight=False, soft_wrap=True)
    return now.run, now.state.params if now.kept is None else now.kept


_NOTHING_SAVED = "Nothing of this epoch is kept; --checkpoint DIR would have kept it."


def _pass(
    steps: Steps,
    now: Snapshot,
    train: reviews.Split,
    size: int,
    label: str,
    console: Console,
    pause: Callable[[], None],
) -> None:
    """Trains to the end of the epoch."""
    run = now.run
    order = np.random.default_rng((run.seed, now.epoch)).permutation(len(train.labels))
    rest = order[len(now.sums) * size :]
    if not now.sums:
        run.seconds.append(0.0)
    start = time.perf_counter()
    with Meter(label, len(order), len(order) - len(rest), console) as meter:
        for state, sums in train_steps(steps, now.state, batches(*train, size, rest), run.every):
            now.state = state
            now.sums += np.asarray(sums, np.float64).tolist()
            run.curve.append(mean(sums))
            run.reviews += int(sum(one[2] for one in sums))
            meter.update(int(sum(one[2] for one in now.sums)), mean(now.sums))
            run.seconds[-1] += time.perf_counter() - start
            pause()
            start = time.perf_counter()
    now.sums = []


def _judge(steps: Steps, now: Snapshot, train: reviews.Split, held: reviews.Split, test: reviews.Split) -> None:
    """Evaluates the end of an epoch, and keeps it if it is the best."""
    run = now.run
    run.train.append(evaluate(steps, now.state, *train))
    if len(held.labels):
        run.validation.append(evaluate(steps, now.state, *held))
        if run.best == len(run.validation):
            now.kept = jax.tree.map(jnp.copy, now.state.params)
    start = time.perf_counter()
    run.test.append(evaluate(steps, now.state, *test))
    run.test_seconds.append(time.perf_counter() - start)


def _is_patience_over(run: report.Run, patience: int | None) -> bool:
    return patience is not None and len(run.validation) - run.best >= patience
