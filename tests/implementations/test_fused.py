"""The loop's own backward pass against the plain loop that jax differentiates, and the rule that selects."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import flax_rnn

B, T, D, H = 3, 5, 4, 6

CELLS: dict[str, Any] = {
    "SimpleRNN": flax_rnn.SimpleRNNCell(H, recurrent_dropout=0.3),
    "LSTM": flax_rnn.LSTMCell(H, dropout=0.2, recurrent_dropout=0.3),
    "LSTM relu, no bias": flax_rnn.LSTMCell(H, "relu", recurrent_activation="hard_sigmoid", use_bias=False),
    "GRU": flax_rnn.GRUCell(H, recurrent_dropout=0.3),
    "GRU reset before": flax_rnn.GRUCell(H, reset_after=False, dropout=0.2, recurrent_dropout=0.3),
    "stack": flax_rnn.StackedRNNCells((flax_rnn.LSTMCell(5), flax_rnn.GRUCell(H, recurrent_dropout=0.2))),
}


def problem(cell: Any, seed: int = 0, steps: int = T) -> tuple[Any, jax.Array, Any, jax.Array]:
    """Random weights, inputs, initial carry and a mask with holes and an empty row, in float64."""
    rng = np.random.default_rng(seed)

    def draw(like: Any) -> jax.Array:
        return jnp.asarray(rng.normal(0, 0.5, like.shape))

    params = jax.tree.map(draw, cell.init_params(jax.random.key(0), D))
    carry = jax.tree.map(draw, flax_rnn.zero_carry(cell, (B, D)))
    mask = jnp.asarray(rng.random((B, steps)) < 0.6).at[1].set(False)
    return params, draw(np.empty((B, steps, D))), carry, mask


def loss(cell: Any, implementation: str, mask: Any, **options: Any) -> Any:
    def evaluate(params: Any, x: jax.Array, carry: Any) -> jax.Array:
        outputs, last = flax_rnn.rnn(
            cell, params, x, initial_state=carry, mask=mask, return_state=True, dropout_key=jax.random.key(7),
            implementation=implementation, **options,
        )  # fmt: skip
        return sum((jnp.sum(jnp.sin(3 * leaf)) for leaf in jax.tree.leaves((outputs, last))), start=jnp.zeros(()))

    return evaluate


def assert_close(actual: Any, expected: Any) -> None:
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-11, atol=1e-11), actual, expected)


@pytest.mark.each(1, at_most=2)
@pytest.mark.parametrize(
    ("name", "masked", "options"),
    [(name, True, {"return_sequences": True, "go_backwards": True}) for name in CELLS]
    + [
        ("LSTM", False, {}),
        ("GRU", True, {}),
        ("LSTM", True, {"return_sequences": True, "zero_output_for_mask": True, "unroll": 2}),
    ],
)
def test_values_and_gradients_equal_those_of_the_plain_loop(name: str, masked: bool, options: dict[str, Any]) -> None:
    with jax.enable_x64():
        cell = CELLS[name]
        params, x, carry, mask = problem(cell)
        scan, own = (
            jax.jit(jax.value_and_grad(loss(cell, implementation, mask if masked else None, **options), (0, 1, 2)))(
                params, x, carry
            )
            for implementation in ("scan", "fused")
        )
        assert_close(own, scan)


@pytest.mark.full
@pytest.mark.parametrize("name", ["LSTM", "GRU reset before"])
def test_it_can_be_differentiated_again(name: str) -> None:
    with jax.enable_x64():
        cell = CELLS[name]
        params, x, carry, mask = problem(cell)
        expected = jax.jit(jax.hessian(loss(cell, "scan", mask)))(params, x, carry)
        assert_close(jax.jit(jax.hessian(loss(cell, "fused", mask)))(params, x, carry), expected)
        twice = jax.jacrev(jax.grad(loss(cell, "fused", mask)))
        assert_close(jax.jit(twice)(params, x, carry), expected)


def test_forward_mode_is_refused_rather_than_wrong() -> None:
    cell = CELLS["LSTM"]
    params, x, carry, _ = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), problem(cell))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: loss(cell, "fused", None)(params, x, carry), (x,), (x,))
    _, tangent = jax.jvp(lambda x: loss(cell, "scan", None)(params, x, carry), (x,), (x,))
    assert jnp.isfinite(tangent)


def loops(jaxpr: Any) -> list[Any]:
    """The bodies of all scans in a jaxpr, from the outside in."""
    found = []
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", None)
            if inner is not None:
                found += [inner] * (equation.primitive.name == "scan") + loops(inner)
    return found


def dot_shapes(jaxpr: Any) -> list[tuple[int, ...]]:
    return [e.outvars[0].aval.shape for e in jaxpr.eqns if e.primitive.name == "dot_general"]


def test_no_weight_gradient_is_formed_within_the_loop() -> None:
    cell = flax_rnn.LSTMCell(H)
    params, x, carry, _ = problem(cell)
    gradients = {
        implementation: jax.make_jaxpr(jax.grad(loss(cell, implementation, None)))(params, x, carry)
        for implementation in ("scan", "fused")
    }
    inside = {name: [s for body in loops(j.jaxpr) for s in dot_shapes(body)] for name, j in gradients.items()}
    assert (4 * H, H) in inside["scan"], "the plain loop is expected to form them step by step"
    assert inside["fused"] == [(B, 4 * H), (B, H)], "one product forward, one backward"
    assert gradients["fused"].jaxpr.eqns


@pytest.mark.parametrize(("name", "arrays"), [("SimpleRNN", 2), ("LSTM", 6), ("GRU", 4)])
def test_the_backward_pass_needs_carries_and_products_only(name: str, arrays: int) -> None:
    """Per step: the carry, and one product a gate. Inputs of a projection that is added to a product are not kept."""
    cell = CELLS[name]
    params, x, carry, _ = problem(cell)
    jaxpr = jax.make_jaxpr(lambda *a: jax.vjp(loss(cell, "fused", None), *a)[1](jnp.ones(())))(params, x, carry)
    forward = next(e for e, _ in oracle.equations(jaxpr.jaxpr) if e.primitive.name == "scan")
    kept = [v.aval.shape for v in forward.outvars if v.aval.shape == (T, B, H)]
    assert len(kept) == arrays


def test_selection_can_be_asked() -> None:
    cell = flax_rnn.LSTMCell(2)
    choice = flax_rnn.choose(cell, dtype=jnp.float64)
    assert choice.implementation == "fused" and "float64" in choice.reason
    assert flax_rnn.choose(cell, "scan") == ("scan", "asked for")

    class Unhashable(flax_rnn.LSTMCell):
        __hash__ = None  # pyright: ignore[reportAssignmentType]

    choice = flax_rnn.choose(Unhashable(2))
    assert choice.implementation == "scan" and "hash" in choice.reason
    with pytest.raises(ValueError, match="implementation: 'fused' cannot be had: it needs a cell that can be hashed"):
        flax_rnn.choose(Unhashable(2), "fused")
    with pytest.raises(ValueError, match=r"implementation: expected one of .*, got 'quick'"):
        flax_rnn.rnn(cell, cell.init_params(jax.random.key(0), 3), jnp.ones((1, 2, 3)), implementation="quick")
