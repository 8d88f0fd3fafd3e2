"""No figure of speed stands in a document that is not in the results of a benchmark."""

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.report import PUBLISHED

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SPEED = (ROOT / "docs" / "speed.md").read_text()
README = (ROOT / "README.md").read_text()
CELLS = {"LSTM": "lstm", "GRU": "gru", "SimpleRNN": "simple_rnn"}
COLUMNS = {
    "flax_rnn": "flax-rnn", "flax.linen": "flax-linen", "flax.nnx": "flax-nnx", "Keras on JAX": "keras-jax",
    "PyTorch": "torch", "ONNX Runtime": "onnxruntime",
}  # fmt: skip

PEERS = {"flax-linen", "flax-nnx", "keras-jax", "keras-tensorflow", "torch", "onnxruntime"}


def load(name: str) -> dict[str, Any]:
    """What a benchmark wrote."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def cells_of(line: str) -> list[str]:
    """Those of a line of a table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def table(text: str, after: str) -> Iterator[dict[str, str]]:
    """The rows of the first table behind ``after``, by column."""
    lines = re.findall(r"(?:^\|.*\n)+", text[text.index(after) :], re.MULTILINE)[0].splitlines()
    head = cells_of(lines[0])
    for line in lines[2:]:
        yield dict(zip(head, cells_of(line), strict=True))


def times(results: dict[str, Any]) -> dict[tuple[str, ...], dict[str, float]]:
    """Milliseconds of all contestants, by cell, sizes, pass and variant."""
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for row in results["results"]:
        case = row["case"]
        sizes = ", ".join(str(case[name]) for name in ("batch", "steps", "features", "units"))
        key = case["cell"], sizes, case["phase"], case["variant"]
        found[key] = {name: figures["median_ms"] for name, figures in row["contestants"].items()}
    return found


def agrees(written: str, value: float) -> bool:
    """Whether ``written`` is ``value`` to as many digits as it has."""
    digits = len(written.partition(".")[2])
    return abs(float(written) - value) <= 0.5 * 10**-digits + 1e-9


def numbers(cell: str) -> list[str]:
    """Those of ``13.4 (0.94)``."""
    return re.findall(r"[\d.]+", cell)


@pytest.mark.parametrize(("after", "name"), [("## Layers\n", "grid-cpu"), ("## Freed", "layers-cpu-keep-memory")])
def test_times_of_layers(after: str, name: str) -> None:
    measured = times(load(name))
    for row in table(SPEED, after):
        found = measured[row.pop("cell"), row.pop("B, T, D, H"), row.pop("pass"), "plain"]
        assert [row[one] == "-" or agrees(row[one], found[one]) for one in row] == [True] * len(row), row
        assert all(one not in found for one in row if row[one] == "-")


