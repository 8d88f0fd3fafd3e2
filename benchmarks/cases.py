"""What is measured: cells, sizes, passes, dtypes and variants, with weights and inputs that are the same for all.

A case runs a layer over a batch of whole sequences and returns the outputs of all steps. ``forward`` is inference;
``training`` adds the gradients of a weighted sum of the outputs, with respect to the inputs and all weights.
"""

import functools
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Self

import ml_dtypes
import numpy as np

GATES = {"lstm": 4, "gru": 3, "simple_rnn": 1}
CELLS = tuple(GATES)
PHASES = ("forward", "training")
TOLERANCES = {"float32": 1e-4, "tf32": 0.02, "float16": 0.02, "bfloat16": 0.1}
"""By dtype, how far results may be from the reference, as a part of its norm: far above rounding, far below a mistake.

``tf32`` is float32 of which products may take the first ten bits behind the point only, as on a GPU; a CPU has no such
products, and there it is the same as ``float32``, whose products are exact everywhere.
"""
DTYPES = tuple(TOLERANCES)
VARIANTS = ("plain", "mask", "recurrent-dropout", "relu", "no-bias", "bidirectional", "stack")
RATE = 0.2
"""Of the recurrent dropout."""

Layers = tuple[Any, ...]
"""Weights from the bottom up: of each layer those of a cell of ``flax_rnn``, or of a pair, forward and backward."""


class Size(NamedTuple):
    """Sequences in the batch, time steps, features of the inputs, units."""

    batch: int
    steps: int
    features: int
    units: int

    def __str__(self) -> str:
        return ",".join(map(str, self))

    @classmethod
    def of(cls, text: str) -> Self | None:
        """The inverse of ``str``; ``None`` if it is something else."""
        return cls(*map(int, text.split(","))) if re.fullmatch(r"[1-9]\d*(,[1-9]\d*){3}", text) else None


_FLASH = Size(16, 1024, 768, 768)
SIZES: dict[str, tuple[Size, ...]] = {
    "imdb": (Size(32, 80, 128, 128),),
    "small": (Size(64, 50, 256, 256),),
    "medium": (Size(128, 256, 256, 256),),
    "large": (Size(64, 512, 512, 512),),
    "wide": (Size(256, 128, 1024, 1024),),
    "latency": (Size(1, 1000, 128, 128),),
    "grid": (
        *(Size(batch, 1, 128, 128) for batch in (1, 32, 256)),
        *(Size(batch, 100, 128, 128) for batch in (1, 4)),
        Size(32, 80, 128, 128),
        Size(64, 50, 256, 256),
        Size(8, 100, 256, 256),
        Size(128, 256, 256, 256),
        *(Size(batch, 100, 512, 512) for batch in (1, 16)),
        Size(64, 64, 512, 512),
        Size(1, 50, 1024, 1024),
    ),
    "long": tuple(Size(8, steps, 64, 64) for steps in (500, 1000, 2000, 4000)),
    "flashrnn": (_FLASH,),
    "batch-sweep": tuple(_FLASH._replace(batch=batch) for batch in (2, 8, 16, 32, 64, 128, 256)),
    "length-sweep": tuple(_FLASH._replace(steps=steps) for steps in (256, 512, 1024, 2048)),
    "width-sweep": tuple(Size(64, 128, width, width) for width in (64, 128, 256, 512, 768, 1024)),
}
"""By name. The grid has what a CPU is used for, from single steps to training; the sweeps over batch and length are
FlashRNN's, for its single head.
"""
TINY = Size(8, 10, 16, 16)


