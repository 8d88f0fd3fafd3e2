"""The CUDA kernels on a CPU: their own source, compiled with an emulator of what they need of a GPU.

``Kernels(folder)`` compiles them, each once, and runs them with NumPy arrays. Around each array is a margin of NaN, so
that what a kernel reads there shows in numbers, and what it writes there is an error.
"""

import concurrent.futures
import ctypes
import dataclasses
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from margins import Buffer

import flax_rnn
from flax_rnn.implementations.cuda.tiles import Tile

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]
# By the name of a source: a function from its text to another.
Edits = Mapping[str, Callable[[str], str]]

SOURCES = Path(flax_rnn.__file__).parent / "implementations/cuda/src"
EMULATOR = Path(__file__).parent / "cuda_emulator"
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
# A kernel looks at the same memory as words, bytes and floats; jumps between stacks are what fortification forbids.
OPTIONS = ["-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE"]

ELEMENTS = {"bfloat16": ("u16", np.dtype(ml_dtypes.bfloat16)), "float32": ("float", np.dtype(np.float32))}
ACTIVATIONS = ("linear", "tanh", "sigmoid", "relu", "hard_sigmoid", "hard_sigmoid_keras2", "softsign")
MASKED, RESETS, REVERSE, KEEP_OUTPUTS, KEEP_VALUES = 1, 2, 4, 8, 16


class Cell(NamedTuple):
    """How many gates, sums and values of gates it has, of H columns each, and whether it has c."""

    gates: int
    sums: int
    values: int
    has_c: bool


CELLS = {"Lstm": Cell(4, 4, 4, True), "Gru": Cell(3, 4, 4, False), "SimpleRnn": Cell(1, 1, 0, False)}


class Pass(NamedTuple):
    """The function of a pass, and what it takes and gives, in order."""

    symbol: str
    operands: tuple[str, ...]
    results: tuple[str, ...]


FORWARD = Pass(
    "flax_rnn_forward",
    ("x", "mask", "resets", "recurrent", "bias", "dropped", "h0", "c0"),
    ("outputs", "values", "cells", "h", "c"),
)
BACKWARD = Pass(
    "flax_rnn_backward",
    ("values", "cells", "outputs", "recurrent", "mask", "resets", "dropped", "h0", "c0", "d_outputs", "d_h", "d_c"),
    ("d_sums", "d_h0", "d_c0"),
)


