"""The twin by which cuDNN's LSTM is tested: its layout is that of jax, its numbers are those of torch."""

import inspect
from typing import Any

import cudnn_twin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn

SIZES = [(3, 2, 1, 1), (3, 2, 1, 2), (2, 3, 2, 2)]  # features, units, layers, directions


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_vector_of_weights_is_that_of_jax(sizes: Any) -> None:
    features, units, layers, directions = sizes
    count = rnn.get_num_params_in_lstm(features, units, layers, directions == 2)
    theirs = rnn.unpack_lstm_weights(jnp.arange(count), features, units, layers, directions == 2)
    ours = cudnn_twin.unpacked(jnp.arange(count), *sizes)
    ends = [f"_l{layer}{side}" for layer in range(layers) for side in ("", "_reverse")[:directions]]
    for kind, arrays in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), theirs, strict=True):
        assert len(arrays) == len(ends)
        for index, end in enumerate(ends):
            np.testing.assert_array_equal(ours[kind + end], arrays[index])


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_its_numbers_are_those_of_torch(sizes: Any) -> None:
    """With lengths of sequences, which torch takes as packed sequences."""
    torch: Any = pytest.importorskip("torch")
    features, units, layers, directions = sizes
    batch, steps, lengths = 4, 5, [3, 5, 1, 4]
    torch.manual_seed(0)
    model = torch.nn.LSTM(features, units, layers, batch_first=True, bidirectional=directions == 2)
    x, h, c = (torch.randn(*shape) for shape in ((batch, steps, features), *((layers * directions, batch, units),) * 2))
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    outputs, states = model(packed, (h, c))
    outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True)
    named = {name: array.detach().numpy() for name, array in model.named_parameters()}
    vector = np.concatenate([named[name].ravel() for name, _ in cudnn_twin.parts(*sizes)])
    arrays = [vector, np.array(lengths, np.int32)]
    result = jax.jit(cudnn_twin.lstm, static_argnums=(5, 6))(x.numpy(), h.numpy(), c.numpy(), *arrays, *sizes[2:])
    for ours, theirs in zip(result, (outputs, *states), strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-6)


def test_it_has_what_the_calls_have_and_no_more() -> None:
    """The functions exist under these names with these arguments, and a look beyond the lengths is found out."""
    twin = cudnn_twin.Twin()
    for name in ("lstm_fwd", "lstm_bwd"):
        theirs, ours = (inspect.signature(getattr(where, name)).parameters for where in (rnn, twin))
        assert [*theirs] == [*ours]
    fixed: dict[str, Any] = {
        "input_size": 3, "hidden_size": 2, "num_layers": 1, "dropout": 0.0, "bidirectional": False,
        "precision": jax.lax.Precision.HIGH,
    }  # fmt: skip
    x, state, weights = jnp.ones((2, 3, 3)), jnp.ones((1, 2, 2)), jnp.ones(8 * 3 + 8 * 2 + 16)
    lengths = jnp.array([1, 3], jnp.int32)

    @jax.jit
    def run(x: Any, d_y: Any) -> Any:
        result, saved = twin.lstm_fwd(x, state, state, weights, lengths, **fixed)
        return result[0], twin.lstm_bwd(**fixed, residuals=saved, gradients=(d_y, state, state))

    d_y = np.ones((2, 3, 2), np.float32)
    y, gradients = run(x, np.where(np.arange(3)[:, None] < lengths[:, None, None], d_y, 0))
    assert jnp.isnan(y[0, 1:]).all() and not jnp.isnan(y[1]).any()
    assert jnp.isnan(gradients[0][0, 1:]).all() and not jnp.isnan(gradients[3]).any()
    assert jnp.isnan(run(x, d_y)[1][3]).all()
    with pytest.raises(NotImplementedError, match="Batching rule for 'cudnn_twin' not implemented"):
        jax.vmap(lambda x: twin.lstm_fwd(x, state, state, weights, lengths, **fixed))(x[None])