@dataclass(frozen=True)
class Case:
    """One line of the comparison."""

    cell: str
    batch: int
    steps: int
    features: int
    units: int
    phase: str = "training"
    dtype: str = "float32"
    variant: str = "plain"

    @property
    def size(self) -> Size:
        """The four numbers as one."""
        return Size(self.batch, self.steps, self.features, self.units)

    @property
    def array_dtype(self) -> str:
        """Of the arrays; ``dtype`` says, beyond that, what their products are."""
        return array_dtype(self.dtype)

    @property
    def label(self) -> str:
        """In words, short."""
        return f"{self.cell} {self.size} {self.phase} {self.dtype} {self.variant}"

    @property
    def directions(self) -> int:
        """How many cells there are in a layer."""
        return 2 if self.variant == "bidirectional" else 1

    @property
    def depth(self) -> int:
        """How many layers there are."""
        return 2 if self.variant == "stack" else 1

    @property
    def dropout(self) -> float:
        """Rate of the recurrent dropout."""
        return RATE if self.variant == "recurrent-dropout" else 0.0

    @property
    def activation(self) -> str:
        """Of the cell."""
        return "relu" if self.variant == "relu" else "tanh"

    @property
    def bias(self) -> bool:
        """Whether there is one."""
        return self.variant != "no-bias"

    @property
    def comparable(self) -> "Case":
        """The case whose numbers are compared: without what is random."""
        return replace(self, variant="plain") if self.dropout else self

    @property
    def flops(self) -> int:
        """Operations in the matrix products; a backward pass has twice as many as a forward pass."""
        inputs = [self.features] + [self.units * self.directions] * (self.depth - 1)
        columns = GATES[self.cell] * self.units
        forward = sum(2 * self.batch * self.steps * columns * (size + self.units) for size in inputs) * self.directions
        return forward * (3 if self.phase == "training" else 1)

    def weights(self) -> Layers:
        """Weights with which states neither vanish nor blow up. A GRU's recurrent bias, which few have, is zero."""
        rng, columns = np.random.default_rng(1), GATES[self.cell] * self.units

        def cell(features: int) -> dict[str, np.ndarray]:
            arrays = {
                "kernel": rng.normal(0, 1 / math.sqrt(features), (features, columns)),
                "recurrent_kernel": rng.normal(0, 0.5 / math.sqrt(self.units), (self.units, columns)),
            }
            if self.bias:
                bias = rng.normal(0, 0.1, columns)
                arrays["bias"] = np.stack([bias, np.zeros_like(bias)]) if self.cell == "gru" else bias
            return {name: self._rounded(array) for name, array in arrays.items()}

        sizes = [self.features] + [self.units * self.directions] * (self.depth - 1)
        return tuple(cell(size) if self.directions == 1 else (cell(size), cell(size)) for size in sizes)

    def inputs(self) -> np.ndarray:
        """``(B, T, D)``."""
        return self._rounded(np.random.default_rng(2).standard_normal(self.size[:3], np.float32))

    def cotangent(self) -> np.ndarray:
        """What the outputs are weighted with, ``(B, T, H)``."""
        shape = (self.batch, self.steps, self.units * self.directions)
        return self._rounded(np.random.default_rng(3).standard_normal(shape, np.float32))

    def mask(self) -> np.ndarray | None:
        """Booleans ``(B, T)`` with holes: one step in five does not count."""
        if self.variant != "mask":
            return None
        return np.random.default_rng(4).random((self.batch, self.steps)) < 0.8

    def as_json(self) -> dict[str, Any]:
        """What ``Case(**...)`` takes."""
        return asdict(self)

    def _rounded(self, array: np.ndarray) -> np.ndarray:
        """In float32, with no more digits than the arrays of the case have."""
        short = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}.get(self.dtype, np.float32)
        return array.astype(short).astype(np.float32)


def array_dtype(dtype: str) -> str:
    """The dtype that arrays of one of ``DTYPES`` have."""
    return "float32" if dtype == "tf32" else dtype


def dtypes(platform: str) -> tuple[str, ...]:
    """Those that differ on ``platform``."""
    return tuple(dtype for dtype in DTYPES if platform != "cpu" or dtype == array_dtype(dtype))


def product(
    sizes: Iterable[Size],
    cells: Sequence[str] = CELLS,
    phases: Sequence[str] = PHASES,
    dtypes: Sequence[str] = ("float32",),
    variants: Sequence[str] = ("plain",),
) -> list[Case]:
    """All combinations."""
    combinations = itertools.product(dtypes, variants, sizes, cells, phases)
    return [Case(cell, *size, phase, dtype, variant) for dtype, variant, size, cell, phase in combinations]


def named(*names: str) -> tuple[Size, ...]:
    """The sizes of all ``names``, each once."""
    return tuple(dict.fromkeys(itertools.chain.from_iterable(SIZES[name] for name in names)))


def quick() -> list[Case]:
    """Tiny cases, to see that everything runs."""
    return product([TINY], phases=["training"]) + product([TINY], ["lstm"], ["forward"], variants=["recurrent-dropout"])


def default(platform: str) -> list[Case]:
    """What is measured if nothing is asked for, by ``platform``: on a CPU what takes some twenty minutes."""
    variants = functools.partial(product, named("imdb"))
    if platform == "cpu":
        return product(named("imdb", "small", "medium")) + variants(variants=["mask", "recurrent-dropout"])
    sizes = named("imdb", "small", "medium", "large", "wide", "latency", "flashrnn")
    return product(sizes, dtypes=DTYPES) + variants(variants=VARIANTS[1:])


def full(platform: str) -> list[Case]:
    """Every size and sweep in each dtype, and every variant at two sizes."""
    every = dtypes(platform)
    variants = product(named("imdb", "medium"), dtypes=every, variants=VARIANTS[1:])
    return product(named(*SIZES), dtypes=every) + variants
