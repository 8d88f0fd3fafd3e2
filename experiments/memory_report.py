"""What ``memory.py`` leaves behind: ``results.json``, and tables and pictures that are made of it and nothing else.

    python -m experiments.memory_report docs/figures/why-gates

makes tables and pictures anew of the results in a folder.
"""

import io
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SOLVED = 0.1
"""A task counts as learned where the error is below this part of chance."""

INK, PAPER, RULE = "#17202a", "#ffffff", "#51606f"
COLORS = {"SimpleRNN": "#b5520b", "GRU": "#0a7d5c", "LSTM": "#0b5cad", "LSTM, open": "#7a3fa0"}
MARKERS = {"SimpleRNN": "s", "GRU": "^", "LSTM": "o", "LSTM, open": "D"}
# A line that lies on another one lets it be seen.
LOOKS: dict[str, Any] = {"GRU": {"markersize": 9}, "LSTM": {"markersize": 5, "linestyle": (0, (4, 2))}}
DARK = {
    INK: "#eef2f6", PAPER: "#12171d", RULE: "#8b9aab",
    "#b5520b": "#f0a35e", "#0a7d5c": "#6fcfb0", "#0b5cad": "#7db8f5", "#7a3fa0": "#c9a2f2",
}  # fmt: skip
"""What colours become on a dark page."""
STYLE: Any = {
    "font.size": 11, "axes.titlesize": 12, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.alpha": 0.25, "grid.color": RULE, "text.color": INK, "axes.edgecolor": RULE,
    "axes.labelcolor": INK, "axes.titlecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "figure.facecolor": PAPER, "axes.facecolor": PAPER,
}  # fmt: skip
NAMES = {
    "adding": ("Adding", "steps", "mean squared error", ".5f"),
    "copying": ("Copying", "blanks", "share of wrong symbols", ".3f"),
}
MINUS = "\N{MINUS SIGN}"
STEPS_BACK = (2, 5, 10, 20, 50, 100, 200)


def spread(values: np.ndarray) -> dict[str, Any]:
    """Median, least and largest along the first axis, which is that of seeds."""
    named = {"median": np.median(values, axis=0), "low": np.min(values, axis=0), "high": np.max(values, axis=0)}
    return {name: value.tolist() for name, value in named.items()}


def rounded(found: Any) -> Any:
    """The same with four digits of each number that has a fraction; more would say nothing."""
    match found:
        case dict():
            return {name: rounded(value) for name, value in found.items()}
        case list():
            return [rounded(value) for value in found]
        case float():
            return float(f"{found:.4g}")
        case _:
            return found


