"""The check of a new device: it passes what is right, finds what is wrong, and goes on after what breaks."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import oracle
import pytest

import flax_rnn
from benchmarks import check
from benchmarks.checks import __main__ as served
from benchmarks.checks import library, loops, reference
from benchmarks.checks.judge import BROKEN, DECLINED, LATE, OK, WRONG, Check, Verdict, along_directions, judge
from benchmarks.checks.settings import Setting, everything, in_fewer_digits
from benchmarks.workers import WorkerError

ROOT = Path(__file__).parents[2]
HOLES = Setting("holes", "gru", mask="holes")
SETTINGS = {(setting.cell, setting.name): setting for setting in everything()}


@pytest.fixture
def traced_anew() -> Iterator[None]:
    """What the library has traced before would hide a change."""
    jax.clear_caches()
    yield
    jax.clear_caches()


def test_there_is_a_setting_for_every_option() -> None:
    options = {name for setting in everything() for name in setting.options}
    named = {*flax_rnn.SequenceOptions.__dataclass_fields__}
    assert named - options == {"return_state", "implementation"}, "which are set for all"
    labels = [Check(setting, "scan", "float32").label for setting in everything()]
    assert len({*labels}) == len(labels)
    assert {setting.cell for setting in everything()} == {*loops.GATES}
    assert {setting.name for setting in in_fewer_digits()} < {setting.name for setting in everything()}
    assert {setting.cell for setting in in_fewer_digits()} == {"lstm", "gru", "gru-reset-before", "simple_rnn"}


def test_a_check_goes_to_a_process_and_back() -> None:
    for setting in everything():
        assert Check.from_json(Check(setting, "scan", "tf32").as_json()) == Check(setting, "scan", "tf32")
    assert served.handle({}).keys() == {"platform", "device", "jax"}


@pytest.mark.each(1, at_most=8, full=1)
@pytest.mark.parametrize(("cell", "name"), SETTINGS, ids=", ".join)
@pytest.mark.parametrize("implementation", ["scan", "fused"])
def test_what_is_right_passes(cell: str, name: str, implementation: str) -> None:
    verdict, words = judge(Check(SETTINGS[cell, name], implementation, "float32"))
    assert verdict == OK, words


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "tf32"])
def test_tolerances_leave_room_for_rounding(dtype: str) -> None:
    setting = Setting("all", "gru", dropout=0.4, recurrent_dropout=0.4, state=True, mask="holes")
    verdict, words = judge(Check(setting, "scan", dtype))
    assert verdict == OK, words


@pytest.mark.parametrize("cell", ["lstm", "gru", "gru-reset-before", "simple_rnn"])
def test_loops_are_those_of_the_tests(cell: str) -> None:
    setting = Setting(
        "x", cell, recurrent_dropout=0.4, dropout=0.4, state=True, mask="holes", options={"go_backwards": True}
    )
    arrays = setting.arrays("float32")
    of_inputs, of_state = setting.dropped() or (None, None)
    core, masks = library.cell_of(setting, "float32"), flax_rnn.DropoutMasks(of_inputs, of_state)
    outputs, state = oracle.run(
        oracle.of(core, arrays["params"][0], masks), arrays["x"], arrays["state"][0], setting.mask_array(),
        return_sequences=True, go_backwards=True,
    )  # fmt: skip
    oracle.assert_close(reference.expected(setting, arrays), (outputs, [state]), 1e-12)


@pytest.mark.usefixtures("traced_anew")
def test_a_wrong_step_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = flax_rnn.LSTMCell.step

    def wrong(self: Any, weights: Any, carry: Any, projected: Any, *affine: Any) -> Any:
        i, f, g, o = projected
        return right(self, weights, carry, (f, i, g, o), *affine)

    monkeypatch.setattr(flax_rnn.LSTMCell, "step", wrong)
    verdict, words = judge(Check(Setting("plain"), "scan", "float32"))
    assert verdict == WRONG and "values" in words


def test_a_mask_that_is_ignored_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = flax_rnn.rnn
    monkeypatch.setattr(flax_rnn, "rnn", lambda *inputs, mask=None, **options: right(*inputs, **options))
    assert judge(Check(HOLES, "scan", "float32")).verdict == WRONG
    assert judge(Check(replace(HOLES, mask=None), "scan", "float32")).verdict == OK


def test_errors_of_gradients_are_a_part_of_their_norm() -> None:
    array = np.zeros((3, 4))
    directions = reference.directions(array)
    gradient = np.random.default_rng(0).normal(size=array.shape)
    right = np.array([np.vdot(gradient, direction) for direction in directions])
    assert along_directions(gradient, array, right) < 1e-15
    assert along_directions(1.1 * gradient, array, right) > 0.03
    assert along_directions(1e6 * gradient, array, right) > 0.3
    assert along_directions(gradient * np.nan, array, right) == float("inf")
    # Next to orthogonal to all directions, which says little about it.
    flat = np.stack([direction.ravel() for direction in directions])
    across = np.linalg.svd(flat)[2][-1].reshape(array.shape)
    expected = np.array([np.vdot(across, direction) for direction in directions])
    assert along_directions(across + 0.001 * gradient, array, expected) < 0.01


@pytest.mark.parametrize("part", ["params", "x", "state"])
def test_a_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    right = library.function_of

    def wrong(*arguments: Any) -> Any:
        function = right(*arguments)

        def scaled(leaf: jax.Array) -> jax.Array:
            return 1.001 * leaf - jax.lax.stop_gradient(0.001 * leaf)

        return lambda arrays: function(arrays | {part: jax.tree.map(scaled, arrays[part])})

    setting = Setting("state", "simple_rnn", state=True)
    assert judge(Check(setting, "scan", "float32")).verdict == OK
    monkeypatch.setattr(library, "function_of", wrong)
    verdict, words = judge(Check(setting, "scan", "float32"))
    values, gradients = (float(part.split()[1]) for part in words.split(", "))
    assert verdict == WRONG and values < 1e-5 < 5e-4 < gradients


def test_what_is_declined_or_broken_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict, words = judge(Check(Setting("relu", activation="relu"), "no such thing", "float32"))
    assert verdict == DECLINED and "expected one of" in words

    def broken(*arguments: Any) -> Any:
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(library, "function_of", broken)
    assert judge(Check(HOLES, "scan", "float32")) == Verdict(BROKEN, "RuntimeError: an illegal memory access")


class Process:
    """Answers with what is in ``answers``; an exception is raised."""

    def __init__(self, answers: list[Any]):
        self.answers, self.closed = answers, False

    def ask(self, timeout: float | None = None, **request: Any) -> dict[str, Any]:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Verdict(*answer)._asdict()

    def close(self) -> None:
        self.closed = True


def test_others_go_on_after_what_breaks() -> None:
    died = WorkerError("no answer within 60 s", died=True)
    answers: list[Any] = [(OK, "a"), died, (BROKEN, "b"), (DECLINED, "c"), (WRONG, "d")]
    made: list[Process] = []

    def start() -> Process:
        made.append(Process(answers))
        return made[-1]

    court = check.Court(1, 60, start)
    judged = [*court.run([Check(HOLES, "scan", "float32")] * 5)]
    assert [verdict for _, (verdict, _) in judged] == [OK, BROKEN, BROKEN, DECLINED, WRONG]
    assert [process.closed for process in made] == [True, True, False], "a process ends with what breaks in it"
    court.close()
    assert made[-1].closed
    late = check.Court(1, -1, start)
    assert [verdict.verdict for _, verdict in late.run([Check(HOLES, "scan", "float32")])] == [LATE]


@pytest.mark.parametrize(
    ("found", "right"),
    [([OK], True), ([OK, DECLINED], True), ([DECLINED], False), ([OK, WRONG], False), ([OK, LATE], False), ([], False)],
)
def test_all_is_right_if_something_ran_and_nothing_is_wrong(found: list[str], right: bool) -> None:
    lines: list[str] = []
    judged = [(Check(HOLES, "scan", "float32"), Verdict(verdict, "words")) for verdict in found]
    assert check.report(judged, lines.append) == right
    assert ("scan declined 1 times: words" in lines) == (DECLINED in found)


@pytest.mark.full
def test_the_command_from_end_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.check", "--cell", "cudnn-gru", "--implementation", "scan", "cudnn"]
    finished = subprocess.run(
        [*command, "--jobs", "2", "--output", str(tmp_path / "check.txt")], cwd=ROOT, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout + finished.stderr
    lines = (tmp_path / "check.txt").read_text().splitlines()
    assert lines == finished.stdout.splitlines() and lines[-1].startswith("All is right: 4 in ")
    assert [line.split(":")[0] for line in lines[1:3]] == [
        "ok     cudnn-gru, plain, scan, float32", "ok     cudnn-gru, state, holes, scan, float32",
    ]  # fmt: skip
    assert not np.any(["WRONG" in line for line in lines])
