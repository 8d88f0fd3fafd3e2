"""What keeps a layer from the CUDA kernels, in words, and what is lowered and exported for a GPU."""

import re
from typing import Any

import cuda_device
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cuda_device import calls_in, narrow, problem

import flax_rnn
from flax_rnn.implementations import choice
from flax_rnn.implementations.cuda import library

gpu = cuda_device.gpu
pytestmark = [cuda_device.needed, pytest.mark.usefixtures("gpu")]

LSTM = flax_rnn.LSTMCell(4)


class Mine(flax_rnn.LSTMCell):
    """A cell that may do something else."""


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no row": (LSTM, {"shape": (0, 5)}, "the kernels need a row and a step"),
    "no step": (LSTM, {"shape": (2, 0)}, "the kernels need a row and a step"),
    "another cell": (flax_rnn.ConvLSTM1DCell(2, 3), {}, "there is no CUDA kernel for ConvLSTM1DCell"),
    "a subclass": (Mine(2), {}, "there is no CUDA kernel for Mine"),
    "reset before": (
        flax_rnn.GRUCell(2, reset_after=False),
        {},
        "there is no CUDA kernel for GRUCell, which resets before the product",
    ),
    "activation": (flax_rnn.SimpleRNNCell(2, "gelu"), {}, "the CUDA kernels have no activation 'gelu'"),
    "recurrent activation": (
        flax_rnn.GRUCell(2, recurrent_activation="elu"),
        {},
        "the CUDA kernels have no recurrent_activation 'elu'",
    ),
    "precision": (
        flax_rnn.LSTMCell(2, precision="highest"),
        {},
        "the CUDA kernels compute in TF32 where arrays are float32, not with precision 'highest'",
    ),
    "an algorithm": (flax_rnn.LSTMCell(2, precision="BF16_BF16_F32"), {}, "not with precision 'BF16_BF16_F32'"),
    "float16": (LSTM, {"dtype": jnp.float16}, "the CUDA kernels take bfloat16 and float32, not float16"),
    "float64": (LSTM, {"dtype": np.float64}, "the CUDA kernels take bfloat16 and float32, not float64"),
    "rounded outputs": (
        flax_rnn.SimpleRNNCell(2, "hard_sigmoid"),
        {"dtype": jnp.bfloat16},
        "the gradient of 'hard_sigmoid' does not follow from outputs that are rounded to bfloat16",
    ),
    "too many units": (
        flax_rnn.LSTMCell(513),
        {"dtype": jnp.bfloat16},
        "the registers of a GPU hold the weights of 512 units in bfloat16, not of 513",
    ),
    "too many units in float32": (flax_rnn.GRUCell(257), {}, "hold the weights of 256 units in float32, not of 257"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_says_what_it_cannot_run(case: str) -> None:
    cell, options, reason = REFUSED[case]
    with pytest.raises(ValueError, match=rf"implementation: 'cuda' cannot be had: .*{re.escape(reason)}$"):
        flax_rnn.choose(cell, "cuda", **options)


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        (LSTM, {}),
        (flax_rnn.GRUCell(256), {}),
        (flax_rnn.LSTMCell(512), {"dtype": jnp.bfloat16, "shape": (1, 1)}),
        (flax_rnn.SimpleRNNCell(2, None), {"resets": True, "training": True}),
        (flax_rnn.LSTMCell(2, recurrent_dropout=0.3), {"training": True}),
        (flax_rnn.LSTMCell(2, precision="highest"), {"dtype": jnp.bfloat16}),
        (flax_rnn.LSTMCell(2, precision="tensorfloat32"), {"sharded": True}),
        (flax_rnn.CuDNNGRUCell(2), {}),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "units") else "-".join(value),
)
def test_what_it_runs(cell: Any, options: Any) -> None:
    """Whoever asks for it gets it, and nobody else, as long as it has not been measured."""
    assert flax_rnn.choose(cell, "cuda", **options) == ("cuda", "asked for")
    assert flax_rnn.choose(cell, **options).implementation == "fused"
    assert "cuda" in choice.ONLY_MEASURED


