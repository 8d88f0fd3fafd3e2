"""What a step launches on a GPU: how it is counted, and that it stays as little as it is.

``FLAX_RNN_CUDA_PLUGIN`` names the folder of XLA's plugin for CUDA, unless it is where jax is.
"""

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from benchmarks import launches

PLUGIN = os.environ.get("FLAX_RNN_CUDA_PLUGIN")
# Asked for by its full name, it would raise where there are no plugins at all.
plugins = importlib.util.find_spec("jax_plugins")
needs_plugin = pytest.mark.skipif(
    PLUGIN is None and (plugins is None or importlib.util.find_spec("jax_plugins.xla_cuda13") is None),
    reason="XLA's plugin for CUDA is not installed",
)

PROGRAM = """HloModule jit_f

%add_one (p: s32[]) -> s32[] {
  %p = s32[] parameter(0)
  ROOT %r = s32[] add(%p, %p)
}

%body (t: (s32[], f32[2,3])) -> (s32[], f32[2,3]) {
  %t = (s32[], f32[2,3]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %h = f32[2,3]{1,0} get-tuple-element(%t), index=1
  %bits = f32[3,2]{1,0} bitcast(%h)
  %gemm = f32[2,3]{1,0} fusion(%h), kind=kCustom, calls=%g
  %both = (f32[2,3]{1,0}, f32[2,3]{1,0}) fusion(%gemm), kind=kLoop, calls=%k
  %start = ((f32[2,3]{1,0}), f32[2,3]{1,0}, u32[]) fusion-start(%h), kind=kLoop, calls=%w
  %done = f32[2,3]{1,0} fusion-done(%start)
  %copy = f32[2,3]{1,0} copy(%done)
  %cublas = (f32[2,3]{1,0}, s8[64]{0}) custom-call(%copy), custom_call_target="__cublas$gemm"
  %next = s32[] fusion(%i), kind=kLoop, calls=%add_one
  ROOT %all = (s32[], f32[2,3]{1,0}) tuple(%next, %copy)
}

ENTRY %main (x: f32[2,3]) -> f32[2,3] {
  %x = f32[2,3]{1,0} parameter(0)
  %w = (s32[], f32[2,3]{1,0}) while(%x), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"40"}}
  ROOT %y = f32[2,3]{1,0} get-tuple-element(%w), index=1
}
"""


def test_everything_that_computes_is_counted_and_nothing_else() -> None:
    """Kernels with one result and with several, asynchronous ones once, copies, calls; the count of steps apart."""
    (found,) = launches.count(PROGRAM, steps=80)
    assert found == (2.5, 0.5, {"fusion": 3, "fusion-start": 1, "copy": 1, "custom-call": 1}, 2)
    assert str(found) == "2.5 + 0.5"


def test_a_loop_that_may_run_any_number_of_times_is_refused() -> None:
    with pytest.raises(ValueError, match="known trip count"):
        launches.count(PROGRAM.replace("known_trip_count", "unknown"), steps=80)


def test_without_the_plugin_it_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.launches", "--plugin", "/nonexistent"], capture_output=True, text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 1 and "launches: XLA's plugin for CUDA cannot be had" in done.stderr


@pytest.mark.full
@needs_plugin
def test_a_step_launches_no_more_than_it_did() -> None:
    cells, variants = ("lstm", "gru"), ("plain", "recurrent-dropout")
    command = [sys.executable, "-m", "benchmarks.launches", "--json", "--cell", *cells, "--variant", *variants]
    command += ["--plugin", PLUGIN] if PLUGIN else []
    done = subprocess.run(command, capture_output=True, text=True)
    if "cannot be had" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(done.stdout)
    committed = launches.RESULTS / f"launches-jax-{version('jax')}.json"
    if committed.exists():
        known = json.loads(committed.read_text())["rows"]
        expected = [row for row in known if row["cell"] in cells and row["variant"] in variants]
        assert rows == expected, "run python -m benchmarks.launches again"
    for row in rows:
        most = 3.7 if row["loop"] == "backward" else 3.2 if row["variant"] == "recurrent-dropout" else 2.2
        assert row["arrays"] <= most and row["numbers"] <= 0.2, row


def test_the_table_is_that_of_its_rows() -> None:
    for path in sorted(launches.RESULTS.glob("launches-*.json")):
        results = json.loads(path.read_text())
        assert launches.table(results["rows"]) in path.with_suffix(".md").read_text()
        assert path.stem == f"launches-jax-{results['jax']}"
