"""What `auto` makes of measurements on GPUs, and what the table of them has to be."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cudnn_twin
import jax
import jax.numpy as jnp
import pytest
from cudnn_twin import Twin

import flax_rnn
from flax_rnn.implementations import choice, measured
from flax_rnn.implementations.measured import Entry

twin = cudnn_twin.twin

GPU = "A GPU of this kind"
ENTRY = Entry(GPU, "lstm", "tf32", False, [32, 80, 64, 128], {"fused": 1.9, "cudnn": 0.5, "scan": 2.0}, "a/file.json")
IN_ORDER = "it is the first to be taken of native, fused, scan"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """jax says that it has such a GPU."""
    device = SimpleNamespace(device_kind=GPU, client=SimpleNamespace(platform_version="cuda 13000"))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda *_: [device])


def taken(monkeypatch: pytest.MonkeyPatch, *entries: Entry, cell: Any = None, **options: Any) -> tuple[str, str]:
    """What is chosen where these are the measurements."""
    monkeypatch.setattr(measured, "table", lambda: entries)
    asked: dict[str, Any] = {"shape": (32, 80), **options}
    return flax_rnn.choose(cell or flax_rnn.LSTMCell(128), **asked)


@pytest.mark.usefixtures("gpu")
def test_the_fastest_is_taken_where_it_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    name, reason = taken(monkeypatch, ENTRY)
    assert name == "cudnn"
    assert reason == (
        "it is the fastest of those measured: cudnn 0.5 ms, fused 1.9 ms, scan 2 ms, on A GPU of this kind in tf32 "
        "without gradients, (B, T, D, H) = (32, 80, 64, 128), a/file.json"
    )


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("change", "cell", "options"),
    [
        ({}, flax_rnn.LSTMCell(128), {"shape": None}),
        ({}, flax_rnn.LSTMCell(128), {"shape": (65, 80)}),
        ({}, flax_rnn.LSTMCell(128), {"shape": (15, 80)}),
        ({}, flax_rnn.LSTMCell(128), {"shape": (32, 161)}),
        ({}, flax_rnn.LSTMCell(128), {"shape": (0, 80)}),
        ({}, flax_rnn.LSTMCell(63), {}),
        ({}, flax_rnn.LSTMCell(257), {}),
        ({}, flax_rnn.LSTMCell(128), {"training": True}),
        ({}, flax_rnn.LSTMCell(128), {"dtype": jnp.bfloat16}),
        ({}, flax_rnn.LSTMCell(128, precision="highest"), {}),
        ({}, flax_rnn.GRUCell(128), {}),
        ({}, flax_rnn.GRUCell(128, reset_after=False), {}),
        ({}, flax_rnn.ConvLSTM1DCell(128, 3), {}),
        ({"device": "Another GPU"}, flax_rnn.LSTMCell(128), {}),
        ({"dtype": "float32"}, flax_rnn.LSTMCell(128), {}),
        ({"times_ms": {"cudnn": 0.5}}, flax_rnn.LSTMCell(128), {}),
    ],
    ids=str,
)
def test_what_was_not_measured_is_left_to_xla(
    monkeypatch: pytest.MonkeyPatch, change: Any, cell: Any, options: Any
) -> None:
    name, reason = taken(monkeypatch, ENTRY._replace(**change), cell=cell, **options)
    assert name == "fused" and reason.startswith(IN_ORDER)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("change", "cell", "options"),
    [
        ({}, flax_rnn.LSTMCell(64), {"shape": (64, 160)}),
        ({}, flax_rnn.LSTMCell(256), {"shape": (16, 40)}),
        ({}, flax_rnn.CuDNNLSTMCell(128), {}),
        ({"training": True}, flax_rnn.LSTMCell(128), {"training": True}),
        ({"dtype": "float32"}, flax_rnn.LSTMCell(128, precision="highest"), {}),
    ],
    ids=str,
)
def test_a_factor_of_two_is_near_enough(monkeypatch: pytest.MonkeyPatch, change: Any, cell: Any, options: Any) -> None:
    assert taken(monkeypatch, ENTRY._replace(**change), cell=cell, **options)[0] == "cudnn"


@pytest.mark.usefixtures("gpu")
def test_the_nearest_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum over rows, steps and units; features do not matter. Of equals, the first."""
    far = ENTRY._replace(shape=[32, 50, 64, 128], times_ms={"scan": 1.0, "cudnn": 2.0})
    near = ENTRY._replace(shape=[32, 64, 999, 128], times_ms={"fused": 1.0, "cudnn": 2.0})
    assert taken(monkeypatch, far, near)[0] == taken(monkeypatch, near, far)[0] == "fused"
    assert taken(monkeypatch, far, near, shape=(32, 40))[0] == "scan"
    assert taken(monkeypatch, ENTRY, ENTRY._replace(times_ms={"scan": 1.0, "fused": 2.0}))[0] == "cudnn"


