"""The suite of faults notices what is planted, and runs."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import flax_rnn
from experiments.checkpoints import Store
from flax_rnn.convert import ConversionError
from tests.faults import __main__ as command
from tests.faults import files, kills, mutations, numbers, plain, programs, reading, results, same, sizes, texts
from tests.faults.subjects import Subject
from tests.faults.verdicts import Case, Setting, Verdict

TRACEBACK = """\
Traceback (most recent call last):
  File "imdb.py", line 1, in <module>
    main()
KeyError: 'a'
"""


@pytest.mark.parametrize(
    ("code", "text", "verdict"),
    [
        (0, "done", Verdict.SURVIVED),
        (1, "no space, it says", Verdict.CLEAR),
        (1, "something", Verdict.LOST),
        (1, f"no space\n{TRACEBACK}", Verdict.LOST),
        (0, TRACEBACK, Verdict.LOST),
        (0, "Exception in thread Thread-1:\n", Verdict.LOST),
        (0, TRACEBACK.replace("<module>", "inner"), Verdict.SURVIVED),
        (-11, "no space", Verdict.LOST),
        (None, "no space", Verdict.LOST),
    ],
)
def test_how_a_program_ended(code: int | None, text: str, verdict: Verdict) -> None:
    case = programs.judge("a fault", programs.Ended(code, text), "no space")
    assert case.verdict is verdict and bool(case.detail) == (verdict is Verdict.LOST)
    if code == 1 and verdict is Verdict.CLEAR:
        assert programs.judge("a fault", programs.Ended(code, text)).verdict is Verdict.LOST


RIGHT = {"a": np.arange(3.0)}


def failing(error: BaseException) -> Any:
    def read(path: Path) -> Any:
        raise error

    return read


@pytest.mark.parametrize(
    ("read", "sealed", "verdict"),
    [
        (lambda path: RIGHT, True, Verdict.SURVIVED),
        (lambda path: {"a": np.ones(3)}, False, Verdict.CHANGED),
        (lambda path: {"a": np.full(3, np.nan)}, False, Verdict.CHANGED),
        (lambda path: {"a": np.ones(3)}, True, Verdict.LOST),
        (lambda path: {"a": np.ones(4)}, False, Verdict.LOST),
        (lambda path: {"a": np.ones(3, "i8")}, False, Verdict.LOST),
        (lambda path: {"a": np.random.default_rng().random(3)}, False, Verdict.LOST),
        (failing(ConversionError("/tmp/model: bad")), False, Verdict.CLEAR),
        (failing(ConversionError("bad")), False, Verdict.LOST),
        (failing(KeyError("/tmp/model")), False, Verdict.LOST),
        (failing(MemoryError()), False, Verdict.LOST),
    ],
)
def test_how_a_file_was_read(read: Any, sealed: bool, verdict: Verdict) -> None:
    subject = Subject(lambda folder: folder, read, (ConversionError,), sealed)
    assert reading.judge(subject, Path("/tmp/model"), RIGHT)[0] is verdict


def test_a_reader_that_dies_or_hangs_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SECONDS", 2.0)
    found = [*files.damaged("any", tmp_path, 0, 4, "tests.support.dying_reader")]
    assert [case.verdict for case in found] == [Verdict.LOST, Verdict.LOST, Verdict.SURVIVED, Verdict.SURVIVED]
    assert "number 0, planted: the process ended by -11" in found[0].detail


def test_damage_is_damage_and_can_be_repeated() -> None:
    content = bytes(range(256)) * 8
    seen: set[str] = set()
    for seed in range(200):
        (new, kind), again = (mutations.of_bytes(content, np.random.default_rng(seed)) for _ in range(2))
        assert (new, kind) == again and new != content
        seen.add(kind)
    assert len(seen) > 10
    text = json.dumps({"a": [1, {"b": "c"}]})
    assert len({mutations.of_json(text, np.random.default_rng(seed))[0] for seed in range(200)}) > 50


def trained(folder: Path, weights: bytes, loss: float, moment: float) -> Path:
    (folder / "out").mkdir(parents=True)
    (folder / "out" / "lstm.safetensors").write_bytes(weights)
    (folder / "out" / "results.json").write_text(json.dumps({"runs": [{"loss": loss, "seconds": str(folder)}]}))
    store = Store(folder / "saves" / "lstm-0", {}, 1)
    assert store.save({"moment": jnp.full(3, moment)}, {"sums": []})
    store.close()
    return folder


def test_an_end_that_is_not_the_same_is_noticed(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", b"weights", 0.5, 1.0)
    assert same.problem(whole, trained(tmp_path / "same", b"weights", 0.5, 1.0), "lstm") is None
    others = {
        "safetensors": (b"Weights", 0.5, 1.0),
        "results": (b"weights", 0.6, 1.0),
        "arrays": (b"weights", 0.5, 1.1),
    }
    for words, (weights, loss, moment) in others.items():
        assert words in str(same.problem(whole, trained(tmp_path / words, weights, loss, moment), "lstm"))
    (whole / "out" / "lstm.safetensors").unlink()
    assert "is not there" in str(same.problem(tmp_path / "same", whole, "lstm"))


def test_a_training_that_ends_otherwise_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = kills.Training(tmp_path, "lstm")
    monkeypatch.setattr(training, "_kill", lambda *_: 1.0)
    for problem, verdict in ((None, Verdict.SURVIVED), ("the weights differ", Verdict.LOST)):
        monkeypatch.setattr(training, "problem", lambda place, problem=problem: problem)
        found = [*training.killed([kills.SAVING, kills.ANYWHERE], 1.0, np.random.default_rng(0))]
        assert [case.verdict for case in found] == [verdict] * 2


def test_a_mask_that_does_not_keep_nan_out_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    run: Any = flax_rnn.rnn
    monkeypatch.setattr(flax_rnn, "rnn", lambda *args, mask, **options: run(*args, **options))
    problem = numbers.Problem("GRU", "scan", numbers.LOOPS[0], np.random.default_rng(0))
    assert [case.verdict for case in problem.masked(np.nan)] == [Verdict.LOST] * 2


def test_sizes_that_are_not_refused_or_not_right_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sizes.try_one("no_units", "GRU", "native").startswith("clear ValueError: units: expected")
    monkeypatch.setitem(sizes.KINDS, "no_units", sizes.KINDS["no_units"]._replace(run=lambda cell, way: None))
    with pytest.raises(AssertionError, match="it should have been refused"):
        sizes.try_one("no_units", "GRU", "native")
    monkeypatch.setattr(plain, "scalar", lambda *_: 0.5)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        sizes.try_one("one_unit", "GRU", "scan")
    monkeypatch.setattr(sizes, "KINDS", {"no_rows": sizes.Kind("a fault", sizes.no_rows, ways=("scan",))})
    said = "".join(f"no_rows {cell} scan: right\n" for cell in sizes.CELLS)
    for code, text, verdict in ((0, said, Verdict.SURVIVED), (-9, said, Verdict.LOST), (0, "", Verdict.LOST)):
        ended = programs.Ended(code, text)
        monkeypatch.setattr(programs, "run", lambda *_, ended=ended, **__: ended)
        assert [case.verdict for case in sizes.cases(Setting(Path(), 0, False))] == [verdict] * 3


def test_a_command_that_fails_without_a_word_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert texts.asked("a fault", "text", ["good"], tmp_path).verdict is Verdict.CLEAR
    for error in (SystemExit(1), ValueError("codec"), SystemExit()):
        monkeypatch.setattr("experiments.predict.main", failing(error))
        assert texts.asked("a fault", "text", ["good"], tmp_path).verdict is Verdict.LOST


def test_the_table_counts_and_names_what_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Case("a fault", verdict, f"how {verdict.value}") for verdict in (*Verdict, Verdict.CLEAR)]
    monkeypatch.setattr(numbers, "cases", lambda setting: iter(found))
    assert command.main(["--only", "numbers", "--output", str(tmp_path)]) == 1
    page = (tmp_path / "results.md").read_text()
    assert "| numbers | a fault | 5 | 2 | 1 | 2 | 1 |" in page and "- a fault: `how lost`" in page
    assert results.earlier(tmp_path / "results")["numbers"]["rows"][0]["lost"] == 1
    monkeypatch.setattr(texts, "cases", lambda setting: iter(found[:1]))
    assert command.main(["--only", "texts", "--output", str(tmp_path)]) == 0
    assert [*results.earlier(tmp_path / "results")] == ["numbers", "texts"]


@pytest.mark.full
def test_a_rehearsal(tmp_path: Path) -> None:
    assert command.main(["--quick", "--only", "numbers", "--only", "texts", "--output", str(tmp_path)]) == 0
    rows = [row for group in results.earlier(tmp_path / "results").values() for row in group["rows"]]
    assert len(rows) >= 5 and all(row["tried"] >= 9 and not row["lost"] for row in rows)
    found = [*files.damaged("safetensors", tmp_path, 0, 30)]
    assert len(found) == 30 and {case.verdict for case in found} <= {Verdict.CLEAR, Verdict.CHANGED, Verdict.SURVIVED}
    assert Setting(tmp_path, 0, True).count(1000, 3) == 3
