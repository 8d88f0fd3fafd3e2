"""One check: a setting, an implementation and a dtype, and what came of it."""

from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from benchmarks.cases import TOLERANCES, Size
from benchmarks.checks import library, reference
from benchmarks.checks.settings import Setting
from benchmarks.contestants.__main__ import distance
from benchmarks.workers import in_a_line

OK, WRONG, DECLINED, BROKEN, LATE = "ok", "WRONG", "declined", "BROKEN", "too late"
"""The numbers are right; they are not; the implementation says that it cannot; anything else; there was no time."""


class Check(NamedTuple):
    """One thing to run."""

    setting: Setting
    implementation: str
    dtype: str

    @property
    def label(self) -> str:
        """In words."""
        return f"{self.setting.cell}, {self.setting.name}, {self.implementation}, {self.dtype}"

    def as_json(self) -> dict[str, Any]:
        """What ``from_json`` takes."""
        return self._asdict() | {"setting": asdict(self.setting)}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        """The inverse of ``as_json``."""
        setting = found["setting"]
        return cls(Setting(**setting | {"size": Size(*setting["size"])}), found["implementation"], found["dtype"])


class Verdict(NamedTuple):
    """What came of it: one of the words above, and the largest errors or the reason."""

    verdict: str
    words: str


def judge(check: Check) -> Verdict:
    """Runs it and compares."""
    setting, implementation, dtype = check
    arrays = setting.arrays(dtype)
    try:
        results, gradients = library.run(setting, implementation, dtype, arrays, _compiler_options())
        errors = {
            "values": _largest(distance, results, reference.expected(setting, arrays)),
            "gradients": _largest(along_directions, gradients, arrays, reference.derivatives(setting, arrays)),
        }
    except Exception as error:
        declined = isinstance(error, ValueError) and str(error).startswith("implementation: ")
        return Verdict(DECLINED if declined else BROKEN, in_a_line(error))
    right = all(error <= TOLERANCES[dtype] for error in errors.values())
    return Verdict(OK if right else WRONG, ", ".join(f"{name} {error:.1e}" for name, error in errors.items()))


def along_directions(gradient: np.ndarray, array: np.ndarray, expected: np.ndarray) -> float:
    """How far a gradient is from the derivatives along the directions of ``array``, as a part of its norm."""
    found = np.array([np.vdot(gradient, direction) for direction in reference.directions(array)])
    if not np.isfinite(found).all():
        return float("inf")
    # On average a derivative along a direction is as large as the gradient; by chance, all may be next to nothing.
    scale = max(np.linalg.norm(expected), np.linalg.norm(gradient) * np.sqrt(len(expected)), 1e-30)
    return float(np.linalg.norm(found - expected) / scale)


def _largest(error: Callable[..., float], *trees: Any) -> float:
    """Of the errors of all arrays."""
    return max(error(*leaves) for leaves in zip(*map(jax.tree.leaves, trees), strict=True))


@cache
def _compiler_options() -> dict[str, Any] | None:
    """On a GPU, not to try out which of several products is the fastest, if XLA still knows this option."""
    options = {"xla_gpu_autotune_level": 0}
    if jax.default_backend() != "gpu":
        return None
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except Exception:
        return None
    return options
