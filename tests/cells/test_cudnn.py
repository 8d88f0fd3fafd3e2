"""CuDNNLSTM and CuDNNGRU: the plain layers' numbers from weights in cuDNN's layout."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from flax import nnx

import flax_rnn
import flax_rnn.linen
import flax_rnn.nnx

B, T, D, H = 3, 5, 4, 6
GATES = {"LSTM": 4, "GRU": 3}
CELLS: dict[str, Any] = {"LSTM": flax_rnn.CuDNNLSTMCell, "GRU": flax_rnn.CuDNNGRUCell}


def weights(kind: str) -> dict[str, np.ndarray]:
    """Random weights in cuDNN's layout."""
    rng = np.random.default_rng(1)
    shapes = {"kernel": (D, GATES[kind] * H), "recurrent_kernel": (H, GATES[kind] * H), "bias": (2 * GATES[kind] * H,)}
    return {name: rng.normal(0, 0.5, shape) for name, shape in shapes.items()}


def plain(kind: str, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same by the definition of the layout, number by number."""
    kernel, recurrent = np.empty_like(given["kernel"]), np.empty_like(given["recurrent_kernel"])
    for gate in range(GATES[kind]):
        columns = slice(gate * H, (gate + 1) * H)
        numbers = given["kernel"][:, columns].ravel()
        for unit in range(H):
            kernel[:, gate * H + unit] = numbers[unit * D : (unit + 1) * D]
            recurrent[:, gate * H + unit] = given["recurrent_kernel"][unit, columns]
    bias = given["bias"].reshape(2, -1)
    return {"kernel": kernel, "recurrent_kernel": recurrent, "bias": bias if kind == "GRU" else bias.sum(0)}


@pytest.mark.each(1)
@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("options", [{}, {"return_sequences": True, "go_backwards": True}])
def test_outputs_and_gradients_equal_the_oracle_with_plain_weights(kind: str, options: dict[str, Any]) -> None:
    with jax.enable_x64():
        cell, given = CELLS[kind](H), weights(kind)
        rng = np.random.default_rng(2)
        x, mask = rng.normal(size=(B, T, D)), rng.random((B, T)) < 0.7

        def expected(given: dict[str, np.ndarray]) -> float:
            layer = oracle.Layer(f"{kind}Cell", plain(kind, given))
            return oracle.weighted_sum(0, oracle.run(layer, x, mask=mask, **options)[0])

        def actual(given: dict[str, Any]) -> Any:
            return oracle.weighted_sum(0, flax_rnn.rnn(cell, given, x, mask=mask, **options))

        value, gradient = jax.jit(jax.value_and_grad(actual))(given)
        oracle.assert_close(value, expected(given))
        oracle.assert_close(gradient, oracle.central_differences(expected, given), 1e-7)


@pytest.mark.parametrize(("kind", "ones"), [("LSTM", range(5 * H, 6 * H)), ("GRU", [])])
def test_initial_weights(kind: str, ones: Any) -> None:
    params = CELLS[kind](H).init_params(jax.random.key(0), D)
    gates = GATES[kind]
    assert jax.tree.map(jnp.shape, params) == {
        "kernel": (D, gates * H), "recurrent_kernel": (H, gates * H), "bias": (2 * gates * H,),
    }  # fmt: skip
    np.testing.assert_array_equal(np.flatnonzero(params["bias"]), list(ones))
    assert np.all(np.asarray(params["bias"])[list(ones)] == 1)


@pytest.mark.parametrize("kind", CELLS)
def test_both_faces_give_the_numbers_of_the_core(kind: str) -> None:
    given = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), weights(kind))
    x = jnp.asarray(np.random.default_rng(3).normal(size=(B, T, D)), jnp.float32)
    expected = flax_rnn.rnn(CELLS[kind](H), given, x)
    linen = getattr(flax_rnn.linen, f"CuDNN{kind}")(H)
    assert jax.tree.map(jnp.shape, linen.init(jax.random.key(0), x)) == {
        "params": {"cell": jax.tree.map(jnp.shape, given)}
    }
    np.testing.assert_allclose(linen.apply({"params": {"cell": given}}, x), expected, rtol=1e-6)
    module = getattr(flax_rnn.nnx, f"CuDNN{kind}")(D, H, rngs=nnx.Rngs(0))
    for name, value in given.items():
        getattr(module.cell, name)[...] = value
    np.testing.assert_allclose(module(x), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "argument", "value"),
    [("LSTM", "activation", "relu"), ("LSTM", "use_bias", False), ("GRU", "recurrent_dropout", 0.1),
     ("GRU", "recurrent_activation", "hard_sigmoid"), ("GRU", "reset_after", False)],
)  # fmt: skip
def test_what_cudnn_does_not_have_is_refused(kind: str, argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{argument}: CuDNN{kind}Cell has .*, got {value!r}"):
        CELLS[kind](H, **{argument: value})
