"""Draws speed.svg, bars of what ``benchmarks.layers`` measured: ``python docs/figures/speed.py``."""

import json
from pathlib import Path
from typing import Any

from pen import Pen

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "grid-cpu.json"
CASE = {"batch": 32, "steps": 80, "features": 128, "units": 128, "phase": "training"}
CELLS = {"lstm": "LSTM", "gru": "GRU", "simple_rnn": "SimpleRNN"}
CONTESTANTS = {
    "flax-rnn": "flax_rnn",
    "torch": "PyTorch",
    "keras-jax": "Keras on JAX",
    "flax-linen": "flax.linen",
    "flax-nnx": "flax.nnx",
    "keras-tensorflow": "Keras on TensorFlow",
}
NAMES, ROW, TOP, PANEL = 175, 26, 82, 225


def draw(results: dict[str, Any]) -> str:
    """The picture of what is in ``results``, as the benchmark wrote them."""
    rows = {
        row["case"]["cell"]: row["contestants"] for row in results["results"] if row["case"].items() >= CASE.items()
    }
    times = {name: {cell: rows[cell][name]["median_ms"] for cell in CELLS} for name in CONTESTANTS}
    longest = max(time for by_cell in times.values() for time in by_cell.values())
    machine = results["machine"]
    height = TOP + ROW * len(times) + 14
    pen = Pen("Time of a forward and a backward pass", height, NAMES + PANEL * len(CELLS))
    pen.text(14, 26, "Forward and backward pass, milliseconds: less is better", "bold")
    processor = machine["processor"].replace("(R)", "").removesuffix(" Processor")
    pen.text(
        14,
        47,
        f"{CASE['batch']} sequences of {CASE['steps']} steps, {CASE['units']} units, float32, "
        f"{machine['cores']} cores of an {processor} with {machine['instruction_set']}",
        "faint",
    )
    for row, (name, by_cell) in enumerate(times.items()):
        ours = row == 0
        y = TOP + ROW * row + 8
        pen.text(NAMES - 12, y + 13, CONTESTANTS[name], "end bold" if ours else "end faint")
        for panel, time in enumerate(by_cell.values()):
            left, width = NAMES + PANEL * panel, time / longest * (PANEL - 62)
            pen.bar(left, y, width, ROW - 8, "h" if ours else "off-text")
            pen.text(left + width + 6, y + 13, f"{time:.1f}", "bold" if ours else "faint")
    for panel, cell in enumerate(CELLS.values()):
        pen.text(NAMES + PANEL * panel, TOP - 3, cell, "bold")
    return pen.picture()


if __name__ == "__main__":
    picture = draw(json.loads(RESULTS.read_text()))
    Path(__file__).with_name("speed.svg").write_text(picture)
