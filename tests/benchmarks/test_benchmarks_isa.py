"""Instruction sets: which one is recognized, how contestants are held to fewer, and what of it is recorded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cases, isa, layers, processor
from benchmarks.comparison import Effort, Field
from benchmarks.record import RESULTS
from flax_rnn.implementations import native

V4 = "avx512f avx512bw avx512cd avx512dq avx512vl"


class Silent:
    """A worker that says where it runs, and remembers its environment."""

    def __init__(self, environments: list[dict[str, str]], environment: Mapping[str, str]):
        environments.append(dict(environment))

    def ask(self, timeout: float | None = None, **request: Any) -> dict[str, Any]:
        return {"platform": "cpu", "device": "cpu"}

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (f"sse2 avx fma avx2 {V4} amx_tile", processor.AVX512),
        ("sse2 avx fma avx2 avx512f avx512cd", processor.AVX2),
        ("sse2 avx fma avx2 avx_vnni", processor.AVX2),
        ("sse2 avx avx2", processor.NEITHER),
        ("", processor.NEITHER),
    ],
)
def test_instruction_sets_are_known_by_their_flags(flags: str, expected: str) -> None:
    assert processor.instruction_set(flags) == expected


def test_without_flags_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "cpuinfo", lambda field: None)
    assert processor.instruction_set() == processor.UNKNOWN and processor.name()


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs Linux' /proc")
def test_fields_are_those_of_the_first_core() -> None:
    assert processor.cpuinfo("processor") == "0"
    assert processor.cpuinfo("no such field") is None


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ({}, "--xla_cpu_max_isa=AVX2"),
        ({"XLA_FLAGS": "--xla_dump_to=/tmp/x"}, "--xla_dump_to=/tmp/x --xla_cpu_max_isa=AVX2"),
    ],
)
def test_each_framework_is_told(given: dict[str, str], flags: str) -> None:
    found = isa.environment(given)
    assert found["XLA_FLAGS"] == flags
    assert found["ONEDNN_MAX_CPU_ISA"] == found["MKL_ENABLE_INSTRUCTIONS"] == "AVX2"
    assert found["ATEN_CPU_CAPABILITY"] == "avx2"
    kernels = Path(found["FLAX_RNN_KERNELS"])
    assert kernels.stem == "_kernels_v3" and kernels.parent == Path(native.__file__).parent


@pytest.mark.parametrize(
    ("has", "held", "expected"),
    [(processor.AVX512, True, True), (processor.AVX2, True, False), (processor.AVX512, False, False)],
)
def test_a_process_knows_that_it_is_held(monkeypatch: pytest.MonkeyPatch, has: str, held: bool, expected: bool) -> None:
    monkeypatch.setattr(processor, "instruction_set", lambda: has)
    assert isa.is_held(isa.environment({}) if held else {}) == expected


def test_every_contestant_gets_the_environment() -> None:
    environments: list[dict[str, str]] = []
    wanted = isa.environment({})
    field = Field(["a", "b"], Effort(), lambda name, environment: Silent(environments, environment), wanted)
    field.ask("b", do="about")
    assert len(environments) == 2 and all(wanted.items() <= found.items() for found in environments)
    assert wanted.items() <= field.environment.items()


@pytest.mark.parametrize("has", [processor.NEITHER, processor.UNKNOWN])
def test_nobody_is_held_to_what_the_processor_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], has: str
) -> None:
    monkeypatch.setattr(processor, "instruction_set", lambda: has)
    with pytest.raises(SystemExit):
        layers.parse(["--isa", "avx2"])
    assert f"--isa avx2: this processor has {has}" in capsys.readouterr().err


def test_ours_are_not_replaced_by_something_slower(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processor, "instruction_set", lambda: processor.AVX2)
    monkeypatch.setattr(isa, "KERNELS", tmp_path / "missing.so")
    assert "the kernels are broken (missing.so" in (isa.why_not() or "")


@pytest.mark.parametrize(
    ("has", "arguments", "held_to", "name", "remark"),
    [
        (processor.AVX512, ["--isa", "avx2"], processor.AVX2, "layers-cpu-avx2", True),
        (processor.AVX2, ["--isa", "avx2"], processor.AVX2, "layers-cpu", False),
        (processor.AVX512, ["--keep-memory"], None, "layers-cpu", False),
    ],
)
def test_the_record_says_who_was_held_to_what(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    has: str, arguments: list[str], held_to: str | None, name: str, remark: bool,
) -> None:  # fmt: skip
    environments: list[dict[str, str]] = []
    written: dict[Path, dict[str, Any]] = {}

    def field(names: list[str], effort: Effort, environment: Mapping[str, str]) -> Field:
        return Field(names, effort, lambda name, environment: Silent(environments, environment), environment)

    def measure(field: Field, case: cases.Case, results: dict[str, Any], shown: Any) -> None:
        results["results"].append({"case": case.as_json(), "contestants": {}, "absent": {}})

    monkeypatch.setattr(processor, "instruction_set", lambda: has)
    monkeypatch.setattr(isa, "why_not", lambda: None)
    monkeypatch.setattr(layers, "exit_on_termination", lambda: None)
    monkeypatch.setattr(layers, "Field", field)
    monkeypatch.setattr(layers, "measure", measure)
    monkeypatch.setattr(layers, "write", lambda stem, results, page: written.update({stem: results}))
    monkeypatch.setattr(layers, "draw", lambda results, stem: None)
    layers.main(arguments)
    ((stem, record),) = written.items()
    assert stem == RESULTS / name
    assert record["machine"]["instruction_set"] == has and record["held_to"] == held_to
    assert record["environment"].items() >= {"OMP_WAIT_POLICY": "passive", **environments[0]}.items()
    assert ("ONEDNN_MAX_CPU_ISA" in environments[0]) == (held_to is not None)
    assert (layers.KEEP_MEMORY.items() <= environments[0].items()) == ("--keep-memory" in arguments)
    printed = capsys.readouterr().out
    assert f"{record['machine']['processor']} with {has}, " in printed
    assert ("Everybody is held to AVX2" in printed) == remark


def test_the_grid() -> None:
    sizes = {
        (1, 1, 128, 128), (32, 1, 128, 128), (256, 1, 128, 128), (1, 100, 128, 128), (4, 100, 128, 128),
        (32, 80, 128, 128), (64, 50, 256, 256), (8, 100, 256, 256), (128, 256, 256, 256), (1, 100, 512, 512),
        (16, 100, 512, 512), (64, 64, 512, 512), (1, 50, 1024, 1024),
    }  # fmt: skip
    chosen = layers.matrix(layers.parse(["--size", "grid"]), "cpu")
    assert {(tuple(case.size), case.cell, case.phase) for case in chosen} == {
        (size, cell, phase) for size in sizes for cell in ("lstm", "gru", "simple_rnn") for phase in cases.PHASES
    }
    assert {(case.dtype, case.variant) for case in chosen} == {("float32", "plain")} and len(chosen) == 13 * 3 * 2
