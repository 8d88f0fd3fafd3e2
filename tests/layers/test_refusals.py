"""What makes no sense is refused in the same words, whatever evaluates the loop."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_rnn
from flax_rnn import DropoutMasks, GRUCell, LSTMCell, SimpleRNNCell, StackedRNNCells
from flax_rnn.implementations.native import library

B, T, D, H = 2, 4, 3, 4
X: Any = np.random.default_rng(0).normal(size=(B, T, D)).astype("f4")
IMPLEMENTATIONS = [
    pytest.param("native", marks=pytest.mark.skipif(library.absent() is not None, reason=str(library.absent()))),
    "fused",
    "scan",
]
LSTM, GRU, STACK = LSTMCell(H), GRUCell(H), StackedRNNCells((LSTMCell(H), GRUCell(2)))
EVERY = "kernel, recurrent_kernel, bias"


def ones(*shape: int) -> Any:
    return jnp.ones(shape, jnp.float32)


def weights(cell: Any, **others: Any) -> Any:
    """Those of a cell; ``others`` in the place of some of them, or ``None`` to leave one out."""
    params = flax_rnn.Cell.init_params(cell, jax.random.key(0), D) | others
    return {name: value for name, value in params.items() if value is not None}


def of_stack(*changes: Any) -> Any:
    return (weights(LSTM), GRUCell(2).init_params(jax.random.key(0), H), *changes)


def masked(inputs: Any = None, recurrent: Any = None) -> dict[str, Any]:
    return {"dropout_masks": DropoutMasks(inputs, recurrent)}


# Cell, weights, further arguments, error, and the words it begins with.
REFUSED: dict[str, tuple[Any, Callable[[], Any], dict[str, Any], type[Exception], str]] = {
    "bias of one for all": (SimpleRNNCell(64), lambda: weights(SimpleRNNCell(64), bias=ones(1)), {}, ValueError,
                            "params: expected bias of shape (64,), got (1,)"),
    "bias of one gate": (LSTM, lambda: weights(LSTM, bias=ones(4)), {}, ValueError,
                         "params: expected bias of shape (16,), got (4,)"),
    "bias with an axis": (LSTM, lambda: weights(LSTM, bias=ones(1, 16)), {}, ValueError,
                          "params: expected bias of shape (16,), got (1, 16)"),
    "bias of one number a gate": (GRU, lambda: weights(GRU, bias=ones(2, 3)), {}, ValueError,
                                  "params: expected bias of shape (2, 12), got (2, 3)"),
    "two biases for a reset before": (GRUCell(H, reset_after=False), lambda: weights(GRU), {}, ValueError,
                                      "params: expected bias of shape (12,), got (2, 12)"),
    "one bias for a reset after": (GRU, lambda: weights(GRU, bias=ones(12)), {}, ValueError,
                                   "params: expected bias of shape (2, 12), got (12,)"),
    "no bias": (LSTM, lambda: weights(LSTM, bias=None), {}, ValueError,
                f"params: expected entries {EVERY}, got kernel, recurrent_kernel"),
    "a bias too many": (LSTMCell(H, use_bias=False), lambda: weights(LSTM), {}, ValueError,
                        "params: expected entries kernel, recurrent_kernel, got "),
    "kernel of another cell": (LSTM, lambda: weights(LSTM, kernel=ones(D, 12)), {}, ValueError,
                               "params: expected kernel of shape (3, 16), got (3, 12)"),
    "recurrent kernel of a column": (LSTM, lambda: weights(LSTM, recurrent_kernel=ones(1, 16)), {}, ValueError,
                                     "params: expected recurrent_kernel of shape (4, 16), got (1, 16)"),
    "inputs of one feature": (LSTM, lambda: weights(LSTM), {"inputs": X[..., :1]}, ValueError,
                              "inputs: expected 3 features in the last axis, got 1"),
    "None": (LSTM, lambda: None, {}, TypeError, f"params: expected a dict of {EVERY}, got NoneType"),
    "a list": (LSTM, lambda: [*weights(LSTM).values()], {}, TypeError, f"params: expected a dict of {EVERY}, got list"),
    "numbers": (LSTM, lambda: weights(LSTM, bias=[0.0] * 16), {}, TypeError,
                "params: expected bias of floating-point numbers, got list"),
    "complex weights": (GRU, lambda: weights(GRU, kernel=ones(D, 12) * 1j), {}, TypeError,
                        "params: expected kernel of floating-point numbers, got complex64"),
    "integer weights": (GRU, lambda: weights(GRU, recurrent_kernel=jnp.ones((H, 12), int)), {}, TypeError,
                        "params: expected recurrent_kernel of floating-point numbers, got int32"),
    "a stack's without the last": (STACK, lambda: of_stack()[:1], {}, ValueError,
                                   "params: expected one entry for each of 2 cells, got ("),
    "a stack's and one more": (STACK, lambda: of_stack({}), {}, ValueError,
                               "params: expected one entry for each of 2 cells, got ("),
    "a stack's None": (STACK, lambda: None, {}, ValueError, "params: expected one entry for each of 2 cells, got None"),
    "a stack's of a cell": (STACK, lambda: weights(LSTM), {}, ValueError,
                            "params: expected one entry for each of 2 cells, got {"),
    "a stack's with None": (STACK, lambda: (of_stack()[0], None), {}, TypeError,
                            f"params[1]: expected a dict of {EVERY}, got NoneType"),
    "a stack's upside down": (STACK, lambda: of_stack()[::-1], {}, ValueError,
                              "params[0]: expected kernel of shape (4, 16), got (4, 6)"),
    "a class": (LSTMCell, lambda: weights(LSTM), {}, TypeError,
                "cell: expected a cell, got the class LSTMCell; call it with its arguments"),
    "a name": ("LSTM", lambda: weights(LSTM), {}, TypeError, "cell: expected a recurrent cell, got 'LSTM'"),
    "three masks of inputs": (LSTM, lambda: weights(LSTM), masked((ones(B, D),) * 3), ValueError,
                              "dropout_masks: inputs: expected a tuple of 1 or 4 masks, got 3"),
    "two masks of the state": (GRU, lambda: weights(GRU), masked(None, (ones(B, H),) * 2), ValueError,
                               "dropout_masks: recurrent: expected a tuple of 1 or 3 masks, got 2"),
    "a mask by itself": (LSTM, lambda: weights(LSTM), masked(ones(B, D)), ValueError,
                         "dropout_masks: inputs: expected a tuple of 1 or 4 masks, got ArrayImpl"),
    "masks of another width": (LSTM, lambda: weights(LSTM), masked((ones(B, D),), (ones(B, D),)), ValueError,
                               "dropout_masks: recurrent: expected masks of shape (2, 4), got (2, 3)"),
    "a tuple of masks": (LSTM, lambda: weights(LSTM), {"dropout_masks": [ones(B, D)]}, TypeError,
                         "dropout_masks: expected DropoutMasks, got list"),
    "masks of one cell": (STACK, of_stack, {"dropout_masks": (None,)}, ValueError,
                          "dropout_masks: expected one entry for each of 2 cells, got (None,)"),
}  # fmt: skip


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_the_same_words(name: str, implementation: str) -> None:
    cell, build, arguments, error, message = REFUSED[name]
    given: dict[str, Any] = {"inputs": X, "implementation": implementation, **arguments}
    with pytest.raises(error, match="^" + re.escape(message)):
        flax_rnn.rnn(cell, build(), **given)


@pytest.mark.parametrize("name", [name for name, entry in REFUSED.items() if "params" in entry[-1][:6]])
def test_a_single_step_refuses_weights_in_the_same_words(name: str) -> None:
    cell, build, _, error, message = REFUSED[name]
    # A stack by itself says how many weights it wants, and `rnn` what it got.
    message = message.split(" one entry for")[0]
    with pytest.raises(error, match="^" + re.escape(message)):
        flax_rnn.apply_cell(cell, build(), flax_rnn.zero_carry(cell, (B, D)), X[:, 0])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("mode", ["sum", "ave", "mul"])
def test_outputs_of_different_sizes_are_not_merged(mode: str, implementation: str) -> None:
    cells = SimpleRNNCell(H), SimpleRNNCell(2)
    params = tuple(weights(cell) for cell in cells)
    both: Any = (cells, params, X)
    message = f"merge_mode: expected 'concat' or None for outputs of different shapes, (2, 4) and (2, 2), got {mode!r}"
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        flax_rnn.bidirectional(*both, merge_mode=mode, implementation=implementation)
    assert flax_rnn.bidirectional(*both, implementation=implementation).shape == (B, H + 2)


class Complete:
    """A cell that does not inherit from ``Cell``: ``h' = h + x``."""

    num_feature_axes = 1
    has_dropout = False

    def init_params(self, key: Any, in_features: int) -> Any:
        return {}

    def output_size(self, in_features: int) -> int:
        return in_features

    def dropout_masks(self, key: Any, inputs: Any) -> Any:
        return None

    def project(self, params: Any, inputs: Any, masks: Any = None, dot: Any = None) -> Any:
        return inputs

    def initial_carry(self, params: Any, projected: Any) -> Any:
        return jnp.zeros_like(projected)

    def prepare(self, params: Any, projected: Any, masks: Any = None) -> Any:
        return params

    def step(self, weights: Any, carry: Any, projected: Any, affine: Any = None) -> Any:
        return carry + projected, carry + projected


