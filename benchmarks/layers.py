"""Time of recurrent layers: ours against Flax, Keras on its backends, torch, ONNX Runtime and cuDNN.

Every contestant lives in a process of its own, gets the same weights and inputs, and must give the same outputs and
gradients before anything is timed; then they take turns. float32 is float32 for all, without TF32, which is a dtype of
its own. By default the cases are some twenty minutes' worth on a CPU with two cores, and more on a GPU, for which
benchmarks.gpu has the most telling ones first; --cell and --pass choose among them, any of --size, --dtype and
--variant makes a list of its own. --isa shows on a processor with AVX-512 what others get; whoever cannot be held to
AVX2 at all is then left out.

    python -m benchmarks.layers --cell lstm --size small 16,100,64,64 --variant plain relu
"""

import argparse
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import cases, command, isa, tables
from benchmarks.cases import Case, Size
from benchmarks.comparison import Effort, Field, compare
from benchmarks.contestants import OURS, PEERS
from benchmarks.progress import Progress, progress
from benchmarks.record import RESULTS, write
from benchmarks.timing import machine
from benchmarks.workers import WAITING, exit_on_termination
from flax_rnn.runtime import MALLOC

KEEP_MEMORY = {variable: str(value) for variable, (_, value) in MALLOC.items()}
"""What ``flax_rnn.runtime.keep_memory`` sets, as glibc takes it from the environment."""
SECOND_LSTMS = ("flax-linen-lstmcell", "flax-nnx-lstmcell")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command.parser("layers", __doc__)
    what = parser.add_argument_group("what")
    what.add_argument("--cell", nargs="+", choices=cases.CELLS, default=list(cases.CELLS), help="[all]")
    what.add_argument(
        "--size", nargs="+", type=sizes, metavar="SIZE",
        help=f"B,T,D,H or a name: {', '.join(cases.SIZES)}",
    )  # fmt: skip
    what.add_argument(
        "--pass", dest="phases", nargs="+", choices=cases.PHASES, default=list(cases.PHASES), help="[both]"
    )
    what.add_argument("--dtype", nargs="+", choices=cases.DTYPES)
    what.add_argument("--variant", nargs="+", choices=cases.VARIANTS)
    what.add_argument("--full", action="store_true", help="all sizes and sweeps, all variants: hours")
    what.add_argument(
        "--against", nargs="*", choices=PEERS, default=[name for name in PEERS if name not in SECOND_LSTMS],
        help=f"contestants beside {', '.join(OURS)} [all but {' and '.join(SECOND_LSTMS)}]",
    )  # fmt: skip
    how = parser.add_argument_group("how")
    usual = Effort()
    how.add_argument("--rounds", type=int, default=usual.rounds, help="turns of each contestant [%(default)s]")
    how.add_argument(
        "--budget", type=float, default=usual.budget, metavar="S",
        help="seconds after which a contestant has no more turns in a case [%(default)s]",
    )  # fmt: skip
    how.add_argument(
        "--limit", type=float, default=usual.limit, metavar="S",
        help="seconds after which one that is compiling is given up [%(default)s]",
    )  # fmt: skip
    how.add_argument(
        "--keep-memory",
        action="store_true",
        help="let all contestants keep freed memory, as flax-rnn-tuned always does",
    )
    how.add_argument("--isa", choices=isa.LABELS, help="instructions that all contestants are held to [all there are]")
    how.add_argument("--quick", action="store_true", help="a few tiny cases and turns, nothing written")
    how.add_argument("--output", type=Path, help="of the results, without ending [benchmarks/results/layers-DEVICE]")
    options = parser.parse_args(arguments)
    if options.isa and (reason := isa.why_not()):
        parser.error(f"--isa {options.isa}: {reason}")
    return options


def sizes(text: str) -> tuple[Size, ...]:
    """The sizes that a word of the command line stands for."""
    if text in cases.SIZES:
        return cases.SIZES[text]
    size = Size.of(text)
    if size is None:
        raise argparse.ArgumentTypeError(f"expected B,T,D,H or one of {', '.join(cases.SIZES)}, got {text}")
    return (size,)


def slug(device: str) -> str:
    """The device as a part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def stem(options: argparse.Namespace, device: str) -> Path:
    """Of the files of results; figures of all instructions and of fewer are kept apart."""
    held = f"-{options.isa}" if options.isa and isa.narrows() else ""
    return options.output or RESULTS / f"layers-{slug(device)}{held}"


def environment(options: argparse.Namespace) -> dict[str, str]:
    """The variables of all contestants that the command line asks for."""
    return (KEEP_MEMORY if options.keep_memory else {}) | (isa.environment() if options.isa else {})


def matrix(options: argparse.Namespace, platform: str) -> list[Case]:
    """The cases that the command line asks for."""
    if options.quick:
        wanted = cases.quick()
    elif options.size or options.dtype or options.variant:
        chosen = dict.fromkeys(size for group in options.size or [cases.SIZES["imdb"]] for size in group)
        wanted = cases.product(chosen, dtypes=options.dtype or ["float32"], variants=options.variant or ["plain"])
    else:
        wanted = cases.full(platform) if options.full else cases.default(platform)
    return [case for case in dict.fromkeys(wanted) if case.cell in options.cell and case.phase in options.phases]


def started(field: Field, command: str) -> dict[str, Any]:
    """The results ahead of the first case: who, where and how."""
    return {
        "command": command, "device": field.device, "platform": field.platform, "machine": machine(),
        "held_to": None, "environment": WAITING | field.environment,
        "contestants": field.names, "effort": field.effort._asdict(), "tolerances": cases.TOLERANCES,
        "peak_flops": {}, "results": [],
    }  # fmt: skip


def measure(field: Field, case: Case, results: dict[str, Any], shown: Progress) -> None:
    """Adds a case to ``results``, so that what there is can be written when the next one is interrupted."""
    if case.dtype not in results["peak_flops"]:
        shown.now(f"large products in {case.dtype}")
        results["peak_flops"][case.dtype] = field.peak(case.dtype)
    row = compare(field, case, results["peak_flops"][case.dtype], lambda name: shown.now(f"{case.label}: {name}"))
    results["results"].append(row)
    times = ", ".join(f"{name} {tables.time_ms(found):.3g}" for name, found in row["contestants"].items())
    shown.done(f"{case.label}: {times} ms")


def draw(results: dict[str, Any], stem: Path) -> None:
    """The pictures, where ``matplotlib`` is installed."""
    if not find_spec("matplotlib"):
        print("No pictures, since matplotlib is not installed.")
        return
    from benchmarks import plots

    plots.plot(results["results"], results["device"], stem)


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints and writes."""
    options = parse(arguments)
    exit_on_termination()
    effort = Effort(options.rounds, budget=options.budget, limit=options.limit)
    if options.quick:
        effort = effort._replace(rounds=2, turn=0.01)
    field = Field([*OURS, *options.against], effort, environment=environment(options))
    called = command.line("layers", arguments)
    results = started(field, called) | {"held_to": isa.LABELS.get(options.isa)}
    wanted = matrix(options, field.platform)
    try:
        with progress(len(wanted)) as shown:
            for case in wanted:
                measure(field, case, results, shown)
    finally:
        field.close()
        if results["results"]:
            print(tables.summary(results))
            if not options.quick:
                write(stem(options, field.device), results, tables.report(results))
                draw(results, stem(options, field.device))


if __name__ == "__main__":
    main()
