"""Parameters of live cells of Flax's."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import flax_rnn
from flax_rnn.convert import ConversionError, FlaxCell, from_flax, to_flax

B, T, D, H = 2, 4, 3, 2
CELLS = get_args(FlaxCell)
X: Any = np.random.default_rng(0).normal(size=(B, T, D)).astype("f4")


def our_cell(name: str) -> Any:
    kind = next(kind for kind in ("Simple", "LSTM", "GRU") if kind in name)
    return getattr(flax_rnn, {"Simple": "SimpleRNNCell", "LSTM": "LSTMCell", "GRU": "GRUCell"}[kind])(H)


def randomized(tree: Any, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.6, leaf.shape), leaf.dtype), tree)


def fresh(name: str) -> Any:
    """Random parameters of the cell of Flax's."""
    api, _, cls = name.partition(".")
    if api == "linen":
        cell = getattr(nn, cls)(H)
        carry = cell.initialize_carry(jax.random.key(0), (B, D))
        return randomized(jax.eval_shape(cell.init, jax.random.key(0), carry, X[:, 0])["params"])
    return randomized(nnx.to_pure_dict(nnx.state(getattr(nnx, cls)(D, H, rngs=nnx.Rngs(0)), nnx.Param)))


def run(name: str, params: Any) -> Any:
    api, _, cls = name.partition(".")
    if api == "linen":
        return nn.RNN(getattr(nn, cls)(H)).apply({"params": {"cell": params}}, X)
    layer = nnx.RNN(getattr(nnx, cls)(D, H, rngs=nnx.Rngs(0)))
    nnx.update(layer.cell, params)
    return layer(X)


@pytest.mark.parametrize("name", CELLS)
def test_from_flax(name: FlaxCell) -> None:
    theirs = fresh(name)
    params = from_flax(theirs)
    ours = flax_rnn.rnn(our_cell(name), params, X, return_sequences=True)
    np.testing.assert_allclose(ours, run(name, theirs), atol=1e-5)
    back = to_flax(params, name)
    assert jax.tree.structure(back) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, back, theirs)


@pytest.mark.each(1)
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("name", CELLS)
def test_to_flax(name: FlaxCell, use_bias: bool) -> None:
    cell = our_cell(name)
    params = randomized(cell.init_params(jax.random.key(0), D))
    if name == "nnx.GRUCell":
        params["bias"] = params["bias"].at[1, 2 * H :].set(0)
    if not use_bias:
        del params["bias"]
        cell.use_bias = False
    ours = flax_rnn.rnn(cell, params, X, return_sequences=True)
    np.testing.assert_allclose(ours, run(name, to_flax(params, name)), atol=1e-5)


def test_errors() -> None:
    gru = randomized(flax_rnn.GRUCell(H).init_params(jax.random.key(0), D))
    with pytest.raises(ConversionError, match=r"expected zeros for the recurrent bias of n.*nnx\.GRUCell has none"):
        to_flax(gru, "nnx.GRUCell")
    with pytest.raises(ConversionError, match="reset_after=True"):
        to_flax(gru | {"bias": gru["bias"][0]}, "linen.GRUCell")
    with pytest.raises(ConversionError, match=r"expected the 4 gates of linen\.LSTMCell, got 3"):
        to_flax(gru, "linen.LSTMCell")
    unknown: Any = "linen.ConvLSTMCell"
    with pytest.raises(ConversionError, match="cell: expected one of"):
        to_flax(gru, unknown)
    with pytest.raises(ConversionError, match=r"expected those of one of .* got entries \['kernel'\]"):
        from_flax({"kernel": np.ones(2)})
    lstm = fresh("linen.LSTMCell")
    with pytest.raises(ConversionError, match=r"no more entries than a cell of Flax has, got \['ii/bias'\]"):
        from_flax(lstm | {"ii": lstm["ii"] | {"bias": np.ones(H)}})
    with pytest.raises(ConversionError, match="expected an array at hf/bias, got none"):
        from_flax(lstm | {"hf": {"kernel": lstm["hf"]["kernel"]}})
    with pytest.raises(ConversionError, match=r"ig/kernel: expected shape \(3, 2\), got \(1, 2\)"):
        from_flax(lstm | {"ig": {"kernel": np.ones((1, H), np.float32)}})