MEMBERS = [name for name in vars(Complete) if not name.startswith("_")]


def without(*names: str) -> Any:
    """A ``Complete`` that lacks some of its members."""
    return type("Partial", (), {name: value for name, value in vars(Complete).items() if name not in names})()


@pytest.mark.parametrize("member", MEMBERS)
def test_a_missing_member_of_a_cell_is_named(member: str) -> None:
    partial, message = without(member), f"expected a recurrent cell, got a Partial without {member}"
    with pytest.raises(TypeError, match=f"^cell: {message}$"):
        flax_rnn.rnn(partial, {}, X)
    with pytest.raises(TypeError, match=rf"^cells\[1\]: {message}$"):
        StackedRNNCells((LSTM, partial))


def test_all_missing_members_are_named_and_a_cell_with_all_of_them_runs() -> None:
    assert len(MEMBERS) == 9
    outputs = flax_rnn.rnn(without("__doc__"), {}, X, return_sequences=True)
    np.testing.assert_allclose(outputs, np.cumsum(X, 1), rtol=1e-5, atol=1e-6)
    with pytest.raises(TypeError, match=r"^cell: .* got a Partial without project, step$"):
        flax_rnn.rnn(without("step", "project"), {}, X)

    class Half(flax_rnn.Cell):
        def output_size(self, in_features: int) -> int:
            return 1

    build: Any = Half
    with pytest.raises(TypeError, match=r"initial_carry.*param_specs.*project.*step"):
        build()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_lengths_beyond_32_bits_are_the_whole_sequence(dtype: Any, implementation: str) -> None:
    """Their lower half would be three steps, or none."""
    cell = SimpleRNNCell(H)
    params = weights(cell)
    options: dict[str, Any] = {"return_sequences": True, "implementation": implementation}
    outputs = flax_rnn.rnn(cell, params, X, seq_lengths=np.array([2**32 + 3, 2**32], dtype), **options)
    np.testing.assert_array_equal(outputs, flax_rnn.rnn(cell, params, X, mask=np.ones((B, T), bool), **options))
    assert np.abs(outputs[0, 3] - outputs[0, 2]).min() > 1e-6


