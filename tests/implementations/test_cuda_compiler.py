"""CUDA kernels are compiled, where there is a compiler, and kept, for which a stand-in will do."""

import importlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from flax_rnn.implementations.cuda import cache, compiler

needs_nvrtc = pytest.mark.skipif(compiler.absent() is not None, reason=str(compiler.absent()))


class Compilations(list[bytes]):
    """A compiler whose code says what it was made of; and what it has made."""

    version: tuple[int, int] = (13, 0)

    def compile(self, source_files: Mapping[str, str], options: Sequence[str]) -> bytes:
        self.append(repr((self.version, sorted(source_files.items()), options)).encode())
        return self[-1]


@pytest.fixture
def compilations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compilations]:
    """The compiler, with sources and a cache in a folder of the test."""
    made = Compilations()
    monkeypatch.setattr(compiler, "compile", made.compile)
    monkeypatch.setattr(compiler, "version", lambda: made.version)
    monkeypatch.setattr(cache, "SOURCES", tmp_path / "src")
    (tmp_path / "src").mkdir()
    for name, text in {"kernel.cu": "one", "a.cuh": "two", "notes.txt": "three"}.items():
        (tmp_path / "src" / name).write_text(text)
    monkeypatch.setenv("FLAX_RNN_CACHE", str(tmp_path / "cache" / "deep"))
    cache.cubin.cache_clear()
    yield made
    cache.cubin.cache_clear()


def from_a_new_process(architecture: str = "sm_90a", **macros: str | int) -> bytes:
    cache.cubin.cache_clear()
    return cache.cubin(architecture, tuple(macros.items()))


def test_what_is_compiled_is_kept(compilations: Compilations, tmp_path: Path) -> None:
    code = from_a_new_process(UNITS=128, CELL="Lstm")
    options = ("--std=c++17", "--gpu-architecture=sm_90a", "-DUNITS=128", "-DCELL=Lstm")
    assert code == repr(((13, 0), [("a.cuh", "two"), ("kernel.cu", "one")], options)).encode()
    assert cache.cubin("sm_90a", (("UNITS", 128), ("CELL", "Lstm"))) is code
    assert from_a_new_process(UNITS=128, CELL="Lstm") == code
    assert len(compilations) == 1
    (path,) = (tmp_path / "cache" / "deep").iterdir()
    assert path.suffix == ".cubin" and path.read_bytes().endswith(code)


def test_all_that_goes_in_is_part_of_the_key(compilations: Compilations, tmp_path: Path) -> None:
    from_a_new_process(UNITS=128)
    from_a_new_process(UNITS=256)
    from_a_new_process("sm_80", UNITS=128)
    compilations.version = (13, 1)
    from_a_new_process(UNITS=128)
    for name in ("kernel.cu", "a.cuh"):
        (tmp_path / "src" / name).write_text("changed")
        from_a_new_process(UNITS=128)
    (tmp_path / "src" / "b.cuh").write_text("")
    from_a_new_process(UNITS=128)
    assert len(compilations) == len(set(compilations)) == 7
    assert len([*(tmp_path / "cache" / "deep").iterdir()]) == 7


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "short"])
def test_a_damaged_file_is_replaced(compilations: Compilations, tmp_path: Path, damage: str) -> None:
    code = from_a_new_process()
    (path,) = (tmp_path / "cache" / "deep").iterdir()
    content = path.read_bytes()
    changed = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    path.write_bytes({"truncated": content[:-1], "changed": changed, "empty": b"", "short": content[:20]}[damage])
    assert from_a_new_process() == code and len(compilations) == 2
    assert path.read_bytes() == content
    assert from_a_new_process() == code and len(compilations) == 2


