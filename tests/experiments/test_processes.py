"""Several processes train as one: the same losses, one end for all, and a line that names which of them was lost."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from experiments import imdb, reviews, trainer

ROOT = Path(__file__).parents[2]
SMALL = [
    "--data", "generated", "--limit", "160", "--maxlen", "12", "--num-words", "200", "--units", "5", "--embedding", "6",
    "--batch-size", "8", "--cell", "gru",
]  # fmt: skip
PATIENCE = 240
"""Seconds until a test gives up; it takes a small part of that."""


class Group:
    """Processes that train together, with a file of output each.

    With ``slurm``, what they need to know stands in the environment, as Slurm has it.
    """

    def __init__(self, count: int, folder: Path, *arguments: str, slurm: bool = False):
        with socket.create_server(("localhost", 0)) as free:
            port = free.getsockname()[1]
        folder.mkdir()
        self.outputs = [folder / str(number) for number in range(count)]
        self.processes: list[subprocess.Popen[Any]] = []
        for number, path in enumerate(self.outputs):
            together = ["--coordinator", f"localhost:{port}", "--processes", str(count), "--process-id", str(number)]
            environment = {
                "SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": str(count),
                "SLURM_PROCID": str(number), "SLURM_LOCALID": str(number), "JAX_COORDINATOR_PORT": str(port),
            } if slurm else {}  # fmt: skip
            command = [sys.executable, str(ROOT / "experiments" / "imdb.py"), *SMALL, *arguments]
            command += ["--distributed"] if slurm else together
            with path.open("w") as file:
                self.processes.append(
                    subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | environment)
                )

    def said(self, number: int) -> str:
        return self.outputs[number].read_text(errors="replace")

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + PATIENCE
        while text not in self.said(0):
            assert time.monotonic() < end and self.processes[0].poll() is None, self.said(0)
            time.sleep(0.05)

    def end(self) -> list[int]:
        """The exit status of each."""
        try:
            return [process.wait(PATIENCE) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()


def last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2]


def epochs_of(folder: Path) -> int:
    (run,) = json.loads((folder / "results.json").read_text())["runs"]
    return len(run["test"])


@pytest.mark.full
def test_four_processes_then_two_then_one_are_as_one_from_the_start(tmp_path: Path) -> None:
    """The four lose one, which the others name; the two are asked to stop, then lose the first; one goes on alone."""
    output = tmp_path / "out"
    arguments = ["--checkpoint", str(tmp_path / "saves"), "--every", "20", "--output", str(output)]
    forever = [*arguments, "--epochs", "1000", "--heartbeat-timeout", "5"]

    four = Group(4, tmp_path / "four", *forever)
    four.wait_for("epoch 1/1000")
    four.processes[2].kill()
    start = time.monotonic()
    assert four.end() == [1, 1, -signal.SIGKILL, 1]
    assert time.monotonic() - start < 60
    for number in (0, 1, 3):
        assert last_line(four.said(number)).startswith(f"Process {number}: process 2 was lost: no sign of life for 5 s")
        assert "Traceback" not in four.said(number)
    assert all("epoch" not in four.said(number) for number in (1, 2, 3))
    after_four = epochs_of(output)
    assert after_four >= 1

    two = Group(2, tmp_path / "two", *forever, slurm=True)
    two.wait_for(f"epoch {after_four + 2}/1000")
    two.processes[1].send_signal(signal.SIGTERM)
    assert two.end() == [130, 130]
    assert "goes on from" in two.said(0) and "The same command goes on from" in last_line(two.said(0))
    assert all("Traceback" not in two.said(number) for number in (0, 1))

    after_two = epochs_of(output)
    headless = Group(2, tmp_path / "headless", *forever)
    headless.wait_for(f"epoch {after_two + 1}/1000")
    headless.processes[0].kill()
    assert headless.end() == [-signal.SIGKILL, 1]
    assert last_line(headless.said(1)).startswith("Process 1: process 0, which coordinates the others at localhost:")

    assert jax.device_count() == 4  # of which one is enough
    epochs = str(epochs_of(output) + 2)
    (run,) = imdb.main([*SMALL, *arguments, "--epochs", epochs, "--devices", "1"])
    data = reviews.load("generated", limit=160, maxlen=12, num_words=200)
    expected, _ = trainer.train("gru", 0, data, imdb.parse([*SMALL, "--epochs", epochs]), Console(quiet=True))
    assert len(run.test) == int(epochs)
    for name in ("curve", "train", "test"):
        loss, expected_loss = ([score.loss for score in getattr(one, name)] for one in (run, expected))
        np.testing.assert_allclose(loss, expected_loss, rtol=0, atol=1e-5)


@pytest.mark.full
def test_a_coordinator_that_is_not_there_is_told(tmp_path: Path) -> None:
    nowhere = ["--coordinator", "localhost:1", "--processes", "2", "--process-id", "1", "--start-timeout", "1"]
    command = [sys.executable, str(ROOT / "experiments" / "imdb.py"), *SMALL, *nowhere, "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    words = "Process 1: process 0, which coordinates the others at localhost:1, was not there within 1 s"
    assert last_line(done.stderr) == words


def test_an_address_that_is_taken_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as ended:
            arguments = ["--coordinator", f"localhost:{port}", "--processes", "2", "--process-id", "0"]
            imdb.main([*SMALL, *arguments, "--output", str(tmp_path)])
    assert ended.value.code == 1
    assert f"--coordinator: process 0 cannot listen on port {port}: " in capsys.readouterr().out.replace("\n", " ")