@pytest.mark.usefixtures("gpu")
def test_an_obstacle_leads_to_the_next_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = flax_rnn.LSTMCell(128, "relu")
    name, reason = taken(monkeypatch, ENTRY, cell=cell)
    assert name == "fused" and reason.startswith("it is the fastest of those measured: cudnn 0.5 ms")
    assert reason.endswith("; not cudnn, since cuDNN's activation is 'tanh', not 'relu'")
    name, reason = taken(monkeypatch, ENTRY._replace(times_ms={"cudnn": 0.5, "gone": 0.1}), cell=cell)
    assert name == "fused" and reason.startswith(IN_ORDER)
    with flax_rnn.portable():
        assert taken(monkeypatch, ENTRY)[0] == "fused"


@pytest.mark.usefixtures("gpu")
def test_unmeasured_cudnn_is_taken_by_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert taken(monkeypatch)[0] == "fused"
    assert taken(monkeypatch, implementation="cudnn") == ("cudnn", "asked for")


@pytest.mark.usefixtures("gpu")
def test_on_rocm_there_is_no_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax.devices()[0].client, "platform_version", "PJRT C API rocm 60000")
    with pytest.raises(ValueError, match="'cudnn' cannot be had: it is NVIDIA's, and this is ROCm"):
        flax_rnn.choose(flax_rnn.LSTMCell(4), "cudnn")


def test_on_a_cpu_measurements_of_gpus_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = taken(monkeypatch)
    assert taken(monkeypatch, ENTRY._replace(device=jax.devices()[0].device_kind)) == before
    assert before[1].startswith(IN_ORDER)


def test_layers_run_what_was_measured_for_outputs_and_for_gradients(
    twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, kind = flax_rnn.LSTMCell(9), jax.devices()[0].device_kind
    plain = Entry(kind, "lstm", "tf32", False, [2, 3, 4, 9], {"cudnn": 1.0, "scan": 2.0}, "")
    training = plain._replace(training=True, times_ms={"cudnn": 2.0, "scan": 1.0})
    weights = cell.init_params(jax.random.key(0), 4)

    def run(weights: Any) -> Any:
        return flax_rnn.rnn(cell, weights, jnp.ones((2, 3, 4)))

    for entries, calls in (((plain, training), ["forward"]), ((training,), []), ((), [])):
        monkeypatch.setattr(measured, "table", lambda entries=entries: entries)
        twin.calls.clear()
        with jax.disable_jit():
            jax.eval_shape(run, weights)
            jax.eval_shape(jax.grad(lambda weights: run(weights).sum()), weights)
        assert [call["name"] for call in twin.calls] == calls


def test_the_table_that_is_there() -> None:
    """Each line names what there is: implementations, cells, and a file with the rest of the measurement."""
    root, names = Path(flax_rnn.__file__).parents[1], {one.name for one in choice.IMPLEMENTATIONS}
    for entry in measured.table():
        assert entry.device and entry.cell in ("lstm", "gru", "simple_rnn")
        assert entry.dtype in ("tf32", "float32", "bfloat16", "float16")
        assert isinstance(entry.training, bool) and len(entry.shape) == 4 and min(entry.shape) > 0
        assert {*entry.times_ms} <= names and min(entry.times_ms.values()) > 0
        assert not (root / "benchmarks").exists() or (root / entry.source).is_file()