@pytest.mark.parametrize(
    ("after", "name", "peers"), [("## From single", "grid-cpu", PEERS), ("held to AVX2", "grid-cpu-avx2", {"torch"})]
)
def test_ratios_to_the_fastest_of_the_others(after: str, name: str, peers: set[str]) -> None:
    measured, ratios = times(load(name)), []
    for row in table(SPEED, after):
        sizes = row.pop("B, T, D, H")
        for column, cell in row.items():
            kind, phase = column.split()
            found = measured[kind, sizes, phase, "plain"]
            ours = found["flax-rnn"]
            ratios.append(min(found[one] for one in peers & {*found}) / ours)
            time, ratio = numbers(cell)
            assert agrees(time, ours) and agrees(ratio, ratios[-1]), (sizes, column)
    text = SPEED[SPEED.index(after) :]
    median, ahead, count = re.findall(r"median is ([\d.]+), and (\d+) of (\d+) cells", text)[0]
    assert agrees(median, sorted(ratios)[len(ratios) // 2] / 2 + sorted(ratios)[(len(ratios) - 1) // 2] / 2)
    assert (int(ahead), int(count)) == (sum(ratio >= 1 for ratio in ratios), len(ratios))


def test_masks_and_dropout() -> None:
    measured = times(load("variants-cpu"))
    for row in table(SPEED, "## Masks"):
        case = row.pop("cell"), row.pop("B, T, D, H"), row.pop("pass")
        columns = zip(("flax-rnn", "keras-jax"), zip(*[iter(row.values())] * 3, strict=True), strict=True)
        for one, cells in columns:
            found = [measured[*case, variant][one] for variant in ("plain", "mask", "recurrent-dropout")]
            for cell, time in zip(cells, found, strict=True):
                written, *ratio = numbers(cell)
                assert agrees(written, time), (case, cell)
                assert all(agrees(one, time / found[0]) for one in ratio), (case, cell)


def test_single_steps() -> None:
    measured = load("single_step")["microseconds"]
    for row in table(SPEED, "## Single steps"):
        way = row.pop("way")
        for column, cell in row.items():
            by_way = measured[column.split(",")[0]]
            time, ratio = numbers(cell)
            assert agrees(time, by_way[way]) and agrees(ratio, by_way[way] / by_way["torch"]), (way, column)


def test_single_steps_when_deploying() -> None:
    ways = {
        "`apply_cell`, weights closed over": "apply_cell, weights closed over",
        "`apply_cell`, weights as an argument": "apply_cell",
        "a stateful layer, `nnx.split` and `jax.jit`": "stateful, nnx.split and jax.jit",
        "a stateful layer, `nnx.cached_partial`": "stateful, nnx.cached_partial",
        "a stateful layer, `nnx.jit`": "stateful, nnx.jit",
        "torch's cell": "torch",
    }
    measured = load("single_step")["microseconds"]
    rows = list(table((ROOT / "docs" / "deploying.md").read_text(), "What a call costs"))
    assert {row["way"] for row in rows} == {*ways}
    for row in rows:
        assert agrees(row["LSTM, µs"], measured["lstm"][ways[row["way"]]]), row
        assert agrees(row["GRU, µs"], measured["gru"][ways[row["way"]]]), row


def test_a_step_of_the_experiment() -> None:
    written = re.findall(r"(?:^\| .*\n)+", SPEED[SPEED.index("## A training step") :], re.MULTILINE)[0]
    assert written.strip() in (RESULTS / "imdb_step.md").read_text()


def test_readme_is_short_and_has_what_was_measured() -> None:
    assert README.count("\n") <= 120
    measured = times(load("grid-cpu"))
    for row in table(README, "Speed:"):
        cell, _, phase = row.pop("").partition(", ")
        found = measured[CELLS[cell], "32, 80, 128, 128", "forward" if phase == "forward" else "training", "plain"]
        for column, time in row.items():
            assert time == "-" if COLUMNS[column] not in found else agrees(time, found[COLUMNS[column]]), column


ON_A_GPU = {"`cuda`": "cuda", "`fused`": "fused", "`cudnn`": "cudnn", "Keras on JAX": "keras-jax", "PyTorch": "torch"}


def on_a_gpu(results: str) -> dict[tuple[str, ...], dict[str, float]]:
    """Milliseconds on the device, by cell, sizes, pass, dtype and variant."""
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for row in load(results)["results"]:
        case = row["case"]
        sizes = ", ".join(str(case[name]) for name in ("batch", "steps", "features", "units"))
        key = case["cell"], sizes, case["phase"], case["dtype"], case["variant"]
        found[key] = {name: figures["queued_ms"] for name, figures in row["contestants"].items()}
    return found


@pytest.mark.parametrize(
    ("results", "heading"),
    [("gpu-nvidia-h200-cuda", "Measured on one NVIDIA H200"), ("gpu-nvidia-h200", "Before there were these kernels")],
)
def test_a_gpu(results: str, heading: str) -> None:
    """All of it is in the page."""
    measured = on_a_gpu(results)
    rows = list(table(SPEED, heading))
    assert len(rows) == len(measured)
    for row in rows:
        name, _, variant = row["layer"].partition(", ")
        case = CELLS[name], row["B, T, D, H"], row["pass"], row["dtype"], variant.replace(" ", "-") or "plain"
        for column in row.keys() & ON_A_GPU.keys():
            time = measured[case].get(ON_A_GPU[column])
            assert row[column] == "-" if time is None else agrees_in_digits(row[column], time), (case, column)


def test_a_gpu_in_readme_and_a_step_of_the_experiment_there() -> None:
    measured = on_a_gpu("gpu-nvidia-h200-cuda")
    for row in table(README, "NVIDIA H200"):
        who = (ON_A_GPU | {"flax_rnn": "cuda"})[row.pop("")]
        for column, written in row.items():
            name, _, rest = column.partition(", ")
            phase, variant = (
                ("forward", "plain") if rest == "forward" else ("training", rest.replace(" ", "-") or "plain")
            )
            time = measured[CELLS[name], "32, 80, 128, 128", phase, "tf32", variant].get(who)
            assert written == "-" if time is None else agrees_in_digits(written, time), (who, column)
    step = (RESULTS / "gpu-nvidia-h200-cuda.md").read_text().partition("A training step of the IMDB experiment:")[2]
    assert step.strip().partition("\n\n")[0] in SPEED


def agrees_in_digits(written: str, value: float) -> bool:
    """Whether ``written`` is ``value`` in three digits."""
    return written == f"{value:.3g}"


@pytest.mark.parametrize("document", ["README.md", "docs/imdb.md"])
def test_accuracies_and_times_of_the_experiment(document: str) -> None:
    runs = load("imdb_accuracy")["runs"]
    figures = {"test accuracy": ("test", "accuracy"), "test loss": ("test", "loss")}
    rows = list(table((ROOT / document).read_text(), "Keras itself"))
    assert len(rows) >= 5
    for row in rows:
        figure, _, side = row.pop("mean of 6 seeds (range)").partition(", ")
        for cell, written in row.items():
            if side == "published":
                split, name = figures[figure]
                assert agrees(written, getattr(PUBLISHED[CELLS[cell]], name)) and split == "test"
                continue
            found = [run for run in runs if (run["side"], run["cell"]) == (side, CELLS[cell])]
            assert sorted(run["seed"] for run in found) == [*range(6)]
            if figure in figures:
                split, name = figures[figure]
                values = [run[split][name] for run in found]
                middle = sum(values) / 6
            else:
                values = [sum(run["epoch_seconds"]) for run in found]
                middle = sum(sorted(values)[2:4]) / 2
            for one, value in zip(numbers(written), (middle, min(values), max(values)), strict=True):
                assert agrees(one, value), (figure, side, cell)


def test_the_picture_is_what_its_script_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = ROOT / "docs" / "figures"
    monkeypatch.syspath_prepend(str(figures))
    draw = runpy.run_path(str(figures / "speed.py"))["draw"]
    assert (figures / "speed.svg").read_text() == draw(load("grid-cpu"))


def test_the_pictures_of_the_kernels_are_what_their_script_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = ROOT / "docs" / "figures"
    monkeypatch.syspath_prepend(str(figures))
    drawn = runpy.run_path(str(figures / "gpu_kernels.py"))["draw"]()
    assert {name: (figures / name).read_text() for name in drawn} == drawn
