"""What is drawn: a layer, its options and how it is called, each from one seed."""

import dataclasses
import itertools
import os
from typing import Any

import numpy as np

from flax_rnn.implementations.native import builds, library

PER_PROCESS = 40
"""Cases in a row that one process runs, in one environment."""
SETS = 3
"""Sets of arrays for each case, for one compilation."""
MAX_WORK = 3e8

_BATCHES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 70)
_UNITS = (*range(1, 10), 15, 16, 17, 23, 31, 32, 33, 47, 48, 49, 63, 64, 65, 95, 96, 97, 127, 128, 129, 255, 256, 257)
_MASKS = ("none", "right", "left", "holes", "sides", "nothing", "lengths")
NATIVE = ("linear", "tanh", "sigmoid", "relu", "softsign", "hard_sigmoid", "hard_sigmoid_keras2")
_LARGE = ("linear", "relu", "softplus", "silu")


@dataclasses.dataclass(frozen=True)
class CellCase:
    """A cell."""

    kind: str
    units: int
    activation: str
    recurrent_activation: str
    reset_after: bool


@dataclasses.dataclass(frozen=True)
class Case:
    """One layer and how it is called; ``seed`` also of its arrays."""

    seed: int
    form: str  # single, stack, pair
    cells: tuple[CellCase, ...]
    batch: tuple[int, ...]
    steps: int
    features: int
    use_bias: bool
    mask: str
    resets: bool
    initial: bool
    dropout: float
    recurrent_dropout: float
    dropout_by: str  # key, masks
    dtype: str
    precision: str | None
    implementation: str
    options: dict[str, Any]
    merge_mode: str | None
    gradients: bool
    jit: bool
    mapped: int  # over how many; 0 for no vmap
    mapped_weights: bool

    @property
    def bounded(self) -> bool:
        """Whether no activation grows with its argument."""
        return not any({cell.activation, cell.recurrent_activation} & {*_LARGE} for cell in self.cells)


def draw(seed: int) -> Case:
    """The case of a seed."""
    rng = np.random.default_rng(seed)
    while work(case := _draw(seed, rng)) > MAX_WORK:
        pass
    return case


def work(case: Case) -> float:
    """About how many multiplications the oracle does for it."""
    sizes = [case.features, *(cell.units for cell in case.cells)]
    products = sum(4 * b * (a + b) for a, b in itertools.pairwise(sizes))
    return float(products * (np.prod(case.batch) + 1) * case.steps * (case.mapped or SETS))


