"""The layers of the installed Keras, with random weights and biases, against ours; and where we differ on purpose."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from flax_rnn import GRUCell, LSTMCell, SimpleRNNCell, StackedRNNCells, bidirectional, rnn

keras = pytest.importorskip("keras")

B, T, D, H = 3, 4, 3, 2
HOLES: Any = np.array([[1, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]], bool)
LEADING: Any = np.array([[0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
SEQUENCES = {"return_sequences": True}
CELLS: dict[str, Any] = {
    "SimpleRNN": SimpleRNNCell(H),
    "LSTM": LSTMCell(H),
    "GRU": GRUCell(H),
    "GRU_before": GRUCell(H, reset_after=False),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "last": {},
    "sequences": SEQUENCES | {"initial_state": True},
    "backwards": SEQUENCES | {"go_backwards": True, "initial_state": True},
    "unroll": SEQUENCES | {"unroll": True, "go_backwards": True, "mask": HOLES},
    "holes": SEQUENCES | {"mask": HOLES, "initial_state": True},
    "leading": SEQUENCES | {"mask": LEADING},
    "zeros": SEQUENCES | {"mask": LEADING, "zero_output_for_mask": True},
    "last_backwards": {"mask": LEADING, "go_backwards": True},
}
VARIANTS = [
    SimpleRNNCell(H, "relu", use_bias=False),
    LSTMCell(H, "softsign", recurrent_activation="hard_sigmoid"),
    LSTMCell(H, None, recurrent_activation="tanh", use_bias=False),
    GRUCell(H, "elu", recurrent_activation="hard_sigmoid"),
    GRUCell(H, use_bias=False),
    GRUCell(H, "sigmoid", recurrent_activation="softsign", reset_after=False, use_bias=False),
]


def keras_options(cell: Any) -> dict[str, Any]:
    names = ("units", "activation", "use_bias", "recurrent_activation", "reset_after")
    return {name: getattr(cell, name) for name in names if hasattr(cell, name)}


def keras_layer(cell: Any, **options: Any) -> Any:
    cls = getattr(keras.layers, type(cell).__name__.removesuffix("Cell"))
    return cls(**keras_options(cell), **options)


def problem(cell: Any, seed: int = 0) -> tuple[Any, Any, Any]:
    """Weights, states and inputs, in float32."""
    rng = np.random.default_rng(seed)
    tree = oracle.random_weights(cell, D, rng), oracle.random_state(cell, B, rng), rng.normal(size=(B, T, D))
    return jax.tree.map(jnp.float32, tree)


def arrays(weights: Any) -> list[np.ndarray]:
    """The weights as Keras lists them."""
    parts = weights if isinstance(weights, tuple) else (weights,)
    names = ("kernel", "recurrent_kernel", "bias")
    return [np.asarray(part[name]) for part in parts for name in names if name in part]


def run_both(cell: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    """Outputs and states: ours and those of Keras."""
    weights, state, x = problem(cell)
    mask = options.get("mask")
    state = state if options.get("initial_state") else None
    options = {name: value for name, value in options.items() if name not in ("mask", "initial_state")}
    layer = keras_layer(cell, return_state=True, **options)
    layer.build(x.shape)
    layer.set_weights(arrays(weights))
    ours = jax.jit(lambda w: rnn(cell, w, x, mask=mask, initial_state=state, return_state=True, **options))(weights)
    return ours, layer(x, mask=mask, initial_state=state)


@pytest.mark.each(1)
@pytest.mark.parametrize("which", OPTIONS)
@pytest.mark.parametrize("name", CELLS)
def test_options(name: str, which: str) -> None:
    oracle.assert_close(*run_both(CELLS[name], OPTIONS[which]), 2e-6)


@pytest.mark.parametrize("cell", VARIANTS)
def test_activations_and_biases(cell: Any) -> None:
    oracle.assert_close(*run_both(cell, SEQUENCES | {"mask": HOLES}), 2e-6)


@pytest.mark.each(1, at_most=3)
@pytest.mark.parametrize("name", CELLS)
def test_gradients(name: str) -> None:
    cell = CELLS[name]
    weights, state, x = problem(cell)
    layer = keras_layer(cell, return_sequences=True, return_state=True)
    layer.build(x.shape)
    other = [v.value for v in layer.non_trainable_variables]

    def ours(weights: Any, x: Any, state: Any) -> Any:
        result = rnn(cell, weights, x, mask=HOLES, initial_state=state, return_sequences=True, return_state=True)
        return oracle.weighted_sum(1, result)

    def theirs(weights: Any, x: Any, state: Any) -> Any:
        variables = [weights["kernel"], weights["recurrent_kernel"], weights["bias"]]
        result, _ = layer.stateless_call(variables, other, x, mask=jnp.asarray(HOLES), initial_state=state)
        return oracle.weighted_sum(1, result)

    expected = jax.jit(jax.grad(theirs, argnums=(0, 1, 2)))(weights, x, state)
    oracle.assert_close(jax.jit(jax.grad(ours, argnums=(0, 1, 2)))(weights, x, state), expected, 1e-5)


@pytest.mark.parametrize("options", [SEQUENCES, {"mask": HOLES}, SEQUENCES | {"mask": LEADING}], ids=str)
def test_stacks(options: dict[str, Any]) -> None:
    stack = StackedRNNCells((LSTMCell(2), GRUCell(3), SimpleRNNCell(2)))
    weights, _, x = problem(stack)
    classes = (keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.SimpleRNNCell)
    cells = [cls(**keras_options(cell)) for cls, cell in zip(classes, stack.cells, strict=True)]
    layer = keras.layers.RNN(cells, return_sequences=options.get("return_sequences", False), return_state=True)
    layer.build(x.shape)
    layer.set_weights(arrays(weights))
    ours = jax.jit(lambda w: rnn(stack, w, x, return_state=True, **options))(weights)
    oracle.assert_close(ours, layer(x, mask=options.get("mask")), 2e-6)


@pytest.mark.each(1)
@pytest.mark.parametrize("merge_mode", ["concat", "sum", "ave", "mul", None])
@pytest.mark.parametrize(("name", "return_sequences"), [("LSTM", True), ("GRU", False), ("SimpleRNN", True)])
def test_bidirectional(name: str, return_sequences: bool, merge_mode: str | None) -> None:
    cell = CELLS[name]
    weights, states, x = zip(problem(cell, 0), problem(cell, 1), strict=True)
    layer = keras.layers.Bidirectional(
        keras_layer(cell, return_sequences=return_sequences, return_state=True), merge_mode=merge_mode
    )
    layer.build(x[0].shape)
    layer.set_weights(arrays(weights[0]) + arrays(weights[1]))
    theirs = layer(x[0], mask=HOLES, initial_state=[*states[0], *states[1]])
    ours = jax.jit(
        lambda w: bidirectional(
            (cell, cell), w, x[0], mask=HOLES, initial_state=states, return_sequences=return_sequences,
            return_state=True, merge_mode=merge_mode,
        )
    )(weights)  # fmt: skip
    oracle.assert_close(ours, theirs, 2e-6)


@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU"])
def test_outputs_before_the_first_step_are_zeros_unlike_in_keras_on_jax(name: str) -> None:
    # Keras' documentation and its other backends say zeros; on JAX its loop shows the initial state there.
    options = SEQUENCES | {"mask": LEADING, "initial_state": True}
    ours, theirs = run_both(CELLS[name], options)
    state = problem(CELLS[name])[1]
    before = np.cumsum(LEADING, 1) == 0
    np.testing.assert_array_equal(ours[0][before], 0)
    h = np.broadcast_to(np.asarray(state[0])[:, None], (B, T, H))
    np.testing.assert_allclose(np.asarray(theirs[0])[before], h[before], atol=1e-6)
    np.testing.assert_allclose(ours[0][~before], np.asarray(theirs[0])[~before], atol=2e-6)
    oracle.assert_close(ours[1], list(theirs[1:]), 2e-6)


@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU"])
def test_last_output_is_that_of_the_last_step_that_counts_unlike_in_keras(name: str) -> None:
    # Keras' documentation says that the option matters for sequences only, but its last output is zeros, too.
    options = {"mask": HOLES, "zero_output_for_mask": True}
    ours, theirs = run_both(CELLS[name], options)
    padded = ~HOLES[:, -1]
    np.testing.assert_array_equal(np.asarray(theirs[0])[padded], 0)
    np.testing.assert_allclose(ours[0][padded], np.asarray(theirs[1])[padded], atol=2e-6)
    assert np.all(np.asarray(ours[0])[padded] != 0)
    np.testing.assert_allclose(ours[0][~padded], np.asarray(theirs[0])[~padded], atol=2e-6)


def test_unrolling_honours_zero_output_for_mask_unlike_in_keras_on_jax() -> None:
    options = SEQUENCES | {"mask": HOLES, "zero_output_for_mask": True, "unroll": True}
    ours, theirs = run_both(CELLS["LSTM"], options)
    np.testing.assert_array_equal(ours[0][~HOLES], 0)
    assert np.all(np.asarray(theirs[0])[~HOLES] != 0)
    np.testing.assert_allclose(ours[0][HOLES], np.asarray(theirs[0])[HOLES], atol=2e-6)


def test_stacks_of_one_cell_work_unlike_in_keras_on_jax() -> None:
    stack = StackedRNNCells((LSTMCell(H),))
    weights, _, x = problem(stack)
    layer = keras.layers.RNN([keras.layers.LSTMCell(H)])
    with pytest.raises(TypeError, match="carry"):
        layer(x)
    expected = rnn(stack.cells[0], weights[0], x, return_state=True)
    oracle.assert_close(rnn(stack, weights, x, return_state=True), expected, 1e-6)


class Doubling(keras.layers.Layer):
    """A cell whose output is twice its state."""

    state_size = output_size = D

    def call(self, inputs: Any, states: Any) -> Any:
        h = inputs + states[0]
        return 2 * h, [h]


def test_masked_steps_repeat_outputs_not_states_unlike_in_keras_on_jax() -> None:
    # ``test_keras_literals`` has a cell of this kind in ``rnn``, with the output carried as it is.
    outputs = keras.layers.RNN(Doubling(), return_sequences=True)(np.ones((B, T, D), np.float32), mask=HOLES)
    np.testing.assert_array_equal(np.asarray(outputs)[0, :, 0], [2, 1, 4, 6])


def test_masks_go_with_initial_states_unlike_in_keras() -> None:
    # Keras uses the mask of an embedding only where that is the sole argument.
    cell, ids = CELLS["GRU"], np.array([[1, 2, 3, 0], [4, 0, 0, 0], [1, 1, 1, 1]])
    weights, state, _ = problem(cell)
    layer, embedded = keras_layer(cell), keras.layers.Embedding(5, D, mask_zero=True)(ids)
    layer.build(embedded.shape)
    layer.set_weights(arrays(weights))
    x, mask = jnp.asarray(embedded), ids != 0
    np.testing.assert_allclose(layer(embedded), layer(x, mask=mask), atol=1e-6)
    np.testing.assert_array_equal(layer(embedded, initial_state=state), layer(x, initial_state=state))
    ours = rnn(cell, weights, x, initial_state=state, mask=mask)
    np.testing.assert_allclose(ours, layer(x, initial_state=state, mask=mask), atol=2e-6)
    assert np.abs(ours - layer(embedded, initial_state=state))[:2].max() > 1e-3


def test_a_masking_layer_is_a_mask() -> None:
    cell = CELLS["GRU"]
    weights, _, x = problem(cell)
    x = jnp.where(HOLES[..., None], x, 0.5)
    layer = keras_layer(cell)
    theirs = keras.Sequential([keras.layers.Masking(0.5), layer])
    theirs.build(x.shape)
    layer.set_weights(arrays(weights))
    np.testing.assert_allclose(rnn(cell, weights, x, mask=jnp.any(x != 0.5, -1)), theirs(x), atol=2e-6)
    assert np.abs(layer(x) - theirs(x)).max() > 1e-3


def test_outputs_and_mask_can_have_one_order_unlike_in_keras() -> None:
    # Keras reverses the outputs and not the mask that it hands on with them.
    cell = CELLS["GRU"]
    weights, _, x = problem(cell)
    options: dict[str, Any] = SEQUENCES | {"go_backwards": True, "mask": LEADING}
    assert np.array_equal(keras_layer(cell, go_backwards=True, return_sequences=True).compute_mask(x, LEADING), LEADING)
    ours = rnn(cell, weights, x, keep_order=True, **options)
    np.testing.assert_array_equal(ours[:, ::-1], rnn(cell, weights, x, **options))


def test_masked_nans_reach_no_gradient_unlike_in_keras() -> None:
    cell = CELLS["LSTM"]
    weights, _, x = problem(cell)
    x = jnp.where(HOLES[..., None], x, np.nan)
    layer = keras_layer(cell)
    layer.build(x.shape)
    others = [variable.value for variable in layer.non_trainable_variables]
    theirs = jax.grad(lambda w: layer.stateless_call(w, others, x, mask=jnp.asarray(HOLES))[0].sum())(arrays(weights))
    assert all(np.any(np.isnan(gradient)) for gradient in theirs)
    ours = jax.grad(lambda w: rnn(cell, w, x, mask=HOLES).sum())(weights)
    assert all(np.all(np.isfinite(gradient)) for gradient in jax.tree.leaves(ours))


def test_states_and_steps_are_checked_unlike_in_keras() -> None:
    _, state, x = problem(CELLS["LSTM"])
    h: Any = state[0]
    assert keras_layer(CELLS["GRU"])(x, initial_state=[h, h]).shape == (B, H)
    for error, theirs, ours in [
        (IndexError, lambda: keras_layer(CELLS["LSTM"])(x, initial_state=h), {"initial_state": h}),
        (IndexError, lambda: keras_layer(CELLS["LSTM"])(x[:, :0]), {"inputs": x[:, :0]}),
    ]:
        with pytest.raises(error):
            theirs()
        with pytest.raises(ValueError, match=rf"^{next(iter(ours))}: expected"):
            rnn(CELLS["LSTM"], problem(CELLS["LSTM"])[0], **(dict[str, Any](inputs=x) | ours))
    with pytest.raises(ValueError, match=r"^initial_state: expected"):
        rnn(CELLS["GRU"], problem(CELLS["GRU"])[0], x, initial_state=[h, h])


def test_keras_does_not_use_the_weights_of_a_pair() -> None:
    x = problem(CELLS["GRU"])[2]
    weights = [np.ones(shape, np.float32) for shape in [(D, 3 * H), (H, 3 * H), (2, 3 * H)] * 2]
    layer = keras.layers.Bidirectional(keras.layers.GRU(H), weights=weights)
    layer.build(x.shape)
    assert not np.any([np.array_equal(one, given) for one, given in zip(layer.get_weights(), weights, strict=True)])
