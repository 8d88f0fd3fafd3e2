"""What a run leaves behind: a table, ``results.json`` and a picture of the learning curves."""

import json
import os
import platform
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import flax_rnn
from benchmarks import processor
from experiments.files import replace
from experiments.training import Score

PUBLISHED = {"simple_rnn": Score(0.528, 0.739), "lstm": Score(0.391, 0.828), "gru": Score(0.370, 0.838)}
"""Test loss and accuracy on IMDB that we set out to reproduce, at the default settings."""

TITLES = {"simple_rnn": "SimpleRNN", "lstm": "LSTM", "gru": "GRU"}


FILES = ("results.json", "table.md", "learning_curves.png")


@dataclass
class Run:
    """One training.

    Attributes:
      cell, seed: what was trained.
      parameters: how many the model has.
      every: how many steps a point of ``curve`` stands for.
      curve: scores of the training batches, with dropout.
      train, validation, test: scores of each split at the end of each epoch, without; ``validation`` is empty where no
        reviews are held out.
      seconds: of each epoch's training, without evaluation; those of the first one with compilation.
      test_seconds: of each evaluation of the test reviews.
      reviews: how many were seen in training.
    """

    cell: str
    seed: int
    parameters: int
    every: int
    curve: list[Score] = field(default_factory=list)
    train: list[Score] = field(default_factory=list)
    validation: list[Score] = field(default_factory=list)
    test: list[Score] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    test_seconds: list[float] = field(default_factory=list)
    reviews: int = 0

    @property
    def reviews_per_second(self) -> float:
        """Speed of the training."""
        return self.reviews / sum(self.seconds)

    @property
    def best(self) -> int:
        """The epoch, from 1 on, whose weights are kept: that with the least loss on held-out reviews, or the last."""
        losses = [score.loss for score in self.validation]
        return 1 + losses.index(min(losses)) if losses else len(self.test)

    def kept(self, split: str) -> Score:
        """The score of the weights that are kept on ``"train"`` or ``"test"``."""
        return getattr(self, split)[self.best - 1]

    def __str__(self) -> str:
        scores = [("train", self.train[-1]), ("test", self.test[-1])]
        if self.validation:
            scores.insert(1, ("validation", self.validation[-1]))
        parts = [f"{name} loss {score.loss:.4f} accuracy {score.accuracy:.4f}" for name, score in scores]
        return ", ".join([*parts, f"{self.reviews_per_second:,.0f} reviews/s"])


def environment() -> dict[str, str]:
    """The machine and the versions that the results come from."""
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "device": f"{device.platform} {device.device_kind}",
        "processor": f"{processor.name()} with {processor.instruction_set()}",
        "cores": str(os.cpu_count()),
        "flax_rnn": flax_rnn.__version__,
        **{name: version(name) for name in ("jax", "flax", "optax", "numpy")},
    }