def _draw(seed: int, rng: np.random.Generator) -> Case:
    def one(values: Any, weights: Any = None) -> Any:
        return values[rng.choice(len(values), p=weights)]

    def chance(share: float) -> bool:
        return bool(rng.random() < share)

    implementation = one(("native", "fused", "scan", "auto"), (0.55, 0.2, 0.15, 0.1))
    dtype = one(("float32", "float64", "bfloat16"), (0.8, 0.0, 0.2) if implementation == "native" else (0.6, 0.2, 0.2))
    form = one(("single", "stack", "pair"), (0.7, 0.15, 0.15))
    names = NATIVE if implementation == "native" else (*NATIVE, "softplus", "silu")

    def cell() -> CellCase:
        kind = one(("SimpleRNN", "LSTM", "GRU"), (0.2, 0.4, 0.4))
        plain = chance(0.6)
        return CellCase(
            kind, int(one(_UNITS) if chance(0.8) else rng.integers(1, 301)), "tanh" if plain else one(names),
            "sigmoid" if plain else one(names), chance(0.5),
        )  # fmt: skip

    cells = tuple(cell() for _ in range({"single": 1, "pair": 2}.get(form, int(rng.integers(2, 4)))))
    merge_mode = one(("concat", "sum", "ave", "mul", None)) if form == "pair" else None
    if merge_mode in ("sum", "ave", "mul"):
        cells = (cells[0], dataclasses.replace(cells[1], units=cells[0].units))
    steps = int(rng.integers(*one(((1, 2), (2, 9), (9, 41), (41, 201)), (0.1, 0.6, 0.22, 0.08))))
    if any({cell.activation, cell.recurrent_activation} & {*_LARGE} for cell in cells):
        steps = min(steps, 12)  # what grows without bound is soon too large for any comparison
    axes = one((1, 0, 2), (0.86, 0.07, 0.07))
    batch = {0: (), 1: (int(one(_BATCHES)),), 2: (int(rng.integers(1, 4)), int(rng.integers(0, 9)))}[axes]
    options: dict[str, Any] = {
        "return_sequences": chance(0.6), "go_backwards": chance(0.35), "zero_output_for_mask": chance(0.3),
        "time_major": axes == 1 and chance(0.25), "unroll": one((False, steps <= 5, 3), (0.8, 0.1, 0.1)),
        "checkpoint_every": int(rng.integers(1, steps + 2)) if chance(0.15) else None,
    }  # fmt: skip
    if form != "pair":
        options["keep_order"] = chance(0.5)
    mapped = int(rng.integers(1, 4)) if chance(0.12) else 0
    return Case(
        seed=seed, form=form, cells=cells, batch=batch, steps=steps,
        features=int(one((1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 64, 65, 100))), use_bias=chance(0.8),
        mask=one(_MASKS, (0.3, 0.1, 0.1, 0.2, 0.1, 0.05, 0.15)),
        resets=implementation != "native" and chance(0.2), initial=chance(0.5),
        dropout=one((0.0, 0.3, 0.7), (0.65, 0.25, 0.1)), recurrent_dropout=one((0.0, 0.4), (0.7, 0.3)),
        dropout_by=one(("key", "masks")), dtype=dtype, precision=one((None, "high", "highest", "default")),
        implementation=implementation, options=options, merge_mode=merge_mode, gradients=chance(0.75),
        jit=chance(0.85), mapped=mapped, mapped_weights=chance(0.5),
    )  # fmt: skip


def simpler(case: Case) -> list[Case]:
    """What is a little less than ``case``, for whoever looks for the least that fails."""
    found: list[dict[str, Any]] = []
    if case.form == "stack":
        found += [{"cells": case.cells[:1], "form": "single"}, {"cells": case.cells[:-1]}]
    if len(case.batch) != 1:
        found.append({"batch": (2,), "mapped": 0})
    found += [{"batch": (size,)} for size in (1, case.batch[0] // 2) if 0 < size < case.batch[0]] if case.batch else []
    found += [{"steps": size} for size in (1, 2, case.steps // 2) if 0 < size < case.steps]
    found += [{"features": 1}] if case.features > 1 else []
    for size in (1, 4, 16):
        if any(cell.units > size for cell in case.cells):
            found.append(
                {"cells": tuple(dataclasses.replace(cell, units=min(size, cell.units)) for cell in case.cells)}
            )
    for name, value in (
        ("mapped", 0), ("dropout", 0.0), ("recurrent_dropout", 0.0), ("mask", "none"), ("resets", False),
        ("initial", False), ("use_bias", False), ("jit", True), ("gradients", False), ("precision", None),
    ):  # fmt: skip
        if getattr(case, name) != value:
            found.append({name: value})
    for name, value in case.options.items():
        if value not in (False, None):
            found.append({"options": {**case.options, name: None if name == "checkpoint_every" else False}})
    return [dataclasses.replace(case, **changes) for changes in found]


def environments() -> list[dict[str, str]]:
    """The builds of the kernels that this processor can run, each with threads for one, two and five cores."""
    folder = builds.SOURCES.parent
    paths = [folder / builds.file_name(build) for build in builds.OPTIONS]
    if chosen := os.environ.get("FLAX_RNN_KERNELS"):
        usable = [chosen]
    else:
        usable = [str(path) for path in paths if not isinstance(library.load(path, builds.digest()), str)]
    return [{"FLAX_RNN_KERNELS": path, "NPROC": count} for count in ("1", "2", "5") for path in usable]


def environment(seed: int) -> dict[str, str]:
    """That of the process in which the case of a seed runs."""
    every = environments()
    return every[seed // PER_PROCESS % len(every)] if every else {}