def test_the_default_precision_counts() -> None:
    with jax.default_matmul_precision("highest"), pytest.raises(ValueError, match="compute in TF32"):
        flax_rnn.choose(LSTM, "cuda")
    with jax.default_matmul_precision("tensorfloat32"):
        assert flax_rnn.choose(LSTM, "cuda").implementation == "cuda"


def test_what_is_missing_on_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library or the driver; kernels for its GPU; clusters of blocks; a GPU at all."""

    def refused(cell: Any = LSTM, **options: Any) -> str:
        with pytest.raises(ValueError, match="implementation: 'cuda' cannot be had: ") as caught:
            flax_rnn.choose(cell, "cuda", **options)
        return str(caught.value).partition("cannot be had: ")[2]

    with monkeypatch.context() as patch:
        patch.setattr(library, "absent", lambda: "it was not built")
        assert refused() == "it was not built"
    with monkeypatch.context() as patch:
        patch.setattr(library, "here", lambda: "")
        assert refused() == f"there are no CUDA kernels for {jax.devices()[0].device_kind}"
    with monkeypatch.context() as patch:
        patch.setattr(library, "here", lambda: "sm_80")
        assert flax_rnn.choose(flax_rnn.GRUCell(64), "cuda").implementation == "cuda"
        assert refused(flax_rnn.GRUCell(65)) == (
            "the registers of a GPU without clusters of blocks hold the weights of 64 units in float32, not of 65"
        )
    with monkeypatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "cpu")
        assert refused() == "the kernels are for NVIDIA's GPUs, and the default backend is 'cpu'"


def step(how: str) -> Any:
    """A step of training."""

    def run(weights: Any, x: Any) -> Any:
        return jax.value_and_grad(lambda w: (flax_rnn.rnn(LSTM, w, x, implementation=how) ** 2).sum())(weights)

    return run


def test_it_is_lowered_for_a_gpu() -> None:
    arrays = narrow(problem(LSTM)[:2])
    lowered = jax.jit(step("cuda")).trace(*arrays).lower(lowering_platforms=("cuda",))
    assert calls_in(lowered.as_text()) == [("backward", 5), ("forward", 5)]


def test_it_is_exported_by_name_only() -> None:
    """For GPUs of the same kind; what has to run anywhere asks for something else."""
    arrays = narrow(problem(LSTM)[:2])
    with pytest.raises(ValueError, match=library.TARGET):
        jax.export.export(jax.jit(step("cuda")), platforms=["cuda"])(*arrays)
    allowed = [jax.export.DisabledSafetyCheck.custom_call(library.TARGET)]
    exported = jax.export.export(jax.jit(step("cuda")), platforms=["cuda"], disabled_checks=allowed)(*arrays)
    assert calls_in(exported.mlir_module()) == [("backward", 5), ("forward", 5)]
    with flax_rnn.portable():
        with pytest.raises(ValueError, match="'cuda' cannot be had: the kernels are compiled for this machine's GPU"):
            flax_rnn.rnn(LSTM, *arrays, implementation="cuda")
        anywhere = jax.export.export(jax.jit(step("auto")), platforms=["cpu", "cuda"])(*arrays)
    found, expected = anywhere.call(*arrays), jax.jit(step("cuda"))(*arrays)
    cuda_device.assert_close(found, expected, "float32")


def test_an_error_of_the_launch_reaches_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = library.attributes
    monkeypatch.setattr(library, "attributes", lambda code, _, **sizes: usual(code, "other", **sizes))
    cell = flax_rnn.LSTMCell(3)  # of its own, since what was traced for another is kept
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"cuModuleGetFunction: CUDA_ERROR_NOT_FOUND, for other on"):
        jax.block_until_ready(flax_rnn.rnn(cell, *narrow(problem(cell)[:2]), implementation="cuda"))


def test_forward_mode_derivatives_are_refused() -> None:
    weights, x = narrow(problem(LSTM)[:2])
    with pytest.raises(TypeError, match="forward-mode") as caught:
        jax.jvp(lambda x: flax_rnn.rnn(LSTM, weights, x, implementation="cuda"), (x,), (x,))
    assert "expected \"scan\" for forward-mode derivatives, got 'cuda'" in caught.value.__notes__[0]
