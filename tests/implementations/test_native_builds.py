"""The libraries of kernels: each build computes the same, and what is stale, broken or foreign is refused in words."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flax_rnn.implementations.native import builds, kernels, library

FOLDER = Path(library.__file__).parent
CHECKOUT = Path(__file__).parents[2]
COMPILER = shutil.which("c++") or shutil.which("g++")

needs_kernels = pytest.mark.skipif(library.absent() is not None, reason=str(library.absent()))
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")

COMPARE = """
import jax, jax.numpy as jnp, flax_rnn
from flax_rnn.implementations.native import library
if library.absent():
    print(library.absent()); raise SystemExit
for cell in (flax_rnn.SimpleRNNCell(21), flax_rnn.LSTMCell(21), *(flax_rnn.GRUCell(21, reset_after=r) for r in (0, 1))):
    weights = cell.init_params(jax.random.key(0), 5)
    x = jax.random.normal(jax.random.key(1), (7, 9, 5))
    loss = lambda w, x, how: jnp.sin(flax_rnn.rnn(cell, w, x, return_sequences=True, implementation=how)).sum()
    pairs = [jax.tree.leaves(jax.value_and_grad(loss, (0, 1))(weights, x, how)) for how in ("scan", "native")]
    assert all(jnp.allclose(*pair, rtol=1e-4, atol=1e-4) for pair in zip(*pairs, strict=True)), cell
print("equal")
"""


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_kernels
@pytest.mark.full
@pytest.mark.parametrize("build", builds.OPTIONS)
def test_each_build(build: str) -> None:
    path = FOLDER / builds.file_name(build)
    said = run(COMPARE, FLAX_RNN_KERNELS=str(path))
    if said == "the kernels were built for other processors":
        pytest.skip(said)
    assert said == "equal"


def compiled(folder: Path, source: str, build: str = "_kernels") -> Path:
    """A library of this source."""
    (folder / "source.cc").write_text(source)
    path = folder / builds.file_name(build)
    subprocess.run([str(COMPILER), "-shared", "-fPIC", "-o", path, folder / "source.cc"], check=True)
    return path


def answers(interface: int = library.INTERFACE, digest: str | None = None, supported: bool = True) -> str:
    """The source of a library that answers as ours does."""
    return f"""
    extern "C" long long FlaxRnnInterface() {{ return {interface}; }}
    extern "C" const char* FlaxRnnDigest() {{ return "{builds.digest() if digest is None else digest}"; }}
    extern "C" bool FlaxRnnSupported() {{ return {str(supported).lower()}; }}
    """


@pytest.mark.skipif(os.name != "posix" or not CHECKOUT.joinpath("setup.py").exists(), reason="this is no checkout")
def test_builds_do_not_share_what_is_compiled(tmp_path: Path) -> None:
    """Made at once, one would be linked with what was compiled for the processors of another."""
    pytest.importorskip("setuptools", "77", reason="setup.py needs setuptools 77")
    log, compiler = tmp_path / "log", tmp_path / "compiler"
    compiler.write_text(f"""#!{sys.executable}
import pathlib, sys
output = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
output.touch()
with open({str(log)!r}, "a") as file:
    file.write(f"{{output}}\\n")
