"""What docs/promises.md says of versions, and of what the long suites have written."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "promises.md").read_text()


def results_of(name: str) -> Any:
    return json.loads((ROOT / "tests" / name).read_text())


@pytest.mark.parametrize("package", ["jax", "flax"])
def test_the_oldest_version_on_the_page_is_the_one_that_pip_may_take(package: str) -> None:
    allowed = re.findall(rf'dependencies = .*"{package}>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert re.findall(rf"any {package} from ([\d.]+\d)", PAGE) == allowed


def test_the_oldest_python_on_the_page_is_the_one_that_pip_may_take() -> None:
    (allowed,) = re.findall(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert f"with Python {allowed} and" in " ".join(PAGE.split())


def test_no_fault_has_lost_anything() -> None:
    groups = results_of("faults/results.json")["groups"]
    rows = [row for group in groups.values() for row in group["rows"]]
    assert len(rows) > 10 and all(row["tried"] for row in rows)
    assert [row for row in rows if row["lost"]] == []


@pytest.mark.parametrize("name", ["fuzz/results.json", "fuzz/sanitized.json", "stress/results.json"])
def test_no_kernel_has_failed(name: str) -> None:
    assert results_of(name)["failed"] == 0
