"""Results of ``benchmarks.layers`` as Markdown: an overview, all figures, and who was absent for what reason."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.cases import Case
from benchmarks.contestants import IMPLEMENTATIONS

Rows = Sequence[dict[str, Any]]
"""What ``comparison.compare`` returns, for several cases."""

NONE = "-"
_CASE = ("cell", "B,T,D,H", "pass", "dtype", "variant")
_FIGURES = (
    "contestant", "ms on the device", "ms (median)", "min", "middle half", "µs a step", "sequences/s", "GFLOP/s",
    "% of peak", "ratio", "compile s",
)  # fmt: skip


def markdown(header: Iterable[str], rows: Iterable[Sequence[str]], words: int) -> str:
    """A table; the first so many columns are words, the others numbers."""
    header = list(header)
    rules = ["---"] * words + ["---:"] * (len(header) - words)
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rules, *rows]) + "\n"


def short(ms: float) -> str:
    """Milliseconds with as many digits as mean something."""
    return f"{ms:.{3 if ms < 1 else 2 if ms < 10 else 1}f}"


def time_ms(figures: dict[str, Any]) -> float:
    """The time to compare by: that on the device where it was measured, else that with the wait for each call."""
    return figures.get("queued_ms", figures["median_ms"])


def names(results: Rows) -> list[str]:
    """Everyone who took part or was absent, in order."""
    found = dict.fromkeys(name for row in results for name in [*row["contestants"], *row["absent"]])
    ran = {name for row in results for name in row["contestants"]}
    return [*filter(ran.__contains__, found), *(name for name in found if name not in ran)]


def overview(results: Rows) -> str:
    """A line for each case: the times, and how many times that of the first contestant they are.

    Of two times the first is that on the device, which is what is compared; the second is that with a wait for each.
    """
    ran = [name for name in names(results) if any(name in row["contestants"] for row in results)]
    lines = []
    for row in results:
        times = [_brief(row["contestants"].get(name)) for name in ran]
        lines.append([*_words(row), *times])
    return markdown([*_CASE, *ran], lines, len(_CASE))


def figures(results: Rows) -> str:
    """A line for each contestant of each case."""
    lines = []
    for row in results:
        for name, f in row["contestants"].items():
            ratio = NONE if f["ratio"] is None else f"{f['ratio']:.2f}"
            lines.append(
                [
                    *_words(row), name, short(f["queued_ms"]) if "queued_ms" in f else NONE, short(f["median_ms"]),
                    short(f["min_ms"]), f"{short(f['quartile_1_ms'])} to {short(f['quartile_3_ms'])}",
                    f"{f['us_per_step']:.1f}",
                    f"{f['sequences_per_s']:,.0f}", f"{f['gflops']:,.1f}", f"{f['percent_of_peak']:.1f}", ratio,
                    f"{f['compile_s']:.1f}",
                ]
            )  # fmt: skip
    return markdown([*_CASE, *_FIGURES], lines, len(_CASE) + 1)


def regrets(results: Rows) -> str:
    """What ``implementation="auto"`` takes in each case, and its time over that of the fastest implementation."""
    lines = []
    for row in results:
        times = {name: time_ms(row["contestants"][name]) for name in IMPLEMENTATIONS if name in row["contestants"]}
        if row.get("auto") in times:
            best = min(times, key=times.__getitem__)
            lines.append([*_words(row), row["auto"], best, f"{times[row['auto']] / times[best]:.2f}"])
    return markdown([*_CASE, "auto takes", "the fastest is", "over it"], lines, len(_CASE) + 2)


def absences(results: Rows) -> str:
    """Who did not run, why, and in which cases."""
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in results:
        for name, why in row["absent"].items():
            reasons[name, why].append(Case(**row["case"]).label)
    lines = []
    for (name, why), cases in reasons.items():
        where = "all" if len(cases) == len(results) else f"{len(cases)}: " + "; ".join(cases[:3])
        lines.append([name, why.replace("|", "\\|"), where + ("; …" if len(cases) > 3 and where != "all" else "")])
    return markdown(["absent", "reason", "cases"], lines, 3)


def notes(results: Rows) -> str:
    """What contestants say of how they run a case."""
    lines = [
        [*_words(row), name, figures["note"]]
        for row in results
        for name, figures in row["contestants"].items()
        if "note" in figures
    ]
    return markdown([*_CASE, "contestant", "note"], lines, len(_CASE) + 2)


def report(everything: dict[str, Any]) -> str:
    """The whole file of results as a page."""
    results = everything["results"]
    parts = [f"# Layers on {everything['device']}\n", summary(everything)]
    if any("note" in figures for row in results for figures in row["contestants"].values()):
        parts += ["What is known of how others run a case:\n", notes(results)]
    parts += ["What is taken by itself:\n", regrets(results)]
    parts += ["All figures; `ratio` is the same, `compile s` the first call less a later one:\n", figures(results)]
    return "\n".join(parts)


def summary(everything: dict[str, Any]) -> str:
    """The page without the long table."""
    results, machine = everything["results"], everything["machine"]
    peaks = ", ".join(f"{1e-9 * flops:,.0f} GFLOP/s in {dtype}" for dtype, flops in everything["peak_flops"].items())
    held_to = everything["held_to"]
    less = held_to not in (None, machine["instruction_set"])
    held = f"Everybody is held to {held_to}, but for what XLA leaves to YNNPACK. " if less else ""
    return "\n".join(
        [
            f"`{everything['command']}`\n",
            f"{described(machine)}. {held}Large matrix products reach {peaks}, measured in the same run.\n",
            f"{_meaning(results)}, and in parentheses how many times those of `{everything['contestants'][0]}`:\n",
            overview(results),
            absences(results) if any(row["absent"] for row in results) else "Nobody was absent.\n",
        ]
    )


def described(machine: dict[str, Any], packages: Sequence[str] | None = None) -> str:
    """A machine in words, with the versions of all ``packages``, or of those that are named."""
    named = machine["packages"].items()
    versions = ", ".join(f"{name} {version}" for name, version in named if packages is None or name in packages)
    return (
        f"{machine['processor']} with {machine['instruction_set']}, {machine['cores']} cores, {machine['system']}, "
        f"Python {machine['python']}; {versions}"
    )


def _words(row: dict[str, Any]) -> list[str]:
    case = Case(**row["case"])
    return [case.cell, str(case.size), case.phase, case.dtype, case.variant]


def _brief(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return NONE
    ratio = "" if figures["ratio"] is None else f" ({figures['ratio']:.2f})"
    if "queued_ms" in figures:
        return f"{short(figures['queued_ms'])} / {short(figures['median_ms'])}{ratio}"
    return f"{short(figures['median_ms'])}{ratio}"


def _meaning(results: Rows) -> str:
    """Of the figures in the overview."""
    if any("queued_ms" in figures for row in results for figures in row["contestants"].values()):
        return "Milliseconds on the device, of calls that are waited for together / of those that are waited for each"
    return "Milliseconds"
