"""The time loop: every option against the oracle, in values and gradients; structure, transformations and errors."""

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from flax_rnn import GRUCell, LSTMCarry, LSTMCell, SequenceOptions, SimpleRNNCell, StackedRNNCells, rnn

B, T, D, H = 4, 5, 3, 2
CELLS = {
    "SimpleRNN": SimpleRNNCell(H),
    "LSTM": LSTMCell(H, recurrent_activation="hard_sigmoid"),
    "GRU": GRUCell(H),
    "GRU_before": GRUCell(H, reset_after=False),
    "stack": StackedRNNCells((LSTMCell(H), GRUCell(H))),
}
# With holes, masked at the start, masked throughout, and not at all.
MASK: Any = np.array([[1, 0, 1, 1, 0], [0, 0, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
LENGTHS: Any = np.array([3, 5, 0, 1])
OPTIONS: dict[str, dict[str, Any]] = {
    "last": {},
    "sequences": {"return_sequences": True},
    "backwards": {"go_backwards": True, "return_sequences": True, "mask": MASK},
    "keep_order": {"go_backwards": True, "keep_order": True, "return_sequences": True, "mask": MASK},
    "zeros": {"zero_output_for_mask": True, "return_sequences": True, "mask": MASK},
    "last_zeros": {"zero_output_for_mask": True, "mask": MASK},
    "last_backwards": {"go_backwards": True, "mask": MASK},
    "lengths": {"seq_lengths": LENGTHS, "return_sequences": True, "unroll": 3},
    "time_major": {"time_major": True, "return_sequences": True, "mask": MASK.T, "go_backwards": True},
}


@pytest.fixture(autouse=True)
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def problem(cell: Any, batch: int = B, steps: int = T, seed: int = 0) -> tuple[Any, Any, Any]:
    """Weights, inputs and initial state."""
    rng = np.random.default_rng(seed)
    weights, state = oracle.random_weights(cell, D, rng), oracle.random_state(cell, batch, rng)
    return jax.tree.map(jnp.asarray, weights), rng.normal(size=(batch, steps, D)), state


def expect(cell: Any, weights: Any, x: np.ndarray, state: Any, options: dict[str, Any]) -> tuple[np.ndarray, Any]:
    options = {name: value for name, value in options.items() if name not in ("unroll", "implementation")}
    return oracle.run(oracle.of(cell, weights), x, state, **options)


@pytest.mark.each(1)
@pytest.mark.parametrize(
    ("name", "which"),
    [(n, w) for n in CELLS for w in OPTIONS if n in ("LSTM", "GRU") or w in ("sequences", "last_zeros", "backwards")],
)
def test_outputs_state_and_gradients_equal_the_oracle(name: str, which: str) -> None:
    cell, options = CELLS[name], OPTIONS[which]

    def loss(point: Any) -> Any:
        weights, x, state = point
        result = rnn(cell, weights, x, initial_state=state, return_state=True, **options)
        return oracle.weighted_sum(1, result), result

    weights, x, state = problem(cell)
    point = weights, x.swapaxes(0, 1) if options.get("time_major") else x, state
    gradients, result = jax.jit(jax.grad(loss, has_aux=True))(point)
    oracle.assert_close(result, expect(cell, *point, options))
    expected = oracle.central_differences(lambda p: oracle.weighted_sum(1, expect(cell, *p, options=options)), point)
    oracle.assert_close(gradients, expected, 1e-6)


@pytest.mark.full
@given(st.data())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_any_options_equal_the_oracle(data: st.DataObject) -> None:
    cell = CELLS[data.draw(st.sampled_from(list(CELLS)))]
    batch, steps = data.draw(st.sampled_from([1, 3])), data.draw(st.sampled_from([1, 2, 5]))
    flags = ("return_sequences", "go_backwards", "keep_order", "zero_output_for_mask", "time_major")
    options: dict[str, Any] = {flag: data.draw(st.booleans(), flag) for flag in flags}
    options["unroll"] = data.draw(st.sampled_from([False, True, 2, 7]))
    options["implementation"] = data.draw(st.sampled_from(["auto", "scan"]))
    match data.draw(st.sampled_from(["mask", "mask", "seq_lengths", "none"])):
        case "mask":
            bits = data.draw(st.lists(st.booleans(), min_size=batch * steps, max_size=batch * steps))
            mask = np.array(bits).reshape(batch, steps)
            options["mask"] = mask.T if options["time_major"] else mask
        case "seq_lengths":
            options["seq_lengths"] = np.array(
                data.draw(st.lists(st.integers(0, steps), min_size=batch, max_size=batch))
            )
        case _:
            pass
    weights, x, state = problem(cell, batch, steps, data.draw(st.integers(0, 99)))
    state = state if data.draw(st.booleans()) else None
    x = x.swapaxes(0, 1) if options["time_major"] else x
    result = jax.jit(lambda *p: rnn(cell, p[0], p[1], initial_state=p[2], return_state=True, **options))(
        weights, x, state
    )
    oracle.assert_close(result, expect(cell, weights, x, state, options))


@pytest.mark.each(1, at_most=3)
@pytest.mark.parametrize("name", CELLS)
def test_padding_changes_nothing(name: str) -> None:
    cell = CELLS[name]
    weights, x, state = problem(cell)
    plain = jax.jit(lambda x: rnn(cell, weights, x, initial_state=state, return_state=True))(x)
    noise = np.random.default_rng(5).normal(size=(B, 2, D))
    padded = np.concatenate([noise, x[:, :2], noise[:, :1], x[:, 2:], noise], axis=1)
    mask = jnp.broadcast_to(np.array([0, 0, 1, 1, 0, 1, 1, 1, 0, 0], bool), (B, 10))
    masked = jax.jit(lambda x: rnn(cell, weights, x, initial_state=state, mask=mask, return_state=True))(padded)
    oracle.assert_close(masked, plain, 1e-12)


@pytest.mark.each(1)
@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("name", CELLS)
def test_masked_inputs_poison_nothing(name: str, poison: float) -> None:
    cell = CELLS[name]
    weights, x, state = problem(cell)

    @jax.jit
    def run(weights: Any, x: Any, state: Any) -> Any:
        def loss(*point: Any) -> Any:
            weights, x, state = point
            result = rnn(cell, weights, x, initial_state=state, mask=MASK, return_sequences=True, return_state=True)
            return oracle.weighted_sum(1, result), result

        return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(weights, x, state)

    clean = run(weights, x, state)
    poisoned = run(weights, np.where(MASK[:, :, None], x, poison), state)
    oracle.assert_close(poisoned, clean, 1e-12)
    np.testing.assert_array_equal(poisoned[1][1][~MASK], 0)
    assert np.any(np.asarray(poisoned[1][1])[MASK] != 0)


@pytest.mark.parametrize("masking", [{"mask": MASK}, {"seq_lengths": LENGTHS}], ids=["mask", "lengths"])
@pytest.mark.parametrize("name", ["LSTM", "stack"])
def test_a_fully_masked_row_returns_its_initial_state(name: str, masking: dict[str, Any]) -> None:
    cell = CELLS[name]
    weights, x, state = problem(cell)
    output, carry = jax.jit(lambda x: rnn(cell, weights, x, initial_state=state, return_state=True, **masking))(x)
    for ours, initial in zip(jax.tree.leaves(carry), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(ours[2], initial[2])
    np.testing.assert_array_equal(output[2], np.zeros(H))


@pytest.mark.parametrize("name", ["LSTM", "stack"])
def test_state_continues_a_sequence(name: str) -> None:
    cell = CELLS[name]
    weights, x, state = problem(cell)
    run = jax.jit(lambda x, s: rnn(cell, weights, x, initial_state=s, return_state=True))
    whole = run(x, state)
    oracle.assert_close(run(x[:, 3:], run(x[:, :3], state)[1]), whole, 1e-12)


@pytest.mark.each(1, at_most=2)
@pytest.mark.parametrize("name", CELLS)
def test_vmap(name: str) -> None:
    cell = CELLS[name]
    problems = [problem(cell, seed=seed) for seed in range(3)]
    masks: Any = np.stack([MASK, ~MASK, np.roll(MASK, 1, 0)])

    def run(weights: Any, x: Any, state: Any, mask: Any) -> Any:
        return rnn(cell, weights, x, initial_state=state, mask=mask, return_sequences=True, return_state=True)

    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *problems)
    batched = jax.jit(jax.vmap(run))(*stacked, masks)
    ensemble = jax.jit(jax.vmap(run, in_axes=(0, None, None, None)))(stacked[0], *problems[0][1:], MASK)
    for k, (weights, x, state) in enumerate(problems):
        one = jax.tree.map(lambda leaf, k=k: leaf[k], batched)
        oracle.assert_close(one, expect(cell, weights, x, state, {"mask": masks[k], "return_sequences": True}))
        one = jax.tree.map(lambda leaf, k=k: leaf[k], ensemble)
        oracle.assert_close(one, expect(cell, weights, *problems[0][1:], {"mask": MASK, "return_sequences": True}))


def test_checkpoint_leaves_gradients_as_they_are() -> None:
    cell = CELLS["LSTM"]
    weights, x, state = problem(cell)

    def loss(weights: Any) -> Any:
        return oracle.weighted_sum(1, rnn(cell, weights, x, initial_state=state, return_sequences=True))

    oracle.assert_close(jax.jit(jax.grad(jax.checkpoint(loss)))(weights), jax.jit(jax.grad(loss))(weights), 1e-12)


@pytest.mark.each(1, at_most=1)
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_forward_mode_and_second_derivatives(name: str) -> None:
    cell = dataclasses.replace(CELLS[name], recurrent_activation="sigmoid")
    weights, x, state = problem(cell, batch=2, steps=2)

    def loss(bias: Any, implementation: str) -> Any:
        options: dict[str, Any] = {"mask": MASK[:2, :2], "implementation": implementation}
        return oracle.weighted_sum(1, rnn(cell, weights | {"bias": bias}, x, initial_state=state, **options))

    bias = weights["bias"]
    check_grads(jax.jit(lambda bias: loss(bias, "scan")), (bias,), order=1, modes=("fwd", "rev"))
    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    direction = np.random.default_rng(2).normal(size=bias.shape)
    step = 1e-5 * direction
    expected = (gradient(bias + step, "scan") - gradient(bias - step, "scan")) / 2e-5
    # The loop's own backward pass can be differentiated again in reverse; there is no forward mode for it.
    for hessian in (
        jax.jit(jax.hessian(loss), static_argnums=1)(bias, "scan"),
        jax.jit(jax.jacrev(jax.grad(loss)), static_argnums=1)(bias, "auto"),
    ):
        oracle.assert_close(jnp.tensordot(hessian, direction, direction.ndim), expected, 1e-6)


@pytest.mark.parametrize(("unroll", "steps"), [(False, 1), (True, T), (3, 3)])
def test_unroll_sets_the_steps_of_an_iteration(unroll: bool | int, steps: int) -> None:
    cell = CELLS["GRU"]
    weights, x, _ = problem(cell)
    jaxpr = jax.make_jaxpr(lambda x: rnn(cell, weights, x, unroll=unroll))(x)
    scans = [e for e, _ in oracle.equations(jaxpr.jaxpr) if e.primitive.name == "scan"]
    assert [scan.params["unroll"] for scan in scans] == [steps]


@pytest.mark.parametrize(("dropout", "recurrent"), [(0.0, 0.0), (0.5, 0.0), (0.5, 0.5)])
@pytest.mark.parametrize("unroll", [False, 2])
def test_inputs_are_projected_outside_of_the_loop(dropout: float, recurrent: float, unroll: bool | int) -> None:
    features = 17  # a size that nothing else has
    cell = LSTMCell(H, dropout=dropout, recurrent_dropout=recurrent)
    weights = cell.init_params(jax.random.key(0), features)
    run = jax.make_jaxpr(lambda x: rnn(cell, weights, x, dropout_key=jax.random.key(1), unroll=unroll))
    equations = list(oracle.equations(run(jnp.ones((B, T, features))).jaxpr))
    assert sum(e.primitive.name == "scan" for e, _ in equations) == 1
    dots = [(e, inside) for e, inside in equations if e.primitive.name == "dot_general"]
    of_inputs = [(v.aval.ndim, inside) for e, inside in dots for v in e.invars[:1] if features in v.aval.shape]
    assert of_inputs == [(3, False)] * cell.num_gates, "all steps at once"
    assert any(inside for _, inside in dots)


def test_lengths_may_have_any_integer_dtype() -> None:
    cell = CELLS["SimpleRNN"]
    weights, x, _ = problem(cell, batch=2, steps=300)
    lengths: Any = np.array([100, 7])
    expected = jax.jit(lambda x: rnn(cell, weights, x, seq_lengths=lengths))(x)
    for dtype in ("int8", "uint8"):
        oracle.assert_close(rnn(cell, weights, x, seq_lengths=lengths.astype(dtype)), expected, 1e-12)


def test_inputs_may_be_half_precision_or_integers() -> None:
    cell = LSTMCell(H, dtype=jnp.bfloat16)
    weights, x, _ = problem(cell)
    outputs, carry = rnn(cell, weights, x, return_sequences=True, return_state=True, mask=MASK)
    assert (outputs.dtype, carry.h.dtype, carry.c.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    expected = oracle.run(oracle.of(cell, weights), x, mask=MASK, return_sequences=True)
    oracle.assert_close((outputs, carry), expected, 0.05)
    cell, whole = CELLS["GRU"], jnp.arange(B * T * D).reshape(B, T, D) % 3
    weights, _, _ = problem(cell)
    oracle.assert_close(rnn(cell, weights, whole), oracle.run(oracle.of(cell, weights), np.asarray(whole))[0])


def test_options_are_those_of_rnn() -> None:
    defaults = {name: p.default for name, p in inspect.signature(rnn).parameters.items() if p.kind == p.KEYWORD_ONLY}
    values = {"initial_state", "mask", "seq_lengths", "resets", "constants", "dropout_key", "dropout_masks"}
    assert defaults == dict.fromkeys(values)
    options = SequenceOptions().options
    assert {*options} == {field.name for field in dataclasses.fields(SequenceOptions)}
    cell, weights, x = CELLS["LSTM"], *problem(CELLS["LSTM"])[:2]
    oracle.assert_close(rnn(cell, weights, x, **options), rnn(cell, weights, x), 1e-12)
    with pytest.raises(TypeError, match="use_cudnn"):
        rnn(cell, weights, x, use_cudnn=True)
    assert SequenceOptions(unroll=3, keep_order=True).options["unroll"] == 3
    with pytest.raises(TypeError):
        SequenceOptions(True)  # pyright: ignore[reportCallIssue]


X: Any = np.ones((B, T, D))
GOOD: Any = [np.ones((B, H)), np.ones((B, H))]
ERRORS: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("LSTM", {"inputs": X[0, 0]}, ValueError, r"inputs: expected at least 2 axes \(\*batch, T, D\), got shape \(3,\)"),
    ("stack", {"inputs": 1.0}, ValueError, r"inputs: expected at least 2 axes \(\*batch, T, D\), got shape \(\)"),
    ("LSTM", {"inputs": X[0, 0], "time_major": True}, ValueError, r"inputs: expected at least 2 axes \(T, \*batch"),
    ("LSTM", {"inputs": X[:, :0]}, ValueError, r"inputs: expected at least one time step, got shape \(4, 0, 3\)"),
    ("stack", {"inputs": X[:0], "time_major": True}, ValueError, r"inputs: expected at least one time step, got .*0"),
    ("GRU", {"inputs": X[..., :2]}, ValueError, r"inputs: expected 3 features in the last axis, got 2"),
    ("stack", {"inputs": X[..., :2]}, ValueError, r"inputs: expected 3 features in the last axis, got 2"),
    ("GRU", {"inputs": X > 0}, TypeError, r"inputs: expected real numbers, got dtype bool"),
    ("LSTM", {"mask": MASK[:, :3]}, ValueError, r"mask: expected shape \(B, T\) = \(4, 5\), got \(4, 3\)"),
    ("stack", {"mask": MASK[..., None]}, ValueError, r"mask: expected shape \(B, T\) = \(4, 5\), got \(4, 5, 1\)"),
    ("LSTM", {"mask": MASK, "inputs": X.swapaxes(0, 1), "time_major": True}, ValueError,
     r"mask: expected shape \(T, B\) = \(5, 4\), got \(4, 5\)"),
    ("LSTM", {"mask": MASK * 1.0}, TypeError, r"mask: expected booleans, got dtype float64"),
    ("stack", {"mask": MASK * 1}, TypeError, r"mask: expected booleans, got dtype int"),
    ("LSTM", {"seq_lengths": LENGTHS * 1.0}, TypeError, r"seq_lengths: expected integers, got dtype float64"),
    ("stack", {"seq_lengths": LENGTHS[:3]}, ValueError, r"seq_lengths: expected shape \(B,\) = \(4,\), got \(3,\)"),
    ("LSTM", {"seq_lengths": LENGTHS > 0}, TypeError, r"seq_lengths: expected integers, got dtype bool"),
    ("GRU", {"mask": MASK, "seq_lengths": LENGTHS}, ValueError, r"mask, seq_lengths: expected at most one .* got both"),
    ("GRU", {"implementation": "fast"}, ValueError, r"implementation: expected one of \('auto', .*, got 'fast'"),
    ("GRU", {"unroll": 0}, ValueError, r"unroll: expected a positive integer, got 0"),
    ("stack", {"unroll": -2}, ValueError, r"unroll: expected a positive integer, got -2"),
    ("GRU", {"unroll": 1.5}, ValueError, r"unroll: expected a positive integer, got 1\.5"),
    ("LSTM", {"initial_state": GOOD[0]}, ValueError,
     r"initial_state: expected LSTMCarry\(h=float64\(4, 2\), c=float64\(4, 2\)\), got float64\(4, 2\)"),
    ("LSTM", {"initial_state": [*GOOD, GOOD[0]]}, ValueError, r"initial_state: expected LSTMCarry\(.*, got \[float64"),
    ("LSTM", {"initial_state": LSTMCarry(GOOD[0], GOOD[1][:1])}, ValueError,
     r"initial_state: expected LSTMCarry.*, got .*c=float64\(1, 2\)\) \(they differ at initial_state\.c\)"),
    ("GRU", {"initial_state": GOOD}, ValueError, r"initial_state: expected float64\(4, 2\), got \[float64\(4, 2\), "),
    ("GRU", {"initial_state": GOOD[0][:, :1]}, ValueError, r"initial_state: expected float64\(4, 2\), got .*\(4, 1\)"),
    ("GRU", {"initial_state": GOOD[0].astype(int)}, TypeError, r"initial_state: expected floating-point .* int64"),
    ("stack", {"initial_state": [GOOD]}, ValueError,
     r"initial_state: expected one state for each of 2 cells, got \[\[float64"),
    ("stack", {"initial_state": [GOOD, np.ones((B, 3))]}, ValueError,
     r"initial_state\[1\]: expected float64\(4, 2\), got float64\(4, 3\)"),
    ("stack", {"initial_state": GOOD[0]}, ValueError, r"initial_state: expected one state for each of 2 cells, got fl"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "error", "message"), ERRORS)
def test_errors(name: str, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    cell = CELLS[name]
    with pytest.raises(error, match="^" + message):
        rnn(cell, problem(cell)[0], **(dict[str, Any](inputs=X) | arguments))
