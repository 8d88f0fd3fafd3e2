"""The table of all groups, and the two files that hold it."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import processor, record, tables
from benchmarks.timing import installed
from tests.faults.verdicts import Case, Verdict

PACKAGES = ("jax", "flax", "orbax-checkpoint", "numpy", "h5py", "safetensors", "torch", "tensorflow-datasets")

_MOST_DETAILS = 20

_ABOUT = """\
Faults, brought about on purpose. `python -m tests.faults` tries them, and writes this page.

- *survived*: the program went on, or the same command did later, and what came out is right to the last bit, but for
  seconds; of a file, what was written was read. *changed* counts among them files whose numbers are not what was
  written once: the formats of weights have no checksum for them.
- *clear error*: a message that names what is wrong, of the kinds that the documentation names; no traceback of ours.
- *lost*: anything else, such as a crash, a hang, more memory than allowed, wrong shapes, other bits, and a traceback
  where somebody made a mistake. What libraries log of their own threads is none: orbax and tensorstore write hundreds
  of lines where a disk is full, ahead of our one.
- A limit of time holds for each, of memory too: 2 GiB beyond what the process has for a file of some KiB, 12 to 16 GiB
  of addresses for a program.
"""


def summary(cases: Iterable[Case]) -> list[dict[str, Any]]:
    """A row for each fault, with how its cases ended."""
    rows: dict[str, dict[str, Any]] = {}
    for case in cases:
        row = rows.setdefault(case.fault, {"fault": case.fault, "ended": Counter(), "details": []})
        row["ended"][case.verdict] += 1
        if case.verdict is Verdict.LOST:
            row["details"].append(case.detail)
    return [_row(**row) for row in rows.values()]


def _row(fault: str, ended: Counter[Verdict], details: list[str]) -> dict[str, Any]:
    changed, lost = ended[Verdict.CHANGED], ended[Verdict.LOST]
    return {
        "fault": fault, "tried": ended.total(), "survived": ended[Verdict.SURVIVED] + changed, "changed": changed,
        "clear error": ended[Verdict.CLEAR], "lost": lost, "details": details[:_MOST_DETAILS],
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Of the processor and the packages."""
    return {"processor": f"{processor.name()}, {os.cpu_count()} cores"} | installed(PACKAGES)


def earlier(stem: Path) -> dict[str, Any]:
    """The groups that the files hold already."""
    path = stem.with_name(f"{stem.name}.json")
    return json.loads(path.read_text())["groups"] if path.exists() else {}


def write(stem: Path, groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes both files."""
    record.write(stem, {"groups": groups}, page(groups))


def page(groups: Mapping[str, Mapping[str, Any]]) -> str:
    """The table in Markdown."""
    names = ("tried", "survived", "changed", "clear error", "lost")
    every = [row for group in groups.values() for row in group["rows"]]
    lines = [
        [name, row["fault"].replace("|", r"\|"), *(f"{row[figure]:,}" for figure in names)]
        for name, group in groups.items()
        for row in group["rows"]
    ]
    lines.append(["all", "", *(f"{sum(row[name] for row in every):,}" for name in names)])
    parts = ["# Faults\n", _ABOUT, tables.markdown(["group", "fault", *names], lines, 2)]
    if lost := [f"- {row['fault']}: `{detail}`" for row in every for detail in row["details"]]:
        parts.append("What was lost:\n\n" + "\n".join(lost) + "\n")
    parts.append("\n".join(f"- {name}: {_origin(group)}" for name, group in groups.items()) + "\n")
    return "\n".join(parts)


def _origin(group: Mapping[str, Any]) -> str:
    found = ", ".join(f"{name} {text}" if name != "processor" else text for name, text in group["versions"].items())
    return f"`{group['command']}`, {group['seconds']:.0f} s; {found}"
