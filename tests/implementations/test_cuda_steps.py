"""The benchmark of the CUDA kernels' steps, on a GPU that is none."""

import subprocess
import sys
from pathlib import Path

import cuda_device
import numpy as np
import pytest
from cuda_device import gpu as gpu

from benchmarks import kernel_steps
from flax_rnn.implementations.cuda.tiles import TILES, Tile

pytestmark = cuda_device.needed


@pytest.fixture(autouse=True)
def small(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TILES, "bfloat16", (Tile(64, 1, 1), Tile(64, 2, 2)))


def test_every_tile_has_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kernel_steps, "RESULTS", tmp_path)
    monkeypatch.setattr(kernel_steps, "ROUNDS", 1)
    monkeypatch.setattr(kernel_steps, "CALLS", 1)
    kernel_steps.main(["--cell", "gru", "--dtype", "bfloat16", "--option", "plain", "--rows", "9", "--steps", "3"])
    (page,) = tmp_path.glob("kernel-steps-*.md")
    lines = [line.split("|")[1:-1] for line in page.read_text().splitlines() if line.startswith("| gru")]
    assert [[cell.strip() for cell in line[2:5]] for line in lines] == [["64", "1", "1"], ["64", "2", "2"]]
    assert all(float(cell) > 0 for line in lines for cell in line[-3:])
    assert page.read_text() in capsys.readouterr().out


@pytest.mark.parametrize("option", kernel_steps.OPTIONS)
def test_the_kernels_run_with_what_the_option_says(option: str) -> None:
    (case, _) = kernel_steps.cases(["lstm"], ["bfloat16"], [option], 9, 3)
    passes = kernel_steps.calls(case)
    kept, h, _ = passes["kept"]()
    outputs = np.asarray(kept.outputs, np.float32)
    assert outputs.shape == (3, 9, 64) and np.isfinite(outputs).all()
    np.testing.assert_allclose(outputs[-1], h, rtol=1e-2, atol=1e-2)
    assert (np.asarray(passes["forward"]()[0].outputs) == np.asarray(kept.outputs)).all()
    # A step that is masked has no gradient, and others have.
    d_sums = np.asarray(passes["backward"]()[0], np.float32)
    assert (d_sums == 0).all(-1).any() == (option == "mask")


def test_once_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernel_steps, "RESULTS", tmp_path)
    kernel_steps.main(["--once", "--cell", "simple_rnn", "--dtype", "bfloat16", "--option", "plain"])
    assert not [*tmp_path.iterdir()]


def test_without_a_gpu_it_says_so() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks.kernel_steps"], capture_output=True, text=True)
    assert done.returncode == 1 and "kernel_steps: " in done.stderr
