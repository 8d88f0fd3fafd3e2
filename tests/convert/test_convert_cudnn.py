"""The layouts of CuDNN layers, against an independent reading of Keras 2's conversion and the core's CuDNN cells."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flax_rnn
from flax_rnn.convert import ConversionError, from_cudnn, is_cudnn, to_cudnn

B, T, D, H = 2, 3, 3, 2
CUDNN: dict[str, tuple[Any, Any]] = {
    "lstm": (flax_rnn.LSTMCell(H), flax_rnn.CuDNNLSTMCell(H)),
    "gru": (flax_rnn.GRUCell(H), flax_rnn.CuDNNGRUCell(H)),
}


def weights(cell: Any, features: int = D, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    specs = cell.param_specs(features).items()
    return {name: rng.normal(0, 0.6, shape).astype("f4") for name, (_, shape) in specs}


@pytest.mark.parametrize("kind", CUDNN)
def test_same_outputs_as_the_cudnn_cell(kind: str) -> None:
    plain, cudnn = CUDNN[kind]
    params = weights(cudnn)
    assert is_cudnn(params)
    converted = from_cudnn(params)
    assert not is_cudnn(converted)
    x = np.random.default_rng(1).normal(size=(B, T, D)).astype("f4")
    ours = flax_rnn.rnn(plain, converted, x, return_sequences=True)
    np.testing.assert_allclose(ours, flax_rnn.rnn(cudnn, params, x, return_sequences=True), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", CUDNN)
def test_as_keras_2_did(kind: str) -> None:
    """It wrote ``k.T.reshape(k.shape, order="F")`` for a block of the kernel."""
    gates = 4 if kind == "lstm" else 3
    params = weights(CUDNN[kind][1])
    plain = from_cudnn(params)
    blocks = [k.T.reshape(k.shape, order="F") for k in np.split(params["kernel"], gates, 1)]
    np.testing.assert_array_equal(plain["kernel"], np.hstack(blocks))
    np.testing.assert_array_equal(plain["recurrent_kernel"][:, :H], params["recurrent_kernel"][:, :H].T)
    back = to_cudnn(plain)["kernel"]
    for ours, block in zip(np.split(back, gates, 1), np.split(plain["kernel"], gates, 1), strict=True):
        np.testing.assert_array_equal(ours, block.T.reshape(block.shape))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.booleans(), st.integers(0, 99))
def test_round_trips(features: int, units: int, is_lstm: bool, seed: int) -> None:
    cell = flax_rnn.LSTMCell(units) if is_lstm else flax_rnn.GRUCell(units)
    params = weights(cell, features, seed)
    back = from_cudnn(to_cudnn(params))
    assert list(back) == list(params)
    for name, array in params.items():
        np.testing.assert_array_equal(back[name], array)
    halves = to_cudnn(params)["bias"]
    if is_lstm:
        np.testing.assert_array_equal(halves[: 4 * units], halves[4 * units :])
    else:
        np.testing.assert_array_equal(to_cudnn(from_cudnn(to_cudnn(params)))["bias"], halves)


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2"])
@pytest.mark.parametrize("kind", CUDNN)
def test_dtypes_stay(kind: str, dtype: str) -> None:
    params = {name: array.astype(dtype) / np.asarray(3, dtype) for name, array in weights(CUDNN[kind][0]).items()}
    assert dtype != "f8" or np.any(params["kernel"] != params["kernel"].astype("f4"))
    stored = to_cudnn(params)
    for name, array in from_cudnn(stored).items():
        assert array.dtype == stored[name].dtype == dtype
        np.testing.assert_array_equal(array, params[name])


def test_errors() -> None:
    lstm, gru = weights(flax_rnn.LSTMCell(H)), weights(flax_rnn.GRUCell(H, reset_after=False))
    with pytest.raises(ConversionError, match=r"bias: expected shape \(2, 6\).*reset_after=True.*got \(6,\)"):
        to_cudnn(gru)
    with pytest.raises(ConversionError, match=r"bias: expected shape \(16,\), got \(8,\)"):
        from_cudnn(lstm)
    with pytest.raises(ConversionError, match=r"bias: expected shape \(16,\), got no bias"):
        from_cudnn({name: lstm[name] for name in ("kernel", "recurrent_kernel")})
    with pytest.raises(ConversionError, match="SimpleRNN"):
        to_cudnn(weights(flax_rnn.SimpleRNNCell(H)))
    with pytest.raises(ConversionError, match="expected a cell's kernel, recurrent_kernel and maybe bias, got"):
        to_cudnn(lstm | {"extra": lstm["bias"]})
    with pytest.raises(ConversionError, match="recurrent_kernel: expected floating-point numbers, got dtype int64"):
        to_cudnn(lstm | {"recurrent_kernel": np.ones((H, 4 * H), np.int64)})
