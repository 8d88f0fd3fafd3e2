"""What is chosen for which shape, and a layer that runs one implementation, or another where it is differentiated."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import flax_rnn
from flax_rnn.implementations import choice
from flax_rnn.implementations.either import Either
from flax_rnn.implementations.fused import Fused
from flax_rnn.implementations.native import Native, library
from flax_rnn.implementations.scan import Scan

KERNELS = pytest.mark.skipif(library.absent() is not None, reason=str(library.absent()))


@KERNELS
@pytest.mark.parametrize(
    ("cell", "shape", "plain", "training"),
    [
        (flax_rnn.LSTMCell(4), None, "native", "native"),
        (flax_rnn.LSTMCell(4), (1, 2), "native", "native"),
        (flax_rnn.LSTMCell(4), (64, 1), "native", "native"),
        (flax_rnn.GRUCell(4), (63, 1), "native", "fused"),
        (flax_rnn.GRUCell(4), (15, 1), "native", "scan"),
        (flax_rnn.SimpleRNNCell(4), (256, 1), "native", "fused"),
        (flax_rnn.ConvLSTM1DCell(4, 3), (2, 1), "fused", "scan"),
    ],
)
def test_it_depends_on_shape_and_on_what_is_asked_for(cell: Any, shape: Any, plain: str, training: str) -> None:
    assert flax_rnn.choose(cell, shape=shape).implementation == plain
    found = flax_rnn.choose(cell, shape=shape, training=True)
    assert found.implementation == training
    reasons = ("the gradients of a single step take less time without it", "no products of many steps to be joined")
    assert any(reason in found.reason for reason in reasons) == (training != plain)


@KERNELS
def test_a_layer_runs_what_the_rule_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are those of all batch axes."""
    asked: list[Any] = []
    monkeypatch.setattr(Native, "run", lambda self, loop, arrays: asked.append("native") or Scan().run(loop, arrays))
    monkeypatch.setattr(Native, "time_major", True)
    real = Fused.run
    monkeypatch.setattr(Fused, "run", lambda self, *arguments: asked.append("fused") or real(self, *arguments))
    cell = flax_rnn.GRUCell(3)
    weights = cell.init_params(jax.random.key(0), 2)

    def loss(weights: Any, x: Any) -> Any:
        return flax_rnn.rnn(cell, weights, x).sum()

    with jax.disable_jit():
        loss(weights, jnp.ones((4, 5, 1, 2)))
        jax.grad(loss)(weights, jnp.ones((4, 5, 1, 2)))
        jax.grad(loss)(weights, jnp.ones((8, 8, 1, 2)))
    assert asked == ["native", "fused", "native"]


@pytest.mark.each(1, full=2)
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize(
    "pair", [Either(Scan(), Fused()), pytest.param(Either(Native(), Scan()), marks=KERNELS)], ids=lambda p: p.name
)
def test_values_and_gradients(monkeypatch: pytest.MonkeyPatch, pair: Any, batch: Any, return_sequences: bool) -> None:
    """First and second derivatives, with masks and states, are those of float64."""
    cell, rng = flax_rnn.LSTMCell(3), np.random.default_rng(1)
    weights = oracle.random_weights(cell, 2, rng)
    state = flax_rnn.LSTMCarry(*rng.normal(size=(2, *batch, 3)))
    x, mask = rng.normal(size=(*batch, 4, 2)), rng.random((*batch, 4)) < 0.7

    def loss(weights: Any, x: Any, state: Any) -> Any:
        result = flax_rnn.rnn(
            cell, weights, x, initial_state=state, mask=mask, return_state=True, return_sequences=return_sequences
        )
        return oracle.weighted_sum(2, result)

    def all_of_it(*arguments: Any) -> Any:
        value, gradients = jax.value_and_grad(loss, (0, 1, 2))(*arguments)
        second = jax.grad(lambda x: oracle.weighted_sum(1, jax.grad(loss, 1)(arguments[0], x, arguments[2])))
        return value, gradients, second(arguments[1])

    monkeypatch.setattr(choice, "IMPLEMENTATIONS", [Scan()])
    with jax.enable_x64():
        exact = jax.jit(all_of_it)(weights, x, state)
    monkeypatch.setattr(choice, "IMPLEMENTATIONS", [pair])
    narrow = jax.tree.map(jnp.float32, (weights, x, state))
    oracle.assert_close(jax.jit(all_of_it)(*narrow), exact, 1e-4)
