"""The benchmark of layers: its cases, who takes part, what is refused, tables and pictures, and quick runs."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from local_workers import Local

import flax_rnn
from benchmarks import cases, comparison, contestants, layers, memory, plots, tables
from benchmarks.cases import Case
from benchmarks.comparison import Effort, Field
from benchmarks.contestants import jax_cudnn
from benchmarks.contestants.__main__ import distance
from benchmarks.contestants.interface import Contestant, Run, of_weights

ROOT = Path(__file__).parents[2]
TINY = Case("lstm", *cases.TINY)


class Changed(Contestant):
    """Ours, with results that are changed; or on another platform."""

    def __init__(self, change: Callable[[np.ndarray], np.ndarray], platform: str | None = None):
        self.inner = contestants.load("scan")
        self.platform, self.device = platform or self.inner.platform, self.inner.device
        self.change = change

    def build(self, case: Case) -> Run:
        run = self.inner.build(case)

        def read(result: Any) -> dict[str, np.ndarray]:
            return {name: self.change(array) for name, array in run.read(result).items()}

        return Run(run.start, read, run.wait)


def compare(case: Case, **others: Callable[[], Contestant]) -> dict[str, Any]:
    loads = {"flax-rnn": lambda: contestants.load("flax-rnn"), **others}
    effort = Effort(rounds=2, turn=0.001)
    field = Field([*loads], effort, lambda name, environment: Local(loads[name]))
    return comparison.compare(field, case, peak=1e12)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"phase": "forward"}, 2 * 32 * 80 * 4 * 128 * (64 + 128)),
        ({}, 3 * 2 * 32 * 80 * 4 * 128 * (64 + 128)),
        ({"cell": "gru"}, 3 * 2 * 32 * 80 * 3 * 128 * (64 + 128)),
        ({"cell": "simple_rnn"}, 3 * 2 * 32 * 80 * 128 * (64 + 128)),
        ({"variant": "bidirectional"}, 2 * 3 * 2 * 32 * 80 * 4 * 128 * (64 + 128)),
        ({"variant": "stack"}, 3 * 2 * 32 * 80 * 4 * 128 * (64 + 128 + 128 + 128)),
    ],
)
def test_operations_are_those_of_the_matrix_products(changes: dict[str, str], expected: int) -> None:
    assert replace(Case("lstm", 32, 80, 64, 128), **changes).flops == expected


def test_what_it_costs_to_follow_the_choice_is_the_time_over_that_of_the_best_of_ours() -> None:
    def row(auto: str, **times: float) -> dict[str, Any]:
        return {"case": TINY.as_json(), "auto": auto, "contestants": {n: {"median_ms": t} for n, t in times.items()}}

    page = tables.regrets([row("fused", native=2, fused=3, scan=4, torch=1), row("scan", native=2, torch=1)])
    assert [line.split(" | ")[-3:] for line in page.splitlines()[2:]] == [["fused", "native", "1.50 |"]]


@pytest.mark.parametrize(("batch", "steps", "phase"), [(2, 1, "training"), (2, 1, "forward"), (2, 3, "training")])
def test_what_is_taken_is_what_the_library_says(batch: int, steps: int, phase: str) -> None:
    taken = compare(Case("gru", batch, steps, 3, 4, phase))["auto"]
    said = flax_rnn.choose(flax_rnn.GRUCell(4), shape=(batch, steps), training=phase == "training")
    assert taken == said.implementation


def test_figures_follow_from_the_time_of_a_call() -> None:
    case = Case("lstm", 32, 80, 64, 128, phase="forward")
    found = comparison.figures(case, seconds=0.01, peak=1e12, base=0.005)
    assert found["us_per_step"] == pytest.approx(125) and found["sequences_per_s"] == pytest.approx(3200)
    assert found["gflops"] == pytest.approx(case.flops / 1e7) and found["ratio"] == 2
    assert found["percent_of_peak"] == pytest.approx(case.flops / 1e8)


def test_numbers_of_a_case_are_the_same_for_all_and_exact_in_its_dtype() -> None:
    case = replace(TINY, dtype="bfloat16", variant="bidirectional")
    first, second = case.weights()[0]
    assert not np.array_equal(first["kernel"], second["kernel"]), "each direction has weights of its own"
    np.testing.assert_array_equal(case.weights()[0][1]["kernel"], second["kernel"])
    for array in (*first.values(), case.inputs(), case.cotangent()):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array.astype(ml_dtypes.bfloat16).astype(np.float32), array)


def test_the_command_line_chooses_cases() -> None:
    def chosen(command: str, platform: str = "cpu") -> list[Case]:
        return layers.matrix(layers.parse(command.split()), platform)

    everything = chosen("")
    assert everything == cases.default("cpu") and len(chosen("", "gpu")) > len(everything)
    assert chosen("--cell gru --pass forward") == [c for c in everything if c.cell == "gru" and c.phase == "forward"]
    assert set(everything) < set(chosen("--full"))
    assert chosen("--cell lstm --pass training --size 8,10,16,16 --dtype bfloat16 --variant relu") == [
        replace(TINY, dtype="bfloat16", variant="relu")
    ]
    assert [case.steps for case in chosen("--cell lstm --pass forward --size length-sweep")] == [256, 512, 1024, 2048]
    with pytest.raises(SystemExit):
        chosen("--size 1,2,3")


@pytest.mark.each(1, at_most=2)
@pytest.mark.parametrize(
    ("name", "cell", "variant"),
    [
        ("flax-linen", "lstm", "bidirectional"),
        ("flax-nnx", "gru", "stack"),
        ("torch", "gru", "bidirectional"),
        ("torch", "simple_rnn", "relu"),
        ("keras-jax", "gru", "mask"),
    ],
)
def test_contestants_agree(name: str, cell: str, variant: str) -> None:
    if not name.startswith("flax"):
        pytest.importorskip(name.split("-")[0])
    if name == "keras-jax":
        keras = pytest.importorskip("keras")
        if keras.backend.backend() != "jax":
            pytest.skip("Keras is on another backend in this process")
    row = compare(replace(TINY, cell=cell, variant=variant), **{name: lambda: contestants.load(name)})
    assert not row["absent"]
    found = row["contestants"][name]
    assert found["turns"] == 2 and found["compile_s"] >= 0
    assert {"outputs", "inputs"} < {*found["differences"]} and max(found["differences"].values()) < 1e-5


def test_wrong_numbers_are_refused_and_not_timed() -> None:
    row = compare(
        replace(TINY, phase="forward"),
        off=lambda: Changed(lambda array: 1.001 * array),
        cut=lambda: Changed(lambda array: array[:-1]),
        nan=lambda: Changed(lambda array: array * np.nan),
        right=lambda: Changed(lambda array: array),
    )
    assert {*row["contestants"]} == {"flax-rnn", "right"}
    assert row["absent"]["off"].startswith("other numbers than flax-rnn: outputs by 0.001")
    assert "outputs by inf" in row["absent"]["cut"] and "outputs by inf" in row["absent"]["nan"]


def test_who_runs_elsewhere_or_lacks_something_is_listed_with_the_reason() -> None:
    row = compare(
        replace(TINY, phase="forward", variant="recurrent-dropout"),
        elsewhere=lambda: Changed(lambda array: array, platform="tpu"),
        linen=lambda: contestants.load("flax-linen"),
        jax_cudnn=lambda: contestants.load("jax-cudnn"),
    )
    assert row["absent"]["elsewhere"] == "runs on a tpu only"
    assert row["absent"]["linen"] == "the cells have no recurrent dropout"
    if jax.default_backend() == "cpu":
        assert row["absent"]["jax_cudnn"] == "needs a GPU"
    assert {*row["contestants"]} == {"flax-rnn"}


def test_distance_is_a_part_of_the_norm() -> None:
    assert distance(np.array([3.0, 4.0]), np.array([3.0, 3.0])) == pytest.approx(1 / np.sqrt(18))
    assert distance(np.zeros(2), np.zeros(2)) == 0


@pytest.mark.parametrize("variant", ["plain", "bidirectional", "stack"])
def test_the_vector_of_weights_is_laid_out_as_jax_reads_it(variant: str) -> None:
    from jax.experimental import rnn

    case = replace(TINY, variant=variant)
    weights = case.weights()
    vector = jax_cudnn.flat(weights)
    assert vector.size == rnn.get_num_params_in_lstm(case.features, case.units, case.depth, case.directions == 2)
    parts = rnn.unpack_lstm_weights(jnp.asarray(vector), case.features, case.units, case.depth, case.directions == 2)
    inner, outer, bias, _ = ([np.asarray(part[i]) for i in sorted(part)] for part in parts)
    cells = [cell for layer in weights for cell in (layer if isinstance(layer, tuple) else (layer,))]
    for index, cell in enumerate(cells):
        np.testing.assert_array_equal(inner[index].T, cell["kernel"])
        np.testing.assert_array_equal(outer[index].T, cell["recurrent_kernel"])
        np.testing.assert_array_equal(bias[index], cell["bias"])
    back = of_weights(jax_cudnn.unflat(vector, weights))
    for name, array in of_weights(weights).items():
        np.testing.assert_array_equal(back[name], array)


def row(case: Case, absent: dict[str, str] | None = None, **milliseconds: float) -> dict[str, Any]:
    """A made-up result."""
    base = milliseconds["flax_rnn"]
    contestants = {
        name.replace("_", "-"): {f"{k}_ms": ms for k in ("median", "min", "quartile_1", "quartile_3")}
        | comparison.figures(case, ms / 1e3, 1e12, base / 1e3)
        | {"turns": 3, "compile_s": 1.5, "differences": {}}
        for name, ms in milliseconds.items()
    }
    return {"case": case.as_json(), "flops": case.flops, "contestants": contestants, "absent": absent or {}}


def test_tables() -> None:
    results = [
        row(TINY, flax_rnn=1, keras_jax=2.5, absent={"torch": "torch is not installed"}),
        row(replace(TINY, variant="mask"), flax_rnn=2, absent={"torch": "torch is not installed", "keras-jax": "a|b"}),
    ]
    overview = tables.overview(results).splitlines()
    assert overview[0] == "| cell | B,T,D,H | pass | dtype | variant | flax-rnn | keras-jax |"
    assert overview[2] == "| lstm | 8,10,16,16 | training | float32 | plain | 1.00 (1.00) | 2.50 (2.50) |"
    assert overview[3].endswith("| mask | 2.00 (1.00) | - |")
    assert "| plain | keras-jax | - | 2.50 | 2.50 | 2.50 to 2.50 | 250.0 | 3,200 |" in tables.figures(results)
    absences = tables.absences(results)
    assert "| torch | torch is not installed | all |" in absences
    assert "| keras-jax | a\\|b | 1: lstm 8,10,16,16 training float32 mask |" in absences


def test_pictures(tmp_path: Path) -> None:
    results = [row(replace(TINY, steps=steps), flax_rnn=steps, scan=1, torch=2 * steps) for steps in (40, 10, 20)]
    assert plots.best_peer(results[0]) == ("torch", 2.0), "scan is ours"
    assert plots.best_peer(row(TINY, flax_rnn=1, scan=2)) is None
    (series,) = plots.sweeps(results)["steps"].values()
    assert [found["case"]["steps"] for found in series] == [10, 20, 40]
    assert plots.sweeps(results[:2]) == {}
    widths = [row(replace(TINY, features=n, units=n), flax_rnn=1) for n in (8, 16, 32)]
    assert [*plots.sweeps(widths)] == ["units"]
    plots.plot([*results, *widths], "a device", tmp_path / "layers")
    assert {path.name for path in tmp_path.iterdir()} == {
        "layers-ratios.png", "layers-steps.png", "layers-units.png",
    }  # fmt: skip


def test_our_backward_pass_needs_less_memory() -> None:
    found = memory.measure(replace(TINY, steps=200))["temporary_bytes"]
    assert 0 < found["flax-rnn"] <= found["fused"] < found["scan"]
    assert 0 < found["in chunks"] < found["flax-rnn"] / 2
    sizes = {"flax-rnn": 2**20, "in chunks": 2**19, "fused": 2**21, "scan": 3 * 2**20}
    line = memory.table([{"case": TINY.as_json(), "temporary_bytes": sizes}])
    assert "| lstm | 8,10,16,16 | float32 | plain | 1.0 | 0.5 | 2.0 | 3.0 | 3.00 |" in line


@pytest.mark.full
def test_a_quick_look_at_memory(capsys: pytest.CaptureFixture[str]) -> None:
    memory.main(["--quick", "--cell", "simple_rnn", "--variant", "mask", "recurrent-dropout"])
    printed = capsys.readouterr().out
    assert "| simple_rnn | 8,10,16,16 | float32 | mask |" in printed
    assert "| simple_rnn | 8,10,16,16 | float32 | recurrent-dropout |" in printed


@pytest.mark.full
def test_a_quick_run_from_end_to_end() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.layers", "--quick", "--cell", "lstm", "--against", "flax-linen"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    lines = [line.split(" | ") for line in finished.stdout.splitlines() if line.startswith("| lstm")]
    assert [line[4] for line in lines] == ["plain", "recurrent-dropout"]
    assert all(float(number.split()[0]) > 0 for number in lines[0][5:8])
    assert "| flax-linen | the cells have no recurrent dropout | 1: lstm" in finished.stdout
