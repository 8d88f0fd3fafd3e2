"""Lists of weights of live Keras layers, and those of Keras 1 and of CuDNN layers."""

from typing import Any

import numpy as np
import pytest

from flax_rnn import CuDNNGRUCell, CuDNNLSTMCell, GRUCell, LSTMCell, SimpleRNNCell, StackedRNNCells, bidirectional, rnn
from flax_rnn.convert import ConversionError, from_keras, to_cudnn, to_keras

keras = pytest.importorskip("keras")

B, T, D, H = 2, 4, 3, 2
X = np.random.default_rng(0).normal(size=(B, T, D)).astype("f4")
CELLS: dict[str, tuple[Any, Any]] = {
    "SimpleRNN": (lambda: keras.layers.SimpleRNN(H), SimpleRNNCell(H)),
    "LSTM": (lambda: keras.layers.LSTM(H), LSTMCell(H)),
    "GRU": (lambda: keras.layers.GRU(H), GRUCell(H)),
    "GRU before": (lambda: keras.layers.GRU(H, reset_after=False), GRUCell(H, reset_after=False)),
    "no bias": (lambda: keras.layers.LSTM(H, use_bias=False), LSTMCell(H, use_bias=False)),
    "stack": (
        lambda: keras.layers.RNN([keras.layers.GRUCell(3), keras.layers.LSTMCell(H)]),
        StackedRNNCells([GRUCell(3), LSTMCell(H)]),
    ),
    "both": (lambda: keras.layers.Bidirectional(keras.layers.GRU(H)), (GRUCell(H), GRUCell(H))),
}


def random_arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.normal(0, 0.6, shape).astype("f4") for shape in shapes]


@pytest.mark.each(1, at_most=4)
@pytest.mark.parametrize("kind", CELLS)
def test_live_keras_both_ways(kind: str) -> None:
    make, cell = CELLS[kind]
    layer = make()
    layer.build(X.shape)
    layer.set_weights(random_arrays(*(w.shape for w in layer.weights)))
    params = from_keras(cell, layer.get_weights())
    run: Any = bidirectional if isinstance(cell, tuple) else rnn
    expected = layer(X)
    np.testing.assert_allclose(run(cell, params, X), expected, atol=1e-5)
    layer.set_weights([np.zeros_like(w) for w in layer.get_weights()])
    layer.set_weights(to_keras(params))
    np.testing.assert_array_equal(layer(X), expected)


def per_gate(arrays: list[np.ndarray], order: list[int]) -> list[np.ndarray]:
    """The list that Keras 1 has: W, U and b of each gate."""
    gates = [np.split(array, len(order), -1) for array in arrays]
    return [array[gate] for gate in order for array in gates]


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_keras_1(kind: str, pair: bool) -> None:
    cell: Any = LSTMCell(H) if kind == "lstm" else GRUCell(H, reset_after=False)
    order = [0, 2, 1, 3] if kind == "lstm" else [0, 1, 2]
    directions = [random_arrays(*(shape for _, shape in cell.param_specs(D).values())) for _ in range(1 + pair)]
    weights = [array for arrays in directions for array in per_gate(arrays, order)]
    assert len(weights) == (12 if kind == "lstm" else 9) * (1 + pair)
    params = from_keras((cell, cell) if pair else cell, weights)
    for ours, arrays in zip(params if pair else [params], directions, strict=True):
        for name, array in zip(("kernel", "recurrent_kernel", "bias"), arrays, strict=True):
            np.testing.assert_array_equal(ours[name], array)


@pytest.mark.parametrize(("plain", "cudnn"), [(LSTMCell(H), CuDNNLSTMCell(H)), (GRUCell(H), CuDNNGRUCell(H))])
def test_cudnn_on_request(plain: Any, cudnn: Any) -> None:
    weights = random_arrays(*(shape for _, shape in cudnn.param_specs(D).values()))
    with pytest.raises(ConversionError, match="of a CuDNN layer; pass cudnn=True"):
        from_keras(plain, weights)
    as_stored = from_keras(cudnn, weights)
    params = from_keras((plain, plain), [*weights, *weights], cudnn=True)[1]
    np.testing.assert_allclose(rnn(plain, params, X), rnn(cudnn, as_stored, X), atol=1e-6)
    for ours, theirs in zip(to_keras(as_stored), weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    if isinstance(plain, GRUCell):
        for ours, theirs in zip(to_cudnn(params).values(), weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_errors() -> None:
    weights = random_arrays((D, 4 * H), (H, 4 * H), (4 * H,))
    gru = random_arrays((D, 3 * H), (H, 3 * H), (3 * H,))
    for cell, arrays, message in [
        (LSTMCell(H), weights[:2], r"expected 3 arrays \['kernel \(3, 8\)', .* got 2 of shapes \[\(3, 8\), \(2, 8\)\]"),
        (LSTMCell(3), weights, r"weights: kernel: expected shape \(3, 12\), got \(3, 8\)"),
        (GRUCell(H), gru, r"bias: expected shape \(2, 6\), got \(6,\)"),
        (LSTMCell(H), [], "expected arrays, the first a kernel"),
        (LSTMCell(H), [*weights[:2], "text"], r"weights\[2\]: expected floating-point numbers"),
        ("LSTM", weights, "cell: expected a cell of flax_rnn"),
        (
            LSTMCell(H, use_bias=False),
            per_gate(weights, [0, 2, 1, 3]),
            r"expected \['kernel', 'recurrent_kernel'\], got",
        ),
        (LSTMCell(H), [*weights] * 4, r"an array per gate: expected shape|kernel: expected shape"),
    ]:
        with pytest.raises(ConversionError, match=message):
            from_keras(cell, arrays)
    with pytest.raises(ConversionError, match=r"bias: expected shape \(8,\), got \(5,\)"):
        to_keras({"kernel": weights[0], "recurrent_kernel": weights[1], "bias": np.ones(5)})
    with pytest.raises(ConversionError, match="expected a cell's kernel"):
        to_keras({"kernel": weights[0]})
