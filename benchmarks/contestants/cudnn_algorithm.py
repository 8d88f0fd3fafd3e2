"""Which of cuDNN's algorithms torch asks for, since one shape may take several times as long as the next for it.

cuDNN goes through the steps in one of three ways: ``standard``, products and gates as kernels of their own; or in one
kernel that stays on the processors for the whole sequence, ``persistent`` or ``persistent, small H``. Who calls it
chooses. This is what torch 2.x chooses, for batches without packed sequences or projections.

Source: ``get_algo`` and what it asks in ``aten/src/ATen/native/cudnn/RNN.cpp`` of PyTorch.
"""

from typing import NamedTuple

from benchmarks.cases import Case

STANDARD, PERSISTENT, SMALL_H = "standard", "persistent", "persistent, small H"

_GATED = ("lstm", "gru")
_MOST_SMALL_H = {"forward": {True: 192, False: 384}, "backward": {True: 128, False: 256}}
"""Units up to which the kernel for few units is taken, by pass and by whether the cell has gates."""


class Device(NamedTuple):
    """Compute capability and number of multiprocessors."""

    major: int
    minor: int
    multiprocessors: int


def algorithm(case: Case, device: Device, direction: str) -> str:
    """Of the ``"forward"`` or the ``"backward"`` pass."""
    if device.major >= 6 and case.units <= _MOST_SMALL_H[direction][case.cell in _GATED]:
        return SMALL_H
    if case.array_dtype == "float16" and _has_the_shape(case) and _has_the_device(case, device):
        return PERSISTENT
    return STANDARD


def in_words(case: Case, device: Device) -> str:
    """The algorithms of the passes of a case."""
    directions = ("forward", "backward") if case.phase == "training" else ("forward",)
    found = {direction: algorithm(case, device, direction) for direction in directions}
    if len({*found.values()}) == 1:
        return f"cuDNN: {found['forward']}"
    return "cuDNN: " + "; ".join(f"{name} {direction}" for direction, name in found.items())


def _has_the_shape(case: Case) -> bool:
    """Whether one kernel can hold the layer: a single one in one direction, of whole blocks of units and features."""
    blocks = case.units % 128 == 0 and case.features % 128 == 0
    return case.depth == 1 and case.directions == 1 and case.units <= 1024 and blocks


def _has_the_device(case: Case, device: Device) -> bool:
    """Whether it was found to be fast, and to work, for such a batch on such a device."""
    batch, steps = case.batch, case.steps
    if (device.major, device.minor) == (7, 5) or device.major < 7:
        return False
    if device.major == 7:
        even = (batch % 16 == 0 and batch not in (80, 112)) or batch == 8
        return even and any(steps >= least and batch <= most for least, most in ((40, 128), (20, 96), (10, 32)))
    if device.multiprocessors < 98 or device.minor == 6 or case.cell == "gru":
        return False
    wide = case.cell == "simple_rnn" and batch >= 96 and case.units >= 896
    return batch % 8 == 0 and batch <= 128 and not wide