class KernelError(Exception):
    """What the compiler, the emulator or a margin says of a kernel."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What the kernels of both passes are compiled for."""

    cell: str
    element: str
    tile: Tile = Tile(64, 1, 1)
    dropped: bool = False
    activation: str = "tanh"
    recurrent_activation: str = "sigmoid"

    @property
    def dtype(self) -> np.dtype[Any]:
        return ELEMENTS[self.element][1]

    def shared_bytes(self, which: Pass) -> int:
        return self.tile.shared_bytes(
            CELLS[self.cell].gates, self.dropped, which == BACKWARD, per_word=4 // self.dtype.itemsize
        )

    def macros(self, which: Pass) -> dict[str, Any]:
        return {
            "CELL": self.cell,
            "ELEMENT": ELEMENTS[self.element][0],
            "UNITS": self.tile.units,
            "CLUSTER": self.tile.cluster,
            "SPLIT": self.tile.split,
            "DROPPED": int(self.dropped),
            "ACTIVATION": ACTIVATIONS.index(self.activation),
            "RECURRENT_ACTIVATION": ACTIVATIONS.index(self.recurrent_activation),
            "BACKWARD": int(which == BACKWARD),
            "BYTES": self.shared_bytes(which),
        }

    def arrays(self, steps: int, rows: int) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shapes and dtypes of all operands and results."""
        cell, units = CELLS[self.cell], self.tile.units
        state = ((rows, units), np.float32)
        return {
            "x": ((steps, rows, cell.gates * units), self.dtype),
            "mask": ((steps, rows), np.uint8),
            "resets": ((steps, rows), np.uint8),
            "recurrent": ((units, cell.gates * units), self.dtype),
            "bias": ((units,), np.float32),
            "dropped": ((cell.gates, rows, units), self.dtype),
            "outputs": ((steps, rows, units), self.dtype),
            "values": ((steps, rows, cell.values * units), self.dtype),
            "cells": ((steps, rows, units), np.float32),
            "d_outputs": ((steps, rows, units), self.dtype),
            "d_sums": ((steps, rows, cell.sums * units), self.dtype),
            **dict.fromkeys(("h0", "c0", "h", "c", "d_h", "d_c", "d_h0", "d_c0"), state),
        }


class Kernels:
    """Libraries in ``folder``, by what they are made of, so that several processes share them."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
        self._libraries: dict[tuple[Kernel, Pass], concurrent.futures.Future[Path]] = {}

    def prepare(self, kernels: Iterable[Kernel]) -> None:
        """Begins to compile both passes of them, several at once."""
        for key in [(kernel, which) for kernel in kernels for which in (FORWARD, BACKWARD)]:
            if key not in self._libraries:
                self._libraries[key] = self._pool.submit(self.library, *key)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def library(self, kernel: Kernel, which: Pass, edits: Edits | None = None) -> Path:
        """A shared library that has ``<symbol>_launch``; `launch.h` of the emulator says what that takes."""
        sources = {path.name: path.read_text() for path in sorted(SOURCES.iterdir()) if path.name != "device.cuh"}
        for name, edit in (edits or {}).items():
            sources[name] = edit(sources[name])
        macros = [f"-D{name}={value}" for name, value in kernel.macros(which).items()]
        emulator = self._compiled(["-c"], [EMULATOR / "emulator.cc"], "")
        with tempfile.TemporaryDirectory() as folder:
            for name, text in sources.items():
                Path(folder, name).write_text(text)
            inputs = [f"-I{EMULATOR}", "-x", "c++", Path(folder, "kernel.cu"), "-x", "none", emulator]
            return self._compiled(["-shared", *macros], inputs, "\0".join(sources.values()))

    def _compiled(self, options: list[str], inputs: list[str | Path], content: str) -> Path:
        texts = [path.read_text() for path in sorted(EMULATOR.iterdir())]
        made_of = "\0".join([str(COMPILER), *OPTIONS, *options, *texts, content])
        name = hashlib.sha256(made_of.encode()).hexdigest()[:24]
        result = self._folder / f"{name}{'.so' if '-shared' in options else '.o'}"
        if not result.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            # Under another name until it is whole, since another process may be looking for it.
            with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                made = Path(folder, result.name)
                command = map(str, (COMPILER, *OPTIONS, *options, *inputs, "-o", made))
                done = subprocess.run([*command], capture_output=True, text=True)
                if done.returncode:
                    raise KernelError(done.stderr)
                made.replace(result)
        return result

    def run(
        self,
        kernel: Kernel,
        which: Pass,
        operands: Arrays,
        flags: int,
        edits: Edits | None = None,
        in_place: bool = False,
    ) -> dict[str, Array]:
        """The results that cell and flags ask for.

        Args:
          kernel, which: what to run.
          operands: those that cell and flags say are there.
          flags: the sum of ``MASKED`` and others.
          edits: of its sources.
          in_place: whether ``d_sums`` is to take the place of ``values``.
        """
        if edits is None:
            self.prepare([kernel])
            path = self._libraries[kernel, which].result()
        else:
            path = self.library(kernel, which, edits)
        steps, rows = operands["x" if which == FORWARD else "outputs"].shape[:2]
        arrays = kernel.arrays(steps, rows)
        # Who reads an operand that is not there finds NaN, every step masked, and a reset at each.
        fill = {"mask": 0, "resets": 1}
        inputs = {name: Buffer(*arrays[name], operands.get(name, fill.get(name))) for name in which.operands}
        outputs = {name: Buffer(*arrays[name]) for name in which.results}
        if in_place:
            outputs["d_sums"] = inputs["values"]
        pointers = [buffer.pointer for buffer in (*inputs.values(), *outputs.values())]
        arguments = [*pointers, *map(ctypes.c_int, (steps, rows, flags))]
        tile = kernel.tile
        launch(path, which.symbol, arguments, tile.blocks(rows), tile.cluster, tile.threads, kernel.shared_bytes(which))

        has_c = CELLS[kernel.cell].has_c
        absent = {
            *(() if flags & KEEP_OUTPUTS else ["outputs"]),
            *(() if flags & KEEP_VALUES else ["values", "cells"]),
            *(() if has_c else ["cells", "c", "d_c0"]),
        }
        only_read = {name: buffer for name, buffer in inputs.items() if buffer not in outputs.values()}
        written = [name for name, buffer in only_read.items() if buffer.changed(within_too=True)]
        written += [name for name, buffer in outputs.items() if buffer.changed(within_too=name in absent)]
        if written:
            raise KernelError(f"a store that is not to a result, in or beside {written}")
        return {name: buffer.array for name, buffer in outputs.items() if name not in absent}


def launch(path: Path, symbol: str, arguments: list[Any], grid: int, cluster: int, block: int, shared: int) -> None:
    """As the driver does it; raises a ``KernelError`` with what the emulator says.

    Args:
      path, symbol: the kernel.
      arguments: of the kernel, as ctypes.
      grid, cluster: in blocks.
      block: in threads.
      shared: bytes of shared memory of a block.
    """
    library = _loaded(path)
    pointers = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
    if library[f"{symbol}_launch"](pointers, grid, cluster, block, shared):
        library.flax_rnn_emulator_error.restype = ctypes.c_char_p
        raise KernelError(library.flax_rnn_emulator_error().decode())


@functools.cache
def _loaded(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))
