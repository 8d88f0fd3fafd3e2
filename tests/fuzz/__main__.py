"""The layers against a float64 oracle in NumPy, over random shapes and options.

python -m tests.fuzz [--minutes 60] [--seed 0]   until the time is up; writes results.json and results.md here
python -m tests.fuzz --case SEED                 one case again, and the least that fails of it
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import record
from tests.fuzz import cases, report

FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
SECONDS_PER_CASE = 300
"""After which a case counts as one that hangs."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (60)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first case (0); those that follow have the next ones"
    )
    parser.add_argument(
        "--case", type=int, metavar="SEED", help="run this case alone, and look for the least that fails"
    )
    parser.add_argument("--with", dest="changes", default="{}", metavar="JSON", help="fields of the case to change")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results"), help="without its ending")
    chosen = parser.parse_args(arguments)
    if chosen.case is not None:
        outcomes = [*run(chosen.case, 1, chosen.changes)]
        print(json.dumps(outcomes[-1], indent=1))
        return int(outcomes[-1]["verdict"] == "failed")
    start, outcomes, seed = time.monotonic(), [], chosen.seed
    while (elapsed := time.monotonic() - start) < 60 * chosen.minutes:
        # Environments change with the number of the case, so that each case is the same wherever one begins.
        count = cases.PER_PROCESS - seed % cases.PER_PROCESS
        for outcome in run(seed, count, deadline=start + 60 * chosen.minutes):
            outcomes.append(outcome)
            if outcome["verdict"] == "failed":
                print(f"{outcome['where']}, {outcome['ratio']:.3g} times the tolerance:", flush=True)
                print(f"  python -m tests.fuzz --case {outcome['seed']}", flush=True)
        seed += count
        everything = report.summary(outcomes, chosen.seed, (time.monotonic() - start) / 60)
        record.write(chosen.output, everything, report.page(everything))
        print(f"{elapsed / 60:.0f} min, {len(outcomes)} cases, {everything['failed']} failed", flush=True)
    return int(any(outcome["verdict"] == "failed" for outcome in outcomes))


def run(first: int, count: int, changes: str | None = None, deadline: float = float("inf")) -> Iterator[dict[str, Any]]:
    """The outcomes of cases in a row, in processes of their own: another one for each that crashes or hangs."""
    last = first + count
    while first < last and time.monotonic() < deadline:
        environment = cases.environment(first)
        given = os.environ
        command = [sys.executable, "-m", "tests.fuzz.worker", str(first), str(last - first)]
        process = subprocess.Popen(
            command + ([] if changes is None else [changes]),
            env={**given, "XLA_FLAGS": f"{given.get('XLA_FLAGS', '')} {FLAGS}".strip(), **environment},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        errors: list[str] = []
        reader = threading.Thread(target=lambda stream=process.stderr, lines=errors: lines.extend(stream))
        reader.start()
        running, hangs, timer = first, threading.Event(), threading.Timer(0, str)

        def stop(process: Any = process, hangs: threading.Event = hangs) -> None:
            hangs.set()
            process.kill()

        for line in process.stdout:
            told = json.loads(line)
            if "begin" in told:
                running = told["begin"]
                timer = threading.Timer(SECONDS_PER_CASE, stop)
                timer.start()
                continue
            timer.cancel()
            first = running + 1
            yield told | {"environment": environment}
            if time.monotonic() > deadline:
                process.kill()
                break
        status = process.wait()
        timer.cancel()
        reader.join()
        if first < last and time.monotonic() < deadline:
            what = "hangs" if hangs.is_set() else f"the process ended with {status}: {''.join(errors)[-2000:]}"
            yield {
                "seed": running, "verdict": "failed", "ratio": 1e30, "where": what, "seconds": 0.0,
                "environment": environment,
            }  # fmt: skip
            first = running + 1


if __name__ == "__main__":
    sys.exit(main())
