"""The table of measured choices: what of results goes into it, and what it is not made of."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import choices
from benchmarks.cases import Case


def row(case: Case, **queued: float) -> dict[str, Any]:
    names = {name.replace("_", "-"): {"queued_ms": ms, "median_ms": 9 * ms} for name, ms in queued.items()}
    return {"case": case.as_json(), "contestants": names, "absent": {}}


def results(*rows: dict[str, Any], platform: str = "gpu") -> dict[str, Any]:
    return {"platform": platform, "device": "NVIDIA H100 80GB HBM3", "results": [*rows]}


def test_the_measured_table(tmp_path: Path) -> None:
    plain = Case("lstm", 32, 80, 128, 128, "training", "tf32")
    first = results(
        row(plain, flax_rnn=1, fused=1.9, scan=2, cudnn=0.5, torch=0.1),
        row(Case("lstm", 32, 80, 128, 128, "training", "tf32", "mask"), fused=1.8),
        row(Case("gru", 32, 80, 128, 128, "forward", "bfloat16"), torch=1),
    )
    (tmp_path / "a.json").write_text(json.dumps(first))
    (tmp_path / "b.json").write_text(json.dumps(results(row(plain, fused=1.5))))
    output = tmp_path / "measured.json"
    choices.main([str(tmp_path / "a.json"), "--output", str(output)])
    entry = {
        "device": "NVIDIA H100 80GB HBM3", "cell": "lstm", "dtype": "tf32", "training": True,
        "shape": [32, 80, 128, 128], "times_ms": {"fused": 1.9, "scan": 2, "cudnn": 0.5},
        "source": str(tmp_path / "a.json"),
    }  # fmt: skip
    assert json.loads(output.read_text()) == [entry]
    choices.main([str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--output", str(output)])
    assert [found["times_ms"] for found in json.loads(output.read_text())] == [{"fused": 1.5}]


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (results(platform="cpu"), "expected results of a GPU, got 'cpu'"),
        (results(), "expected a plain case"),
        (results(row(Case("lstm", 1, 2, 3, 4), torch=1)), "expected a plain case"),
    ],
)
def test_what_the_table_is_not_made_of(
    found: dict[str, Any], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.json").write_text(json.dumps(found))
    with pytest.raises(SystemExit):
        choices.main([str(tmp_path / "x.json"), "--output", str(tmp_path / "measured.json")])
    assert reason in capsys.readouterr().err and not (tmp_path / "measured.json").exists()
