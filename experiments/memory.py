"""Shows what gates are for: how far back SimpleRNN, GRU and LSTM remember, and how gates do it.

All learn the adding problem and copying at several lengths, with as many units and the same training. It is measured
what they get wrong; how the last answer depends on the state some steps back, before training and after; and what gates
do where a number is marked.

    python experiments/memory.py
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

if __package__ in (None, ""):  # run as a file rather than with -m
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

import flax_rnn
from experiments import memory_report
from experiments.memory_probes import around_marks, carrier, gates, slopes
from experiments.memory_tasks import TASKS, Adding, Task
from experiments.memory_training import Cell, Plan, Trained, count, train
from experiments.report import environment
from flax_rnn import runtime

CELLS = {"SimpleRNN": flax_rnn.SimpleRNNCell, "GRU": flax_rnn.GRUCell, "LSTM": flax_rnn.LSTMCell}
GATED = ("GRU", "LSTM")
OPEN = "LSTM, open"
OPEN_BIAS = 4.0
"""Of the forget gates of an LSTM that start almost open; Keras' start with 1."""
REACH = 6
"""How many steps are shown on either side of a mark."""
EXAMPLES_TO_LOOK_AT = 200


def open_bias(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Zeros, and ``OPEN_BIAS`` for the second of the four gates."""
    del key
    units = shape[0] // 4
    return jnp.zeros(shape, dtype).at[units : 2 * units].set(OPEN_BIAS)


def open_lstm(units: int) -> flax_rnn.LSTMCell:
    """An LSTM that forgets next to nothing before it has learned to."""
    return flax_rnn.LSTMCell(units, unit_forget_bias=False, bias_initializer=open_bias)


# Where the others fail at copying, it tells whether the start is to blame.
CONTESTANTS: dict[str, Mapping[str, Callable[[int], Cell]]] = {
    "adding": {**CELLS},
    "copying": CELLS | {OPEN: open_lstm},
}


class Job(NamedTuple):
    """One layer and one task, which it learns once for each seed."""

    cell: str
    task: str
    length: int


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    description, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="memory.py", description=description, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, plan = parser.add_argument, Plan()
    add("--units", type=int, default=32, help="size of every layer [%(default)s]")
    add("--adding", type=int, nargs="+", default=[10, 25, 50, 100, 200], metavar="N", help="lengths [%(default)s]")
    add("--copying", type=int, nargs="+", default=[5, 10, 20, 40], metavar="N", help="blanks [%(default)s]")
    add("--inside", type=int, default=100, help="the length, one of --adding, for gradients and gates [%(default)s]")
    add("--steps", type=int, default=plan.steps, help=f"of training, a multiple of {plan.points} [%(default)s]")
    add("--batch-size", type=int, default=plan.batch, help="examples in a step [%(default)s]")
    add("--learning-rate", type=float, default=plan.learning_rate, help="of Adam [%(default)s]")
    add("--seeds", type=int, default=3, help="how many times each is trained [%(default)s]")
    add("--quick", action="store_true", help="tiny sizes, to see that it runs; what it shows means nothing")
    add("--output", type=Path, default=Path("runs/memory"), help="folder for what is found [%(default)s]")
    options = parser.parse_args(arguments)
    if options.quick:
        tiny = {"units": 4, "adding": [8], "copying": [3], "inside": 8, "steps": 30, "batch_size": 8, "seeds": 2}
        options = argparse.Namespace(**vars(options) | tiny)
    if options.inside not in options.adding:
        parser.error(f"argument --inside: expected one of the lengths {options.adding}, got {options.inside}")
    if options.steps % plan.points:
        parser.error(f"argument --steps: expected a multiple of {plan.points}, got {options.steps}")
    return options


def run(job: Job, options: argparse.Namespace) -> list[Trained]:
    """Trains with each seed."""
    start = time.perf_counter()
    cell, task = CONTESTANTS[job.task][job.cell](options.units), TASKS[job.task](job.length)
    plan = Plan(options.steps, options.batch_size, options.learning_rate)
    found = [jax.block_until_ready(train(cell, task, plan, jax.random.key(seed))) for seed in range(options.seeds)]
    errors = ", ".join(f"{float(one.error):.4f}" for one in found)
    seconds = time.perf_counter() - start
    print(
        f"{job.task} {job.length} {job.cell}: errors {errors}, chance {task.chance:.4f} ({seconds:.0f} s)", flush=True
    )
    return found


def slopes_of(cell: Cell, trained: list[Trained], inputs: jax.Array) -> dict[str, Any]:
    """Of each seed the median over sequences, as a part of what it is one step back."""
    found: dict[str, Any] = {}
    for when in ("before", "after"):
        norms = np.stack([np.median(slopes(cell, getattr(one, when), inputs), axis=1) for one in trained])
        found[when] = memory_report.spread(norms / norms[:, :1])
    return found


def gates_of(cell: Any, trained: list[Trained], inputs: jax.Array) -> dict[str, Any]:
    """Means of gates around marks and at all steps without one; over all units, and of the unit that carries most."""
    marks = np.asarray(inputs[..., 1]) > 0
    found: dict[str, Any] = {}
    for when in ("before", "after"):
        rows: list[dict[str, np.ndarray]] = []
        for one in trained:
            weights, row = getattr(one, when), dict[str, np.ndarray]()
            unit = carrier(cell, weights, inputs)
            for name, gate in gates(cell, weights, inputs)._asdict().items():
                values = np.asarray(gate, np.float64)
                near, far = around_marks(values, marks, REACH), np.mean(values[~marks], axis=0)
                row[f"{name}, all units"] = np.append(near.mean(axis=1), far.mean())
                row[f"{name}, carrier"] = np.append(near[:, unit], far[unit])
            rows.append(row)
        found[when] = {name: memory_report.spread(np.stack([row[name] for row in rows])) for name in rows[0]}
    return found


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Trains, looks, and writes; returns what was found."""
    options = parse(arguments)
    runtime.keep_memory()
    start = time.perf_counter()
    jobs = [
        Job(cell, task, length) for task in TASKS for length in getattr(options, task) for cell in CONTESTANTS[task]
    ]
    # The longest first, so that none is left to run alone; each keeps about one core busy.
    order = sorted(jobs, key=lambda job: -job.length)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        trained = dict(zip(order, pool.map(lambda job: run(job, options), order), strict=True))

    shown = Adding(options.inside)
    inputs = shown.draw(jax.random.key(options.seeds), EXAMPLES_TO_LOOK_AT).inputs
    inside = {name: trained[Job(name, "adding", options.inside)] for name in CELLS}
    of_each = {name: CELLS[name](options.units) for name in CELLS}
    tasks: dict[str, Task] = {name: make(getattr(options, name)[0]) for name, make in TASKS.items()}
    results = {
        "command": " ".join(["python experiments/memory.py", *(sys.argv[1:] if arguments is None else arguments)]),
        "settings": {name: value for name, value in vars(options).items() if name != "output"},
        "environment": environment(),
        "weights": {
            task: {name: count(make(options.units), tasks[task]) for name, make in CONTESTANTS[task].items()}
            for task in TASKS
        },
        "chance": {name: task.chance for name, task in tasks.items()},
        "runs": [
            job._asdict() | {"seed": seed, "error": float(one.error), "curve": np.asarray(one.curve).tolist()}
            for job in jobs for seed, one in enumerate(trained[job])
        ],
        "slopes": {name: slopes_of(of_each[name], inside[name], inputs) for name in CELLS},
        "gates": {name: gates_of(of_each[name], inside[name], inputs) for name in GATED},
        "seconds": time.perf_counter() - start,
    }  # fmt: skip
    results = memory_report.rounded(results)
    paths = memory_report.write(results, options.output)
    print("\n" + memory_report.tables(results))
    print("Wrote " + ", ".join(map(str, paths)))
    return results


if __name__ == "__main__":
    main()
