"""A GPU that is none: layers with ``implementation="cuda"`` run on a CPU, from XLA's call to emulated kernels.

A stand-in takes the place of the driver, and what it takes for machine code is the path of a library that
``cuda_kernels`` has compiled of the kernel's own source; see ``tests/implementations/standin_cuda.cc``.
"""

import ctypes
import functools
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cuda_kernels
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cuda_kernels import ACTIVATIONS, BACKWARD, ELEMENTS, FORWARD, Kernel, Kernels

import flax_rnn
from flax_rnn.implementations.cuda import cache, library
from flax_rnn.implementations.cuda.tiles import Tile

STANDIN = Path(__file__).parents[1] / "implementations" / "standin_cuda.cc"
LAUNCH = Path(library.__file__).parent / "_launch.so"
ARCHITECTURE = "sm_90a"
# The largest difference, as a part of what is expected, both by their norms.
TOLERANCES = {"bfloat16": 2e-2, "float32": 2e-3}

Macros = Sequence[tuple[str, str | int]]


def absent() -> str | None:
    """Why it cannot be had here, in words; ``None`` if it can."""
    if cuda_kernels.COMPILER is None:
        return "there is no C++ compiler"
    found = library.find(LAUNCH.parent)
    return found if isinstance(found, str) else None


needed = pytest.mark.skipif(absent() is not None, reason=str(absent()))


@pytest.fixture(scope="module")
def gpu(kernels: Kernels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """While the tests of a file run, this is a machine with a Hopper, and jax computes on the CPU all the same."""
    _open(tmp_path_factory.getbasetemp() / "cuda_device")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        patch.setattr(library, "absent", lambda: None)
        patch.setattr(library, "here", lambda: ARCHITECTURE)
        patch.setattr(cache, "cubin", _compiler(kernels))
        yield


@functools.cache
def _open(folder: Path) -> None:
    """Tells XLA, once and for all; a copy of the launch, since another driver may have been opened in this process."""
    folder.mkdir()
    driver = folder / "driver.so"
    command = [str(cuda_kernels.COMPILER), "-std=c++17", "-shared", "-fPIC", "-o", str(driver), str(STANDIN)]
    subprocess.run(command, check=True)
    launch = library.find(Path(shutil.copy(LAUNCH, folder)).parent)
    assert isinstance(launch, ctypes.CDLL), launch
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLAX_RNN_CUDA_DRIVER", str(driver))
        assert not launch.FlaxRnnCudaDriverAbsent()
        patch.setattr(library, "_launcher", lambda: launch)
        assert library.absent_on_host.__wrapped__() is None


def _compiler(kernels: Kernels) -> Callable[[str, Macros], bytes]:
    """In the place of ``cache.cubin``."""
    elements = {element: name for name, (element, _) in ELEMENTS.items()}

    @functools.cache
    def cubin(architecture: str, macros: Macros) -> bytes:
        named: dict[str, Any] = dict(macros)
        which = BACKWARD if named["BACKWARD"] else FORWARD
        kernel = Kernel(
            named["CELL"],
            elements[named["ELEMENT"]],
            Tile(named["UNITS"], named["CLUSTER"], named["SPLIT"]),
            bool(named["DROPPED"]),
            ACTIVATIONS[named["ACTIVATION"]],
            ACTIVATIONS[named["RECURRENT_ACTIVATION"]],
        )
        assert (architecture, named) == (ARCHITECTURE, kernel.macros(which))
        return b"\x7fELF" + bytes(kernels.library(kernel, which)) + b"\0"

    return cubin


def calls(function: Callable[..., Any], *arguments: Any) -> list[tuple[str, int]]:
    """Which kernels the program calls that jax makes of ``function``, and for how many rows; in a loop's body once."""
    return calls_in(jax.jit(function).lower(*arguments).as_text())


def calls_in(text: str) -> list[tuple[str, int]]:
    """``calls`` of the text of a program, before or after it is compiled."""
    lines = [line for line in text.splitlines() if f"@{library.TARGET}(" in line or f'"{library.TARGET}"' in line]
    found = [
        re.search(r'name = "flax_rnn_(\w+)".*scalars = (?:dense<\[|array<i32: )\d+, (\d+), ', line) for line in lines
    ]
    return sorted((call[1], int(call[2])) for call in found if call)


def problem(cell: Any, batch: tuple[int, ...] = (5,), steps: int = 6, features: int = 4) -> Any:
    """Weights, inputs, and a state; as float64 of numbers whose digits bfloat16 has, and so TF32."""
    rng = np.random.default_rng(0)
    scales = {"kernel": 0.8, "recurrent_kernel": 1.5 * cell.units**-0.5, "bias": 0.5}
    specs = cell.param_specs(features)
    weights = {name: rng.normal(0, scales[name], shape) for name, (_, shape) in specs.items()}
    states: list[Any] = [rng.normal(0, 0.7, (*batch, cell.units)) for _ in range(2)]
    state = flax_rnn.LSTMCarry(*states) if isinstance(cell, flax_rnn.LSTMCell) else states[0]
    return rounded((weights, rng.normal(size=(*batch, steps, features)), state))


def marks(batch: tuple[int, ...] = (5,), steps: int = 6) -> tuple[Any, Any]:
    """A mask with holes and an empty row, and resets, some of them at masked steps."""
    rng = np.random.default_rng(1)
    mask, resets = rng.random((*batch, steps)) < 0.6, rng.random((*batch, steps)) < 0.3
    mask[..., 1, :] = False
    return mask, resets


def dropped(cell: Any, inputs: int, state: int, batch: tuple[int, ...] = (5,), features: int = 4) -> Any:
    """So many dropout masks of the inputs and of the state."""
    rng = np.random.default_rng(2)

    def masks(count: int, size: int) -> Any:
        return tuple((rng.random((*batch, size)) < 0.6) * 1.625 for _ in range(count)) or None

    return flax_rnn.DropoutMasks(masks(inputs, features), masks(state, cell.units))


def rounded(tree: Any) -> Any:
    """To what bfloat16 has."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, jnp.bfloat16).astype(np.float64), tree)


def narrow(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def gradients(function: Callable[..., Any], *arguments: Any) -> Any:
    """``(gradients by all arguments, result)``, where each number of the result has a part in the loss of its own."""

    def loss(*arguments: Any) -> Any:
        result = jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, "float32")), function(*arguments))
        return oracle.weighted_sum(1, result), result

    return jax.jit(jax.grad(loss, [*range(len(arguments))], has_aux=True))(*arguments)


def exact(run: Callable[..., Any], *arguments: Any) -> Any:
    """``run(*arguments)`` in float64, traced as for a CPU, where loops are compiled sooner."""
    with jax.enable_x64(), flax_rnn.portable("cpu"):
        return run(*arguments)


def assert_close(actual: Any, expected: Any, dtype: Any) -> None:
    """Whether arrays are those of ``expected`` as far as products have digits."""
    tolerance = TOLERANCES[jnp.dtype(dtype).name]
    ours, others = ([np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)] for tree in (actual, expected))
    assert [leaf.shape for leaf in ours] == [leaf.shape for leaf in others]
    for one, other in zip(ours, others, strict=True):
        difference, norm = np.linalg.norm(one - other), np.linalg.norm(other)
        assert difference <= tolerance * norm + 1e-6, (one.shape, difference, norm)