def by_cell(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each cell, in the order of their first."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.cell].append(run)
    return dict(groups)


def table(runs: Sequence[Run], data: str, is_imdb: bool) -> Table:
    """Loss and accuracy at the end of training, the mean over seeds and their range, beside the published figures."""
    seeds = len({run.seed for run in runs})
    title = f"{data}: after {len(runs[0].test)} epochs" + (f", mean of {seeds} seeds (range)" if seeds > 1 else "")
    groups = by_cell(runs)
    result = Table(title=title)
    result.add_column("")
    for name in groups:
        result.add_column(TITLES[name], justify="right")

    def row(label: str, of: Callable[[Run], float], form: str = ".3f") -> None:
        result.add_row(label, *(spread([of(run) for run in group], form) for group in groups.values()))

    published = "published" if is_imdb else "published (IMDB)"
    row("parameters", lambda run: run.parameters, ",.0f")
    row("train accuracy", lambda run: run.kept("train").accuracy)
    row("train loss", lambda run: run.kept("train").loss)
    row("test accuracy", lambda run: run.kept("test").accuracy)
    row(f"{published} test accuracy", lambda run: PUBLISHED[run.cell].accuracy)
    row("test loss", lambda run: run.kept("test").loss)
    row(f"{published} test loss", lambda run: PUBLISHED[run.cell].loss)
    row("reviews/s", lambda run: run.reviews_per_second, ",.0f")
    return result


def spread(values: list[float], form: str, average: Callable[[list[float]], Any] = np.mean) -> str:
    """An average, and the range where there is one."""
    low, high = format(min(values), form), format(max(values), form)
    return format(float(average(values)), form) + (f" ({low}-{high})" if low != high else "")


def markdown(runs: Sequence[Run], data: str, is_imdb: bool) -> str:
    """The same table as Markdown."""
    source = table(runs, data, is_imdb)
    columns = [list(column.cells) for column in source.columns]
    rows = [[str(column.header) for column in source.columns], ["---"] * len(columns), *zip(*columns, strict=True)]
    return "\n".join([f"{source.title}", "", *("| " + " | ".join(map(str, row)) + " |" for row in rows)]) + "\n"


def write(runs: Sequence[Run], data: str, is_imdb: bool, settings: dict[str, Any], folder: Path) -> list[Path]:
    """Writes ``results.json``, ``table.md`` and ``learning_curves.png`` to ``folder`` and returns their paths."""
    results = {
        "data": data,
        "is_imdb": is_imdb,
        "settings": settings,
        "environment": environment(),
        "published_on_imdb": {name: PUBLISHED[name]._asdict() for name in by_cell(runs)},
        "runs": [as_json(run) for run in runs],
    }
    paths = [folder / name for name in FILES]
    replace(paths[0], json.dumps(results, indent=1) + "\n")
    replace(paths[1], markdown(runs, data, is_imdb))
    plot(runs, data, paths[2])
    return paths


SCORES = ("curve", "train", "validation", "test")


def as_json(run: Run) -> dict[str, Any]:
    """A run as JSON has it."""
    scores = {name: [score._asdict() for score in getattr(run, name)] for name in SCORES}
    speed = {"reviews_per_second": run.reviews_per_second} if run.reviews else {}
    return asdict(run) | scores | speed


def from_json(found: dict[str, Any]) -> Run:
    """The inverse."""
    rest = {name: value for name, value in found.items() if name not in (*SCORES, "reviews_per_second")}
    scores: dict[str, Any] = {name: [Score(**score) for score in found[name]] for name in SCORES}
    return Run(**rest, **scores)


def plot(runs: Sequence[Run], data: str, path: Path) -> None:
    """Loss and accuracy against epochs: running training scores as lines, test scores as dots."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for color, (cell, group) in enumerate(by_cell(runs).items()):
        for number, run in enumerate(group):
            style: dict[str, Any] = {"color": f"C{color}"}
            per_epoch = len(run.curve) / len(run.test)
            for panel, name in zip(panels, Score._fields, strict=True):
                values = _smooth([getattr(score, name) for score in run.curve])
                panel.plot(
                    np.arange(1, len(values) + 1) / per_epoch, values, **style, linewidth=1, alpha=0.5,
                    label=f"{TITLES[cell]}, training" if number == 0 else None,
                )  # fmt: skip
                panel.plot(
                    np.arange(1, len(run.test) + 1),
                    [getattr(score, name) for score in run.test], "o", **style,
                    label=f"{TITLES[cell]}, test" if number == 0 else None,
                )  # fmt: skip
    for panel, name in zip(panels, Score._fields, strict=True):
        panel.set(xlabel="epoch", ylabel=name, title=f"{name}: {data}")
        panel.grid(alpha=0.3)
    # Below the panels, as within one it would lie on whichever curve ends there; a column for each cell.
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(by_cell(runs)), fontsize="small", frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _smooth(values: list[float], width: int = 5) -> np.ndarray:
    """Running mean over up to ``width`` values, so that a curve can be read."""
    padded = np.concatenate([[0.0], np.cumsum(values)])
    start = np.maximum(np.arange(len(values)) + 1 - width, 0)
    return (padded[1:] - padded[start]) / (np.arange(1, len(values) + 1) - start)


def show(runs: Sequence[Run], data: str, is_imdb: bool, console: Console) -> None:
    """Prints the table."""
    console.print(table(runs, data, is_imdb))
    if not is_imdb:
        console.print(f"These are {data}: the published figures are of another data set.", style="bold red")
