"""Results of ``benchmarks.layers`` as pictures: against the best peer of each case, and along the sweeps."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.cases import CELLS, Case
from benchmarks.contestants import OURS
from benchmarks.tables import Rows, time_ms

matplotlib.use("Agg")
from matplotlib import pyplot as plt

AXES = {"batch": "B, sequences in the batch", "steps": "T, time steps", "units": "H, units"}
_LEAST = 3  # points of a sweep


def best_peer(row: dict[str, Any]) -> tuple[str, float] | None:
    """The fastest contestant that is not ours, and how many times our time it takes; ``None`` if one is missing."""
    ours = next((figures for name, figures in row["contestants"].items() if name in OURS), None)
    peers = {name: figures for name, figures in row["contestants"].items() if name not in OURS}
    if ours is None or not peers:
        return None
    name = min(peers, key=lambda name: time_ms(peers[name]))
    return name, time_ms(peers[name]) / time_ms(ours)


def sweeps(results: Rows) -> dict[str, dict[Case, list[dict[str, Any]]]]:
    """By axis, the rows that differ in it alone, under the first case of each; those of too few points are left out.

    With the units change the features of the inputs, too, where both are equal.
    """
    found: dict[str, dict[Case, list[dict[str, Any]]]] = {}
    for axis in AXES:
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
        for row in results:
            rest = {name: value for name, value in row["case"].items() if name != axis}
            if axis == "units" and row["case"]["features"] == row["case"]["units"]:
                rest["features"] = "as units"
            groups[tuple(rest.values())].append(row)
        series = [sorted(group, key=lambda row, axis=axis: row["case"][axis]) for group in groups.values()]
        found[axis] = {Case(**rows[0]["case"]): rows for rows in series if len(rows) >= _LEAST}
    return {axis: series for axis, series in found.items() if series}


def plot_ratios(results: Rows, device: str, path: Path) -> None:
    """For each cell and case a bar: the time of the best peer, who is named, as a multiple of ours."""
    cells = [cell for cell in CELLS if any(row["case"]["cell"] == cell and best_peer(row) for row in results)]
    if not cells:
        return
    groups = {cell: [row for row in results if row["case"]["cell"] == cell and best_peer(row)] for cell in cells}
    tallest = max(map(len, groups.values()))
    figure, panels = plt.subplots(
        1, len(cells), figsize=(5.5 * len(cells), 1.5 + 0.3 * tallest), layout="constrained", squeeze=False
    )
    for color, (panel, (cell, rows)) in enumerate(zip(panels[0], groups.items(), strict=True)):
        peers = [peer for row in rows if (peer := best_peer(row))]
        bars = panel.barh(range(len(rows)), [ratio for _, ratio in peers], color=f"C{color}", alpha=0.7)
        labels = panel.bar_label(bars, [f"{ratio:.2f}  {name}" for name, ratio in peers], padding=3, fontsize="x-small")
        for label in labels:
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
        panel.set_yticks(range(len(rows)), [_without_cell(row) for row in rows], fontsize="x-small")
        panel.invert_yaxis()
        panel.axvline(1, color="black", linewidth=1)
        panel.set_xlim(0, 1.45 * max(ratio for _, ratio in peers))
        panel.set(xlabel="time of the best peer / time of flax_rnn", title=f"{cell}: {device}")
        panel.grid(alpha=0.3, axis="x")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot_sweep(axis: str, series: dict[Case, list[dict[str, Any]]], device: str, path: Path) -> None:
    """Time against one axis, a panel for each series and a line for each contestant."""
    columns = min(len(series), 3)
    height = -(-len(series) // columns)
    lines: dict[str, Any] = {}  # in the legend, whichever panel they are in
    figure, panels = plt.subplots(
        height, columns, figsize=(5.5 * columns + 1.5, 4 * height), layout="constrained", squeeze=False
    )
    everyone = dict.fromkeys(name for rows in series.values() for row in rows for name in row["contestants"])
    colors = {name: f"C{number}" for number, name in enumerate(everyone)}
    for panel in panels.flat[len(series) :]:
        panel.axis("off")
    for panel, (case, rows) in zip(panels.flat, series.items(), strict=False):
        for name, color in colors.items():
            points = [
                (row["case"][axis], time_ms(row["contestants"][name])) for row in rows if name in row["contestants"]
            ]
            if points:
                style = "o-" if name in OURS else "s--"
                (lines[name],) = panel.loglog(*zip(*points, strict=True), style, color=color, label=name, markersize=4)
        fixed = [f"{words[0]} {getattr(case, name)}" for name, words in AXES.items() if name != axis]
        panel.set(xlabel=AXES[axis], ylabel="ms", title=f"{case.cell} {case.phase} {case.dtype}, {', '.join(fixed)}")
        ticks = [row["case"][axis] for row in rows]
        panel.set_xticks(ticks, map(str, ticks))
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    figure.legend(handles=[*lines.values()], fontsize="small", loc="outside right upper")
    figure.suptitle(device)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot(results: Rows, device: str, stem: Path) -> None:
    """All pictures, as ``stem`` with an ending each."""
    plot_ratios(results, device, stem.with_name(f"{stem.name}-ratios.png"))
    for axis, series in sweeps(results).items():
        plot_sweep(axis, series, device, stem.with_name(f"{stem.name}-{axis}.png"))


def _without_cell(row: dict[str, Any]) -> str:
    case = Case(**row["case"])
    return case.label.removeprefix(f"{case.cell} ")
