"""The model of the experiment, its batches, its steps and its passes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.model import LAYERS, Classifier
from experiments.training import Score, batches, compile_steps, evaluate, mean, train_steps

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(1, 50, (70, 9)).astype(np.int32)
LABELS = (TOKENS[:, 0] > 25).astype(np.float32)


def build(cell: str = "lstm", seed: int = 0, dropout: float = 0.2, size: int = 16) -> Classifier:
    return Classifier(
        cell, num_words=50, embedding=size, units=size, dropout=dropout, recurrent_dropout=dropout,
        rngs=nnx.Rngs(seed),
    )  # fmt: skip


@pytest.mark.each(1, at_most=1)
@pytest.mark.parametrize(("cell", "recurrent"), [("simple_rnn", 32_896), ("lstm", 131_584), ("gru", 99_072)])
def test_reference_setting_has_the_published_number_of_parameters(cell: str, recurrent: int) -> None:
    model = Classifier(
        cell, num_words=10_000, embedding=128, units=128, dropout=0.2, recurrent_dropout=0.2, rngs=nnx.Rngs(0)
    )
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(nnx.state(part, nnx.Param)))
             for part in (model.embedding, model.recurrent, model.dense)]  # fmt: skip
    assert sizes == [1_280_000, recurrent, 129]


def test_initial_weights_are_drawn_as_keras_draws_them() -> None:
    model = build(size=64)
    embedding = np.asarray(model.embedding.embedding[...])
    assert -0.05 <= embedding.min() < -0.045 and 0.045 < embedding.max() <= 0.05
    kernel, bias = np.asarray(model.dense.kernel[...]), np.asarray(nnx.to_pure_dict(nnx.state(model.dense))["bias"])
    limit = np.sqrt(6 / (64 + 1))
    assert 0.8 * limit < np.abs(kernel).max() <= limit
    assert not bias.any()


def test_batches_hold_every_review_once_and_pad_the_last() -> None:
    order = RNG.permutation(70)
    found = list(batches(TOKENS, LABELS, 32, order))
    assert [batch.tokens.shape for batch in found] == [(32, 9)] * 3
    assert [batch.weights.sum() for batch in found] == [32, 32, 6]
    kept = np.concatenate([batch.tokens[batch.weights > 0] for batch in found])
    np.testing.assert_array_equal(kept, TOKENS[order])
    np.testing.assert_array_equal(np.concatenate([b.labels[b.weights > 0] for b in found]), LABELS[order])


def test_mean_weighs_batches_by_their_reviews() -> None:
    score = mean([np.array([4.0, 3.0, 4.0]), np.array([6.0, 0.0, 1.0])])
    assert score == Score(2.0, 0.6)


@pytest.mark.each(1, at_most=1)
@pytest.mark.parametrize("cell", LAYERS)
def test_evaluation_equals_the_definition_of_loss_and_accuracy(cell: str) -> None:
    model = build(cell)
    state, steps = compile_steps(model, optax.sgd(0.1))
    (score,) = evaluate(steps, state, TOKENS, LABELS)
    model.eval()
    logits = np.asarray(model(jnp.asarray(TOKENS)), np.float64)
    probabilities = 1 / (1 + np.exp(-logits))
    losses = -np.where(LABELS > 0.5, np.log(probabilities), np.log(1 - probabilities))
    np.testing.assert_allclose(score.loss, losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(score.accuracy, np.mean((probabilities > 0.5) == (LABELS > 0.5)))


def test_padding_changes_no_gradient() -> None:
    weights = []
    for size in (6, 10):
        state, steps = compile_steps(build(dropout=0.0), optax.sgd(1.0))
        (batch,) = batches(TOKENS, LABELS, size, np.arange(6))
        state, sums = steps.train(state, batch)
        assert sums[2] == 6
        weights.append(jax.tree.map(np.asarray, nnx.to_pure_dict(state.params)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *weights)


def run(seed: int, epochs: int = 1) -> tuple[Any, list[Score]]:
    state, steps = compile_steps(build(seed=seed), optax.adam(1e-2))
    curve: list[Score] = []
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(LABELS))
        for after, sums in train_steps(steps, state, batches(TOKENS, LABELS, 8, order), every=4):
            state = after
            curve.append(mean(sums))
    return jax.tree.map(np.asarray, nnx.to_pure_dict(state.params)), curve


def test_a_seed_fixes_the_run_bit_for_bit() -> None:
    weights, curve = run(seed=3)
    again, curve_again = run(seed=3)
    assert curve == curve_again
    jax.tree.map(np.testing.assert_array_equal, weights, again)
    assert run(seed=4)[1] != curve


def test_training_draws_new_dropout_masks_at_each_step() -> None:
    state, steps = compile_steps(build(dropout=0.5), optax.sgd(0.0))
    (batch,) = batches(TOKENS, LABELS, 70, np.arange(70))
    state, first = steps.train(state, batch)
    first = np.asarray(first)
    state, second = steps.train(state, batch)
    assert first[0] != np.asarray(second)[0]


def test_training_learns_a_rule_and_reports_on_the_way() -> None:
    state, steps = compile_steps(build("gru", dropout=0.0), optax.adam(1e-2))
    seen: list[int] = []
    for _ in range(30):
        for after, sums in train_steps(steps, state, batches(TOKENS, LABELS, 16, np.arange(70)), every=2):
            state = after
            seen.append(int(sum(one[2] for one in sums)))
    assert seen == [32, 32, 6] * 30
    assert evaluate(steps, state, TOKENS, LABELS)[0].accuracy > 0.95


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    state, steps = compile_steps(build(), optax.sgd(1e38))
    with pytest.raises(FloatingPointError, match="the loss became"):
        for _ in range(3):
            for after, _ in train_steps(steps, state, batches(TOKENS, LABELS, 16, np.arange(70)), every=2):
                state = after