def test_a_file_appears_whole_or_not_at_all(
    compilations: Compilations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, replaced = tmp_path / "cache" / "deep", os.replace

    def refuse(source: str, to: Path) -> None:
        # By now all is written, beside where it shall be, and nothing is there.
        assert [*folder.iterdir()] == [Path(source)] and Path(source).read_bytes().endswith(compilations[0])
        assert to.parent == folder
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    assert from_a_new_process() == compilations[0]
    assert not [*folder.iterdir()]
    monkeypatch.setattr(os, "replace", replaced)
    assert from_a_new_process() == compilations[1]
    assert len([*folder.iterdir()]) == 1


def test_without_a_folder_it_compiles(
    compilations: Compilations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FLAX_RNN_CACHE", str(tmp_path / "file" / "cache"))
    code = from_a_new_process()
    assert cache.cubin("sm_90a", ()) is code and len(compilations) == 1

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("FLAX_RNN_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert cache.folder() is None
    assert from_a_new_process() == code and len(compilations) == 2


def test_where_the_files_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("FLAX_RNN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
    assert cache.folder() == tmp_path / "home" / ".cache" / "flax_rnn"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache.folder() == tmp_path / "caches" / "flax_rnn"
    monkeypatch.setenv("FLAX_RNN_CACHE", str(tmp_path / "own"))
    assert cache.folder() == tmp_path / "own"


SOURCE = {
    "reversed.cuh": "__device__ int reversed(int i) { return SIZE - 1 - i; }",
    "kernel.cu": """
#include "reversed.cuh"
extern "C" __global__ void turn(float* x) {
  __shared__ float y[SIZE];
  y[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = y[reversed(threadIdx.x)];
}
extern "C" __global__ void __launch_bounds__(1024, 2) spill(float* x) {
  float y[40];
  for (int i = 0; i < 40; ++i) y[i] = x[i * threadIdx.x];
  __syncthreads();
  for (int i = 0; i < 40; ++i) for (int j = 0; j < 40; ++j) y[i] += y[j] * x[j];
  for (int i = 0; i < 40; ++i) x[i] = y[i];
}
""",
}


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a", "sm_100a"])
def test_machine_code(architecture: str) -> None:
    options = cache.arguments(architecture, (("SIZE", 64),))
    code = compiler.compile(SOURCE, options)
    assert code[:4] == b"\x7fELF" and b"turn" in code
    assert compiler.compile(SOURCE, options) == code
    said = compiler.report(SOURCE, options)
    assert said.keys() == {"turn", "spill"}
    assert said["turn"].spilled == 0 and said["turn"].shared >= 64 * 4 and 4 < said["turn"].registers < 64
    assert said["spill"].spilled > 0 and said["spill"].shared == 0 and said["spill"].registers == 32


@needs_nvrtc
def test_it_says_what_is_wrong() -> None:
    with pytest.raises(
        compiler.CompilationError, match=r'kernel.cu\(4\): error: identifier "SIZE" is undefined'
    ) as error:
        compiler.compile({**SOURCE, "reversed.cuh": ""}, cache.arguments("sm_80", ()))
    assert 'identifier "reversed" is undefined' in error.value.__notes__[0]
    with pytest.raises(compiler.CompilationError, match=r"error: invalid value for --gpu-architecture"):
        compiler.compile(SOURCE, cache.arguments("sm_1", (("SIZE", 64),)))
    assert compiler.version() >= (12, 0)


def test_where_the_compiler_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the packages of jax's own CUDA ahead of those of another, and then where the loader looks."""
    for name in ("cu13", "cuda_nvrtc"):
        (tmp_path / "nvidia" / name / "lib").mkdir(parents=True)
    newer, older = tmp_path / "nvidia/cu13/lib/libnvrtc.so.13", tmp_path / "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"
    for path in (newer, older, newer.with_name("libnvrtc-builtins.so.13.0")):
        path.touch()
    monkeypatch.delenv("FLAX_RNN_NVRTC", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    others = ["libnvrtc.so.13", "libnvrtc.so.12"]

    def found() -> list[str]:
        return [path for path in compiler._paths() if path.startswith(str(tmp_path)) or path in others]

    assert found() == [str(newer), str(older), *others]
    (tmp_path / "jax_cuda12_plugin").mkdir()
    importlib.invalidate_caches()
    assert found() == [str(older), str(newer), *others]
    monkeypatch.setenv("FLAX_RNN_NVRTC", "/own.so")
    assert [*compiler._paths()] == ["/own.so"]


def test_sources_include_each_other_only() -> None:
    """What is handed to the compiler is all that it has."""
    texts = cache.sources()
    included = {name for text in texts.values() for name in re.findall(r"#include (.+)", text)}
    assert "kernel.cu" in texts and included and included <= {f'"{name}"' for name in texts}
