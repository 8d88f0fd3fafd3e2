"""The launch of CUDA kernels, without a GPU: a stand-in for the driver calls functions on the CPU.

Another driver needs another process, since it is opened once.
"""

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flax_rnn.implementations.cuda import builds, compiler, library
from flax_rnn.implementations.native import builds as native_builds

HERE = Path(__file__).parent
FOLDER = Path(library.__file__).parent
COMPILER = shutil.which("c++") or shutil.which("g++")

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
needs_launcher = pytest.mark.skipif(isinstance(library.find(FOLDER), str), reason=str(library.find(FOLDER)))


def compiled(source: Path, path: Path, *options: str) -> Path:
    """A library of this source."""
    command = [str(COMPILER), "-std=c++17", "-shared", "-fPIC", *options, "-o", str(path), str(source)]
    subprocess.run(command, check=True)
    return path


# One kernel that computes, two that say what they were given, and one that fails.
KERNELS = """
extern "C" { const char* standin_image; }  // see standin_cuda.cc
extern "C" int add_launch(void** parameters, unsigned, unsigned, unsigned, unsigned) {
  const float *x = *(float**)parameters[0], *y = *(float**)parameters[1];
  float *sum = *(float**)parameters[2], *scaled = *(float**)parameters[3];
  const int count = *(int*)parameters[4], factor = *(int*)parameters[5];
  for (int i = 0; i < count; ++i) sum[i] = x[i] + y[i], scaled[i] = factor * x[i];
  return 0;
}
extern "C" int sizes_launch(void** parameters, unsigned grid, unsigned cluster, unsigned block, unsigned shared) {
  int* sizes = *(int**)parameters[0];
  sizes[0] = grid, sizes[1] = cluster, sizes[2] = block, sizes[3] = shared;
  return 0;
}
extern "C" int code_launch(void** parameters, unsigned, unsigned, unsigned, unsigned) {
  for (int i = 0; i < 260; ++i) (*(int**)parameters[0])[i] = (unsigned char)standin_image[i];
  return 0;
}
extern "C" int fails_launch(void**, unsigned, unsigned, unsigned, unsigned) { return 1; }
"""

# Calls with sizes of their own; what comes back, or the error, goes to stdout.
CALLS = """
import json, os, sys
import jax, jax.numpy as jnp
from flax_rnn.implementations.cuda import library
assert library.absent_on_host() is None, library.absent_on_host()
code = b"\\x7fELF" + bytes(range(256))
usual = dict(name="sizes", cubin=code, grid=16, block=64, cluster=8, shared=1000, scalars=())
outcomes = []
for changes in json.loads(sys.argv[1]):
    os.environ.update(changes.pop("environ", {}))
    if "cubin" in changes:
        changes["cubin"] = changes["cubin"].encode("latin-1")
    told = library.attributes(**(usual | changes))
    arrays = (jnp.arange(5.0), jnp.ones(5)) if told["name"] == "add" else ()
    results = arrays or (jax.ShapeDtypeStruct((260 if told["name"] == "code" else 4,), jnp.int32),)
    shapes = [jax.ShapeDtypeStruct(result.shape, result.dtype) for result in results]
    try:
        call = jax.jit(lambda *arrays: jax.ffi.ffi_call(library.TARGET, shapes)(*arrays, **told))
        outcomes.append([array.tolist() for array in call(*arrays)])
    except jax.errors.JaxRuntimeError as error:
        outcomes.append(str(error))
print(json.dumps(outcomes))
"""