""")
    compiler.chmod(0o755)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--force", "--parallel", "2"]
    command += [f"--build-temp={tmp_path / 'objects'}", f"--build-lib={tmp_path / 'libraries'}"]
    subprocess.run(command, cwd=CHECKOUT, env={**os.environ, "CC": str(compiler), "CXX": str(compiler)}, check=True)
    outputs = log.read_text().split()
    sources = len([*builds.SOURCES.glob("*.cc")])
    assert len(outputs) == len(set(outputs))
    assert sum("/native/" in output for output in outputs) == len(builds.OPTIONS) * (sources + 1)


@needs_compiler
@pytest.mark.parametrize(
    ("source", "why"),
    [
        (answers(), None),
        (answers(interface=1), "the kernels are stale (interface 1, expected 2): install flax_rnn again"),
        (answers(digest="0123"), "the kernels are stale (compiled from other sources): install flax_rnn again"),
        (answers(supported=False), "the kernels were built for other processors"),
        ("int something_else;", "the kernels are stale (interface None, expected 2)"),
        ('extern "C" bool FlaxRnnSupported() { return true; }', "the kernels are stale (interface None, expected 2)"),
    ],
    ids=["right", "interface", "digest", "processor", "foreign", "old"],
)
def test_who_answers_otherwise_is_refused(tmp_path: Path, source: str, why: str | None) -> None:
    compiled(tmp_path, source)
    found = library.find(tmp_path)
    assert isinstance(found, ctypes.CDLL) if why is None else str(found).startswith(why)


@needs_compiler
def test_the_first_that_can_be_used_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds, "OPTIONS", {"wide": (), "narrow": ()})
    compiled(tmp_path, answers(supported=False), "wide")
    right = compiled(tmp_path, answers(), "narrow")
    found = library.find(tmp_path)
    assert isinstance(found, ctypes.CDLL) and found._name == str(right)
    (tmp_path / "others").mkdir()
    compiled(tmp_path / "others", answers(supported=False), "wide")
    compiled(tmp_path / "others", answers(interface=1), "narrow")
    why = "the kernels were built for other processors; the kernels are stale (interface 1, expected 2)"
    assert str(library.find(tmp_path / "others")).startswith(why)


@needs_kernels
@pytest.mark.parametrize("part", [0.0, 1e-4, 0.01, 0.5, 0.999])
def test_a_file_without_its_end_is_refused(tmp_path: Path, part: float) -> None:
    """Rather than loaded, which would end the process."""
    name = builds.file_name("_kernels")
    content = (FOLDER / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(part * len(content))])
    assert str(library.find(tmp_path)).startswith(f"the kernels are broken ({name}: ")


@needs_compiler
def test_a_library_without_a_kernel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAX_RNN_KERNELS", str(compiled(tmp_path, answers())))
    assert str(library.absent.__wrapped__()).startswith("the kernels are broken (FlaxRnnForward is missing): ")


def test_without_a_library_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLAX_RNN_KERNELS", raising=False)
    assert library.find(tmp_path) == "the kernels were not built when flax_rnn was installed"
    monkeypatch.setenv("FLAX_RNN_KERNELS", str(tmp_path / "none.so"))
    assert str(library.find(tmp_path)).startswith("the kernels are broken (none.so: ")


def test_the_digest_is_that_of_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(builds.SOURCES, tmp_path / "src")
    there = builds.digest()
    monkeypatch.setattr(builds, "SOURCES", tmp_path / "src")
    assert builds.digest() == there
    for path in sorted((tmp_path / "src").iterdir()):
        content = path.read_text()
        path.write_text(content + "\n")
        assert builds.digest() != there
        path.write_text(content)
    shutil.rmtree(tmp_path / "src")
    assert builds.digest() is None


def test_python_and_sources_have_the_same_kernels() -> None:
    """One struct for each record, with the same numbers, and the same activations."""
    text = "".join(path.read_text() for path in sorted(builds.SOURCES.iterdir()))
    for kernel in kernels.KERNELS:
        numbers: dict[str, Any] = {"Gates": kernel.gates, "Sums": kernel.sums, "Saved": kernel.saved}
        numbers |= {"Extra": kernel.extra, "Cell": kernel.states - 1}
        line = ", ".join(f"k{name} = {number}" for name, number in numbers.items())
        assert f'kName = "{kernel.name}";\n  static constexpr int {line};' in text
    assert text.count("kName = ") == len(kernels.KERNELS)
    names = text.partition("kActivations[] = {")[2].partition("}")[0]
    assert [name.strip(' "\n') for name in names.split(",")][:-1] == list(kernels.ACTIVATIONS)
