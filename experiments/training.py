"""One step of training, and a pass over a data set."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from experiments import devices
from flax_rnn import runtime

EVALUATION_BATCH = 500

BEYOND_MEASURE = 1e6
"""A mean loss that no training comes back from; guessing has 0.7."""


class Batch(NamedTuple):
    """``tokens (B, T)``, ``labels (B,)`` and ``weights (B,)``, which are 0 for the padding of a last batch."""

    tokens: np.ndarray
    labels: np.ndarray
    weights: np.ndarray


class State(NamedTuple):
    """Whatever a step of training changes: weights, the counters of the random keys, the optimizer's moments."""

    params: nnx.State[Any, Any]
    keys: nnx.State[Any, Any]
    moments: optax.OptState


class Score(NamedTuple):
    """Mean loss and accuracy over reviews."""

    loss: float
    accuracy: float


class Steps(NamedTuple):
    """The functions; both return the sums ``(loss, correct, reviews)`` of their batch, of each seed if of several.

    ``devices`` is how many a batch is divided over.
    """

    train: Callable[[State, Batch], tuple[State, jax.Array]]
    evaluate: Callable[[State, Batch], jax.Array]
    devices: int = 1


def compile_steps(
    model: nnx.Module, optimizer: optax.GradientTransformation, mesh: Mesh | None = None
) -> tuple[State, Steps]:
    """The state of ``model`` at the start of training, and the functions that change and judge it, compiled."""
    return compiled(*functions(model, optimizer), mesh)


def compiled(state: State, steps: Steps, mesh: Mesh | None = None) -> tuple[State, Steps]:
    """The state as the compiled functions take it, and these.

    With a ``mesh``, each of its devices has the state, and the functions divide their batches.
    """
    jit: Any = functools.partial(jax.jit, compiler_options=runtime.compiler_options())
    if mesh is None:
        return state, Steps(jit(steps.train, donate_argnums=0), jit(steps.evaluate))
    jit = functools.partial(jit, out_shardings=devices.whole(mesh))
    both = jit(steps.train, donate_argnums=0), jit(steps.evaluate)
    divided = [functools.partial(_divided, step, mesh) for step in both]
    return devices.copy_to(devices.whole(mesh), state), Steps(*divided, devices=mesh.size)


def _divided(step: Any, mesh: Mesh, state: State, batch: Batch) -> Any:
    """``step`` of the rows of all processes, each of which gives its own."""
    axis = batch.labels.ndim - 1
    return step(state, Batch(*(devices.divide(mesh, leaf, axis) for leaf in batch)))


def functions(model: nnx.Module, optimizer: optax.GradientTransformation) -> tuple[State, Steps]:
    """The state and the functions, not compiled."""
    graph, params, keys = nnx.split(model, nnx.Param, ...)

    def loss(params: Any, keys: Any, batch: Batch, training: bool) -> Any:
        model = nnx.merge(graph, params, keys, copy=True)
        if not training:
            model.eval()
        logits = model(batch.tokens)
        losses = optax.losses.sigmoid_binary_cross_entropy(logits, batch.labels)
        correct = (logits > 0) == (batch.labels > 0.5)
        sums = jnp.stack([batch.weights @ losses, batch.weights @ correct, jnp.sum(batch.weights)])
        return sums[0] / sums[2], (sums, nnx.state(model, nnx.Not(nnx.Param)))

    def train(state: State, batch: Batch) -> tuple[State, jax.Array]:
        grads, (sums, keys) = jax.grad(loss, has_aux=True)(state.params, state.keys, batch, training=True)
        updates, moments = optimizer.update(grads, state.moments, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        return State(params, keys, moments), sums

    def evaluate(state: State, batch: Batch) -> jax.Array:
        return loss(state.params, state.keys, batch, training=False)[1][0]

    return State(params, keys, optimizer.init(params)), Steps(train, evaluate)


def batches(tokens: np.ndarray, labels: np.ndarray, size: int, order: np.ndarray) -> Iterator[Batch]:
    """Batches of ``size`` in the given order; the last is padded, so that all have one shape.

    Of several processes, each has its part of them.
    """
    own = devices.own_rows(size)
    for start in range(0, len(order), size):
        rows = order[start : start + size][own]
        padding = (0, own.stop - own.start - len(rows))
        yield Batch(
            np.pad(tokens[rows], (padding, (0, 0))),
            np.pad(labels[rows], padding),
            np.pad(np.ones(len(rows), np.float32), padding),
        )


def means(sums: Sequence[ArrayLike]) -> list[Score]:
    """The means that the sums of several batches amount to, for each seed."""
    every_seed = np.sum(np.asarray(sums, np.float64), axis=0).reshape(-1, 3).tolist()
    return [Score(loss / reviews, correct / reviews) for loss, correct, reviews in every_seed]


def mean(sums: Sequence[ArrayLike]) -> Score:
    """Those over all seeds."""
    found = means(sums)
    return Score(*np.mean(found, axis=0).tolist())


def train_steps(
    steps: Steps, state: State, batches: Iterator[Batch], every: int = 20, watched: Sequence[int] = (0,)
) -> Iterator[tuple[State, list[np.ndarray]]]:
    """Trains, and gives the state and the sums of the batches after each ``every`` steps, and behind the last.

    The sums are fetched that rarely so that the device does not have to wait for Python. The next step takes the state
    for its own, so that it has to be copied by whoever wants to keep it.

    Raises:
      FloatingPointError: if the loss of a seed that is ``watched`` is no longer finite, or beyond all measure.
    """
    done = 0
    while chunk := tuple(itertools.islice(batches, every)):
        waiting: list[jax.Array] = []
        for batch in chunk:
            state, sums = steps.train(state, batch)
            waiting.append(sums)
        fetched = jax.device_get(waiting)
        done += len(chunk)
        found = means(fetched)
        for loss in (found[seed].loss for seed in watched):
            if not loss < BEYOND_MEASURE:  # nor is it, if it is not a number
                raise FloatingPointError(f"the loss became {loss} within {done} steps")
        yield state, fetched


def evaluate(steps: Steps, state: State, tokens: np.ndarray, labels: np.ndarray) -> list[Score]:
    """Mean loss and accuracy without dropout, of each seed."""
    order = np.arange(len(labels))
    size = math.ceil(min(EVALUATION_BATCH, len(labels)) / steps.devices) * steps.devices
    return means([np.asarray(steps.evaluate(state, b)) for b in batches(tokens, labels, size, order)])
