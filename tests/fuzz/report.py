"""What the fuzzer leaves behind: figures, and a page of them."""

import platform
from collections import Counter
from importlib.metadata import version
from typing import Any

from benchmarks import processor
from flax_rnn.implementations.native import builds

PACKAGES = ("jax", "jaxlib", "numpy")
COUNTED = ("form", "cell", "implementation", "dtype", "mask", "batch axes", "options")
MAX_FAILURES = 50


def summary(outcomes: list[dict[str, Any]], seed: int, minutes: float) -> dict[str, Any]:
    """Of all outcomes."""
    verdicts = Counter(outcome["verdict"] for outcome in outcomes)
    counts: dict[str, Any] = {}
    for what in COUNTED:
        groups: dict[str, list[dict[str, Any]]] = {}
        for outcome in outcomes:
            for value in values(outcome.get(what)):
                groups.setdefault(value, []).append(outcome)
        counts[what] = {value: figures(of) for value, of in sorted(groups.items())}
    environments: dict[str, list[dict[str, Any]]] = {}
    for outcome in outcomes:
        own = outcome["environment"]
        name = own.get("FLAX_RNN_KERNELS", "none").rpartition("/")[2]
        environments.setdefault(f"{name}, {own.get('NPROC', '?')} threads", []).append(outcome)
    counts["build of the kernels, and threads"] = {name: figures(of) for name, of in sorted(environments.items())}
    return {
        "minutes": round(minutes, 1), "seed": seed, "cases": len(outcomes), "failed": verdicts["failed"],
        "verdicts": dict(sorted(verdicts.items())), "largest": figures(outcomes)["largest"],
        "processor": processor.name(), "instructions": processor.instruction_set(), "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES}, "kernels": builds.digest(), "counts": counts,
        "failures": [
            {name: outcome[name] for name in ("seed", "where", "ratio")}
            for outcome in outcomes if outcome["verdict"] == "failed"
        ][:MAX_FAILURES],
    }  # fmt: skip


def values(given: Any) -> list[str]:
    return [] if given is None else [given] if isinstance(given, str) else given


def figures(outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """How many, how many of them failed, and the largest error of those that passed, relative to its tolerance."""
    passed = [outcome["ratio"] for outcome in outcomes if outcome["verdict"] in ("passed", "vague")]
    failed = sum(outcome["verdict"] == "failed" for outcome in outcomes)
    return {"cases": len(outcomes), "failed": failed, "largest": round(max(passed, default=0.0), 3)}


def page(summary: dict[str, Any]) -> str:
    """The same in Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in summary["versions"].items())
    verdicts = Counter(summary["verdicts"])
    lines = [
        "# Layers against a float64 oracle", "",
        f"Written by `python -m tests.fuzz --minutes {summary['minutes']:g} --seed {summary['seed']}` on "
        f"{summary['processor']} ({summary['instructions']}), with Python {summary['python']}, {versions}.", "",
        f"{summary['cases']} cases in {summary['minutes']:g} minutes, each with several sets of arrays:", "",
        f"- {verdicts['passed']} passed;",
        f"- {verdicts['failed']} failed;",
        f"- {verdicts['vague']} passed, but in some of their arrays rounding is too large for a comparison;",
        f"- {verdicts['kink']} have gradients on different sides of a kink of an activation, and tell nothing.", "",
        "The largest error is relative to the tolerance, which is what rounding by the dtype does to the oracle: see",
        "`Rounding` in `oracle.py`.", "",
    ]  # fmt: skip
    for what, counts in summary["counts"].items():
        lines += [f"| {what} | cases | failed | largest error / tolerance |", "|---|---:|---:|---:|"]
        lines += [
            f"| {name} | {row['cases']} | {row['failed']} | {row['largest']:.2f} |" for name, row in counts.items()
        ]
        lines.append("")
    for failure in summary["failures"]:
        lines.append(f"- `python -m tests.fuzz --case {failure['seed']}`: {' '.join(failure['where'].split())}")
    return "\n".join(lines).rstrip() + "\n"