def test_lengths_below_32_bits_are_no_step() -> None:
    cell = SimpleRNNCell(H)
    outputs = flax_rnn.rnn(cell, weights(cell), X, seq_lengths=np.array([3 - 2**32, 4]), return_sequences=True)
    assert not np.any(outputs[0]) and np.all(outputs[1])
    listed = flax_rnn.rnn(cell, weights(cell), X, seq_lengths=[3 - 2**32, 2**32 + 4], return_sequences=True)
    np.testing.assert_array_equal(listed, outputs)


def test_lengths_that_are_no_numbers() -> None:
    cell = SimpleRNNCell(H)
    with pytest.raises(TypeError, match=r"seq_lengths: expected integers, got \['4', '2'\]"):
        flax_rnn.rnn(cell, weights(cell), X, seq_lengths=["4", "2"])


@pytest.mark.parametrize("jitted", [False, True])
def test_lengths_of_64_bits_within_jax(jitted: bool) -> None:
    with jax.enable_x64():
        cell = SimpleRNNCell(H)
        params = weights(cell)
        run: Any = lambda lengths: flax_rnn.rnn(cell, params, X, seq_lengths=lengths)  # noqa: E731
        lengths = [2**32 + 3, 2]
        ours = jax.jit(run)(jnp.array(lengths)) if jitted else run(lengths)
        np.testing.assert_allclose(ours, run(jnp.array([T, 2], jnp.int8)), rtol=1e-6)
        assert np.abs(ours - run(jnp.array([3, 2]))).max() > 1e-3