def run(code: str, *arguments: str, **environment: str) -> str:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process with the stand-in, and kernels for it."""
    folder = tmp_path_factory.mktemp("driver")
    (folder / "kernels.cc").write_text(KERNELS)
    return {
        "FLAX_RNN_CUDA_DRIVER": str(compiled(HERE / "standin_cuda.cc", folder / "driver.so")),
        "FLAX_RNN_STANDIN_KERNELS": str(compiled(folder / "kernels.cc", folder / "kernels.so")),
    }


ASKED = "16 blocks in clusters of 8, each of 64 threads and 1000 bytes of shared memory"
CODE = b"\x7fELF" + bytes(range(256))
OUTCOMES: dict[str, tuple[dict[str, Any], Any]] = {
    "arrays and scalars": ({"name": "add", "scalars": [5, 3]}, [[1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 3.0, 6.0, 9.0, 12.0]]),
    "every byte of the code": ({"name": "code"}, [[*CODE]]),
    "sizes": ({}, [[16, 8, 64, 1000]]),
    "again": ({"grid": 24}, [[24, 8, 64, 1000]]),
    "without a cluster": ({"cluster": 1, "grid": 3}, [[3, 1, 64, 1000]]),
    "much shared memory": ({"shared": 227 << 10}, [[16, 8, 64, 227 << 10]]),
    "a large cluster": ({"cluster": 16}, [[16, 16, 64, 1000]]),
    "too much shared memory": (
        {"shared": 300000},
        f"cuFuncSetAttribute: CUDA_ERROR_INVALID_VALUE, for sizes on {ASKED.replace('1000', '300000')}",
    ),
    "too large a cluster": (
        {"cluster": 32, "grid": 32},
        "cuOccupancyMaxActiveClusters: CUDA_ERROR_INVALID_CLUSTER_SIZE, for sizes on 32 blocks in clusters of 32, each",
    ),
    "half a cluster": ({"grid": 12}, "cuLaunchKernelEx: CUDA_ERROR_INVALID_CLUSTER_SIZE, for sizes on 12 blocks in"),
    "too many threads": ({"block": 2048, "cluster": 1}, "cuLaunchKernelEx: CUDA_ERROR_INVALID_VALUE, for sizes on"),
    "no such kernel": ({"name": "other"}, f"cuModuleGetFunction: CUDA_ERROR_NOT_FOUND, for other on {ASKED}"),
    "no machine code": ({"cubin": "text"}, "cuModuleLoadData: CUDA_ERROR_INVALID_IMAGE, for sizes on"),
    "a kernel that fails": ({"name": "fails"}, "cuLaunchKernelEx: CUDA_ERROR_LAUNCH_FAILED, for fails on"),
    # Asked when a kernel is loaded, so that these have to come last, and with sizes of their own.
    "no room": (
        {"block": 96, "environ": {"FLAX_RNN_STANDIN_CLUSTERS": "0"}},
        f"this GPU has room for no such cluster: sizes on {ASKED.replace('64', '96')}",
    ),
    "loaded before": ({}, [[16, 8, 64, 1000]]),
    "other code without a library": (
        {"cubin": CODE[:-1].decode("latin-1") + "!", "environ": {"FLAX_RNN_STANDIN_KERNELS": "/nowhere"}},
        "cuModuleLoadData: CUDA_ERROR_SHARED_OBJECT_INIT_FAILED, for sizes on",
    ),
}


@pytest.fixture(scope="module")
def outcomes(driver: dict[str, str]) -> dict[str, Any]:
    calls = json.dumps([changes for changes, _ in OUTCOMES.values()])
    return dict(zip(OUTCOMES, json.loads(run(CALLS, calls, **driver)), strict=True))


@needs_compiler
@needs_launcher
@pytest.mark.parametrize("case", OUTCOMES)
def test_a_launch(outcomes: dict[str, Any], case: str) -> None:
    expected = OUTCOMES[case][1]
    if isinstance(expected, str):
        assert expected in outcomes[case]
    else:
        assert outcomes[case] == expected


@needs_compiler
@needs_launcher
def test_a_driver_is_enough(driver: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "nvrtc.cc").write_text('extern "C" int nvrtcGetCUBIN() { return 0; }')
    nvrtc = compiled(tmp_path / "nvrtc.cc", tmp_path / "nvrtc.so")
    code = "from flax_rnn.implementations.cuda import library; print(library.absent(), library.absent())"
    assert run(code, **driver, FLAX_RNN_NVRTC=str(nvrtc)) == "None None"


@needs_compiler
@needs_launcher
@pytest.mark.parametrize(
    ("driver_is", "why"),
    [
        ("missing", r"there is no CUDA driver \(.*/missing.so: .*\): install NVIDIA's"),
        ("old", r"the CUDA driver is too old \(it has no cuLaunchKernelEx\): install one for CUDA 12 or newer"),
        ("right", r"there is no NVRTC .* \(.*right.so is no NVRTC, or an old one\): install jax\[cuda13\] or .*"),
    ],
)
def test_why_nothing_can_be_launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver_is: str, why: str) -> None:
    path = tmp_path / f"{driver_is}.so"
    if driver_is != "missing":
        compiled(HERE / "standin_cuda.cc", path, *(["-DWITHOUT_LAUNCH"] if driver_is == "old" else []))
    monkeypatch.setenv("FLAX_RNN_CUDA_DRIVER", str(path))
    monkeypatch.setenv("FLAX_RNN_NVRTC", str(path))
    # A copy opens a driver of its own.
    shutil.copy(FOLDER / "_launch.so", tmp_path)
    monkeypatch.setattr(library, "_launcher", lambda: library.find(tmp_path))
    monkeypatch.setattr(compiler, "_nvrtc", compiler._nvrtc.__wrapped__)
    assert re.fullmatch(why, str(library.absent.__wrapped__()))


def answers(interface: int = library.INTERFACE, digest: str | None = None) -> str:
    """The source of a library that answers as ours does."""
    return f"""
    extern "C" long long FlaxRnnCudaInterface() {{ return {interface}; }}
    extern "C" const char* FlaxRnnCudaDigest() {{ return "{builds.digest() if digest is None else digest}"; }}
    """


@needs_compiler
@pytest.mark.parametrize(
    ("source", "why"),
    [
        (answers(), None),
        (answers(interface=0), "is stale (interface 0, expected 1): install flax_rnn again"),
        (answers(digest="0123"), "is stale (compiled from another source): install flax_rnn again"),
        ("int something_else;", "is stale (interface None, expected 1)"),
    ],
    ids=["right", "interface", "digest", "foreign"],
)
def test_who_answers_otherwise_is_refused(tmp_path: Path, source: str, why: str | None) -> None:
    (tmp_path / "source.cc").write_text(source)
    path = compiled(tmp_path / "source.cc", tmp_path / "_launch.so")
    found = library.find(tmp_path)
    assert isinstance(found, ctypes.CDLL) if why is None else why in str(found)
    # A file of its own: the end of a library that is loaded is still needed.
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:2000])
    assert "is broken (_launch.so: the file is cut off)" in str(library.find(tmp_path))
    path.unlink()
    assert "was not built" in str(library.find(tmp_path))


def test_setup_and_library_agree_on_the_file() -> None:
    assert all(native_builds.file_name(build) == "_launch.so" for build in builds.OPTIONS)


def test_the_package_looks_for_nothing_when_it_is_imported() -> None:
    code = """
import ctypes, sys
opened = []
class Watched(ctypes.CDLL):
    def __init__(self, name, *others, **more):
        opened.append(str(name))
        super().__init__(name, *others, **more)
ctypes.CDLL = Watched
import flax_rnn
from flax_rnn.implementations.cuda import cache, compiler, library
print([name for name in opened if "nvrtc" in name or "cuda" in name])
"""
    assert run(code) == "[]"


@pytest.mark.parametrize(
    ("capability", "expected"),
    [("8.0", "sm_80"), ("8.6", "sm_80"), ("8.9", "sm_80"), ("9.0", "sm_90a"), ("10.0", "sm_100a"), ("7.5", None)],
)
def test_the_architecture_of_a_device(capability: str, expected: str | None) -> None:
    assert library.architecture(SimpleNamespace(compute_capability=capability)) == expected
    assert library.architecture(SimpleNamespace()) is None
