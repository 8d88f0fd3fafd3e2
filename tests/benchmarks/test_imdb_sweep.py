"""The times of several seeds: how they are taken, and what the page says of them."""

import json
from pathlib import Path

import pytest

from benchmarks import imdb_sweep
from benchmarks.record import RESULTS

PAGE = Path(__file__).parents[2] / "docs" / "imdb.md"


@pytest.mark.full
def test_both_ways_are_timed_and_written(tmp_path: Path) -> None:
    sizes = ["--units", "4", "--seeds", "2", "--steps", "2", "--rounds", "2"]
    imdb_sweep.main(["--cell", "simple_rnn", *sizes, "--output", str(tmp_path / "sweep")])
    (found,) = json.loads((tmp_path / "sweep.json").read_text())["results"]
    assert (found["cell"], found["units"], found["seeds"]) == ("simple_rnn", 4, 2)
    assert {*found["ways"]} == {*imdb_sweep.WAYS}
    for row in found["ways"].values():
        assert row["turns"] == 2 and 0 < row["min_ms"] <= row["median_ms"]
        # What is compiled takes far longer than a step.
        assert row["compile_s"] > 2e-3 * row["median_ms"]
    assert imdb_sweep.table([found]) in (tmp_path / "sweep.md").read_text()


def test_the_page_has_what_was_measured() -> None:
    results = json.loads((RESULTS / "imdb_sweep.json").read_text())["results"]
    assert len(results) > 1 and imdb_sweep.brief(results) in PAGE.read_text()
