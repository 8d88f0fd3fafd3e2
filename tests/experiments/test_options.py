"""Every option of the model and the optimizer does what it says."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments import imdb
from experiments.model import build
from experiments.optimizers import learning_rate, optimizer

TOKENS = np.random.default_rng(0).integers(1, 50, (6, 9)).astype(np.int32)
SMALL = ("--num-words", "50", "--embedding", "5", "--units", "7")


def model(*more: str, cell: str = "gru") -> Any:
    return build(cell, 0, imdb.parse([*SMALL, *more]))


def count(module: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def test_layers_and_directions_have_the_weights_that_they_should() -> None:
    one, two = 3 * (5 * 7 + 7 * 7 + 2 * 7), 3 * (7 * 7 + 7 * 7 + 2 * 7)
    assert count(model().recurrent) == one
    assert count(model("--layers", "2").recurrent) == one + two
    assert count(model("--bidirectional").recurrent) == 2 * one
    above = 3 * (14 * 7 + 7 * 7 + 2 * 7)
    both = model("--bidirectional", "--layers", "2")
    assert count(both.recurrent) == 2 * one + 2 * above and count(both.dense) == 15


@pytest.mark.parametrize("more", [(), ("--layers", "2")])
def test_the_first_output_depends_on_the_last_word_with_two_directions_only(more: tuple[str, ...]) -> None:
    # The first output of a layer that reads backwards depends on the last word; that of the others does not.
    for flags, depends in (((), False), (("--bidirectional",), True)):
        made = model(*more, *flags)
        made.eval()
        layer = made.recurrent.layers[0] if more else made.recurrent
        for part in (layer.forward_layer, layer.backward_layer) if flags else (layer,):
            part.return_sequences = True
        changed = TOKENS.copy()
        changed[:, -1] = changed[:, -1] % 49 + 1
        first, second = (np.asarray(layer(made.embedding(tokens)))[:, 0] for tokens in (TOKENS, changed))
        assert (np.abs(first - second).max() > 0) == depends


def test_bfloat16_computes_in_it_and_keeps_weights_and_logits() -> None:
    made = model("--dtype", "bfloat16")
    made.eval()
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(made, nnx.Param))} == {jnp.dtype("float32")}
    assert made.recurrent(made.embedding(TOKENS)).dtype == jnp.bfloat16
    logits = made(TOKENS)
    exact = model()
    exact.eval()
    assert logits.dtype == jnp.float32
    assert 0 < np.abs(np.asarray(logits - exact(TOKENS))).max() < 0.05


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ((), lambda step: 0.5),
        (("--schedule", "linear"), lambda step: 0.5 * (1 - step / 20)),
        (("--schedule", "cosine"), lambda step: 0.25 * (1 + np.cos(np.pi * step / 20))),
        (("--warmup", "4"), lambda step: 0.5 * min((step + 1) / 4, 1)),
        (("--schedule", "linear", "--warmup", "4"), lambda step: 0.5 * min((step + 1) / 4, 1 - max(step - 4, 0) / 16)),
    ],
)
def test_learning_rates(more: tuple[str, ...], expected: Any) -> None:
    rate = learning_rate(imdb.parse(["--learning-rate", "0.5", *more]), steps=20)
    rates = np.array([float(np.asarray(rate(step))) for step in range(20)])
    np.testing.assert_allclose(rates, [expected(step) for step in range(20)], rtol=1e-5)


@pytest.mark.parametrize("more", [(), ("--clip-norm", "0.5"), ("--weight-decay", "0.1"), ("--schedule", "linear")])
def test_the_optimizer_is_kerass_adam_with_what_is_asked_for(more: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    weights = {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)}
    params: Any = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), weights)
    chosen = optimizer(imdb.parse(["--learning-rate", "0.01", *more]), steps=8)
    state = chosen.init(params)
    moments = {name: (np.zeros_like(leaf), np.zeros_like(leaf)) for name, leaf in weights.items()}
    for step in range(1, 6):
        gradients = {name: rng.normal(size=leaf.shape) * 1e-6 for name, leaf in weights.items()}
        if more[:1] == ("--clip-norm",):
            gradients = {name: leaf * 1e6 for name, leaf in gradients.items()}
        given: Any = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), gradients)
        updates, state = chosen.update(given, state, params)
        params = optax.apply_updates(params, updates)
        if more[:1] == ("--clip-norm",):
            norm = np.sqrt(sum((leaf**2).sum() for leaf in gradients.values()))
            gradients = {name: leaf * min(1, 0.5 / norm) for name, leaf in gradients.items()}
        rate = 0.01 * (1 - (step - 1) / 8) if "linear" in more else 0.01
        for name, gradient in gradients.items():
            first, second = moments[name]
            first = moments[name] = (0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2)
            # As in Keras: one factor for both corrections, and epsilon beside the root of the moment as it is.
            factor = np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            change = factor * first[0] / (np.sqrt(first[1]) + 1e-7)
            decay = 0.1 * weights[name] if "--weight-decay" in more and name == "kernel" else 0
            weights[name] = weights[name] - rate * (change + decay)
    for name, expected in weights.items():
        np.testing.assert_allclose(params[name], expected, rtol=2e-5)
