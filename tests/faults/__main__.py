"""Tries all faults, or those of some groups, and writes the table.

    python -m tests.faults
    python -m tests.faults --only kills --only files
    python -m tests.faults --quick --output /tmp/faults

What other groups have in the table stays there. What is random comes from --seed, so that a case can be repeated. The
exit status is 1 if anything is lost.
"""

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import results
from tests.faults.verdicts import Case, Setting, Verdict

GROUPS = ("kills", "stops", "files", "numbers", "texts", "sizes", "surroundings")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    description, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=description, epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--only", action="append", choices=GROUPS, help="a group; may be repeated [all]")
    parser.add_argument("--quick", action="store_true", help="few cases of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of what is random [%(default)s]")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parent,
        help="folder for results.json and results.md [%(default)s]",
    )
    return parser.parse_args(arguments)


def try_group(name: str, seed: int, quick: bool) -> list[Case]:
    """All cases of a group; what is lost is told as it comes."""
    cases: list[Case] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in importlib.import_module(f"tests.faults.{name}").cases(Setting(Path(folder), seed, quick)):
            cases.append(case)
            if case.verdict is Verdict.LOST:
                print(f"LOST {name}: {case.fault}: {case.detail}", flush=True)
    return cases


def main(arguments: list[str] | None = None) -> int:
    """Tries, and writes after each group."""
    chosen = parse(arguments)
    stem = chosen.output / "results"
    groups = results.earlier(stem)
    command = " ".join(["python -m tests.faults", *(["--quick"] if chosen.quick else []), f"--seed {chosen.seed}"])
    lost = 0
    for name in chosen.only or GROUPS:
        began = time.monotonic()
        rows = results.summary(try_group(name, chosen.seed, chosen.quick))
        groups[name] = {
            "command": f"{command} --only {name}", "seconds": time.monotonic() - began, "versions": results.versions(),
            "rows": rows,
        }  # fmt: skip
        groups = {known: groups[known] for known in GROUPS if known in groups}
        results.write(stem, groups)
        for row in rows:
            print(name, *(f"{key}: {row[key]}" for key in row if key != "details"), sep="  ", flush=True)
        lost += sum(row["lost"] for row in rows)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