def write(results: dict[str, Any], folder: Path) -> list[Path]:
    """Writes everything to ``folder`` and returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("results.json", "tables.md")]
    paths[0].write_text(json.dumps(results, indent=None, separators=(",", ":")) + "\n")
    paths[1].write_text(tables(results))
    for name, plot in PICTURES.items():
        path = folder / f"{name}.svg"
        with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
            figure, text = plot(results), io.StringIO()
            figure.savefig(text, format="svg", metadata={"Date": None})
            plt.close(figure)
        path.write_text(themed(text.getvalue()))
        paths.append(path)
    return paths


def themed(picture: str) -> str:
    """An SVG whose colours go by the page: light or dark."""
    names = {color: f"--{number}" for number, color in enumerate(DARK)}
    light = " ".join(f"{name}: {color};" for color, name in names.items())
    dark = " ".join(f"{name}: {DARK[color]};" for color, name in names.items())
    for color, name in names.items():
        picture = picture.replace(f": {color}", f": var({name})")
    style = f"<style>svg {{ {light} }} @media (prefers-color-scheme: dark) {{ svg {{ {dark} }} }}</style>"
    return picture.replace(" <defs>", f" {style}\n <defs>", 1)


def errors(results: dict[str, Any], task: str, cell: str) -> dict[int, dict[str, float]]:
    """By length the errors of a cell in a task, over the seeds."""
    found: dict[int, list[float]] = {}
    for run in results["runs"]:
        if (run["task"], run["cell"]) == (task, cell):
            found.setdefault(run["length"], []).append(run["error"])
    return {length: spread(np.array(values)) for length, values in sorted(found.items())}


def reach(results: dict[str, Any], task: str, cell: str) -> int | None:
    """The largest length up to which all seeds have learned the task; ``None`` if they fail at the first already."""
    last = None
    for length, error in errors(results, task, cell).items():
        if error["high"] >= SOLVED * results["chance"][task]:
            break
        last = length
    return last


def tables(results: dict[str, Any]) -> str:
    """All figures of the page, as Markdown."""
    parts = [_errors_table(results, task) for task in results["chance"]]
    return "\n".join([_settings_table(results), *parts, _slopes_table(results), _gates_table(results)])


def _settings_table(results: dict[str, Any]) -> str:
    """How all of it was trained, and for how long."""
    settings, machine = results["settings"], results["environment"]
    columns = {
        "units": settings["units"],
        "steps of training": f"{settings['steps']:,}",
        "examples in each": settings["batch_size"],
        "learning rate": settings["learning_rate"],
        "seeds": settings["seeds"],
        "minutes": f"{results['seconds'] / 60:.1f}",
        "processor": f"{machine['processor']}, {machine['cores']} cores",
    }
    return _table("Settings, the same for all", [*columns], [[str(value) for value in columns.values()]])


def _errors_table(results: dict[str, Any], task: str) -> str:
    cells = results["weights"][task]
    by_cell = {cell: errors(results, task, cell) for cell in cells}
    title, lengths, error, form = NAMES[task]
    header = [lengths, "chance", *(f"{cell}, {weights:,} weights" for cell, weights in cells.items())]
    chance = f"{results['chance'][task]:.3f}"
    rows = [
        [str(length), chance, *(_span(by_cell[cell][length], form) for cell in cells)]
        for length in next(iter(by_cell.values()))
    ]
    longest = {None: "none", int(rows[-1][0]): f"{rows[-1][0]}, the longest"}
    reached = [reach(results, task, cell) for cell in cells]
    rows.append(["learned up to", "", *(longest.get(far, str(far)) for far in reached)])
    return _table(f"{title}: {error}, median of seeds (range)", header, rows)


def _slopes_table(results: dict[str, Any]) -> str:
    columns = [(cell, when) for cell in results["slopes"] for when in ("before", "after")]
    far = results["settings"]["inside"]
    rows = [
        [str(back), *(_span(_at(results["slopes"][cell][when], back - 1), ".2g") for cell, when in columns)]
        for back in STEPS_BACK if back <= far
    ]  # fmt: skip
    title = f"Gradient with respect to the state some steps back, as a part of that one step back; {far} steps"
    return _table(
        f"{title}, median of seeds (range)",
        ["steps back", *(f"{cell} {when} training" for cell, when in columns)],
        rows,
    )


def _gates_table(results: dict[str, Any]) -> str:
    rows: list[list[str]] = []
    for cell, found in results["gates"].items():
        for name in found["after"]:
            cells = [
                _span(_at(found[when][name], where), ".3f")
                for when in ("before", "after")
                for where in (_middle(found[when][name]), -1)
            ]
            rows.append([f"{cell}, {name}", *cells])
    header = ["gate", *(f"{when}, {where}" for when in ("before", "after") for where in ("marked", "unmarked"))]
    return _table(
        "Gates before and after training, at marked and unmarked steps; median of seeds (range)", header, rows
    )


def _table(title: str, header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join([title, "", *("| " + " | ".join(line) + " |" for line in lines)]) + "\n"


def _at(spread: dict[str, list[float]], index: int) -> dict[str, float]:
    return {name: values[index] for name, values in spread.items()}


def _middle(spread: dict[str, list[float]]) -> int:
    """The index of the marked step; the mean over steps without a mark comes last."""
    return (len(spread["median"]) - 1) // 2


def _span(spread: dict[str, float], form: str) -> str:
    # With a real minus, since lines break after hyphens.
    median, low, high = (format(spread[name], form).replace("-", MINUS) for name in ("median", "low", "high"))
    return median if low == high else f"{median} ({low} to {high})"


def plot_lengths(results: dict[str, Any]) -> Figure:
    """Errors against lengths."""
    figure, panels = plt.subplots(1, 2, figsize=(6, 4), layout="constrained")
    for panel, (task, chance) in zip(panels, results["chance"].items(), strict=True):
        title, lengths, label, _ = NAMES[task]
        ticks: list[int] = []
        for cell in results["weights"][task]:
            found = errors(results, task, cell)
            ticks = [*found]
            _line(panel, ticks, spread_of([*found.values()]), cell)
        panel.axhline(chance, color=RULE, linestyle=":", label="chance")
        panel.axhline(SOLVED * chance, color=RULE, linestyle="--", linewidth=1, label="learned, below this")
        panel.set(title=title, xlabel=lengths, ylabel=label, xscale="log", xticks=ticks, xticklabels=ticks)
        panel.minorticks_off()
    panels[0].set(yscale="log")
    panels[1].set(ylim=(-0.03, 1))
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def plot_gradients(results: dict[str, Any]) -> Figure:
    """Gradients against the distance in time."""
    figure, panels = plt.subplots(1, 2, figsize=(6, 4), layout="constrained", sharey=True)
    for panel, when in zip(panels, ("before", "after"), strict=True):
        for cell, found in results["slopes"].items():
            steps = range(1, len(found[when]["median"]) + 1)
            _line(panel, steps, found[when], cell, marker="")
        panel.set(title=f"{when} training", xlabel="steps back", yscale="log")
    panels[0].set(ylabel="gradient, 1 for one step back")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def plot_gates(results: dict[str, Any]) -> Figure:
    """Gates around a mark."""
    figure, panels = plt.subplots(2, 2, figsize=(6, 5.6), layout="constrained", sharex=True, sharey=True)
    for row, (cell, found) in zip(panels, results["gates"].items(), strict=True):
        for panel, when in zip(row, ("before", "after"), strict=True):
            for name, spread in found[when].items():
                middle = _middle(spread)
                inner = {key: values[:-1] for key, values in spread.items()}
                style: dict[str, Any] = {"linestyle": "-" if "carrier" in name else "--", "label": name}
                color = COLORS["LSTM"] if "keep" in name else COLORS["SimpleRNN"]
                _line(panel, range(-middle, middle + 1), inner, cell, color=color, marker="", **style)
            panel.axvline(0, color=RULE, linestyle=":")
            panel.set(title=f"{cell} {when} training", ylim=(0, 1.02))
        row[0].set(ylabel="gate")
    for panel in panels[-1]:
        panel.set(xlabel="steps from a marked number")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def spread_of(points: list[dict[str, float]]) -> dict[str, list[float]]:
    """Several spreads as one of lists."""
    return {name: [point[name] for point in points] for name in ("median", "low", "high")}


def _line(panel: Axes, x: Iterable[float], y: dict[str, list[float]], cell: str, **style: Any) -> None:
    """A line for the median, and its range as a band."""
    places = [*x]
    look: dict[str, Any] = {
        "color": COLORS[cell],
        "marker": MARKERS[cell],
        "label": cell,
        **LOOKS.get(cell, {}),
        **style,
    }
    panel.plot(places, y["median"], **look)
    panel.fill_between(places, y["low"], y["high"], color=look["color"], alpha=0.15, linewidth=0)


PICTURES: dict[str, Callable[[dict[str, Any]], Figure]] = {
    "lengths": plot_lengths,
    "gradients": plot_gradients,
    "gates": plot_gates,
}


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        print("\n".join(map(str, write(json.loads((folder / "results.json").read_text()), folder))))
