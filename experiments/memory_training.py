"""A recurrent layer and a dense one, trained on a task of ``memory_tasks`` by one compiled function."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import flax_rnn
from experiments.memory_tasks import Task
from flax_rnn import runtime
from flax_rnn.cells.protocol import Params

Cell = flax_rnn.SimpleRNNCell | flax_rnn.GRUCell | flax_rnn.LSTMCell

EXAMPLES_TO_JUDGE = 1000


@dataclasses.dataclass(frozen=True)
class Plan:
    """How training goes: Adam, and gradients that are cut to a norm of ``clip`` where they are larger.

    Attributes:
      steps, batch: how many steps, and examples in each.
      learning_rate: of Adam.
      clip: without it, a single steep step may throw a recurrent layer far off.
      points: of how many means of the loss the curve consists.
    """

    steps: int = 3000
    batch: int = 32
    learning_rate: float = 5e-3
    clip: float = 1.0
    points: int = 15


class Weights(NamedTuple):
    """Those of the layer, and ``kernel (H, outputs)`` and ``bias (outputs,)`` of the dense one."""

    layer: Params
    kernel: jax.Array
    bias: jax.Array


class Trained(NamedTuple):
    """Weights before and after training, mean losses along it, and the error with new examples."""

    before: Weights
    after: Weights
    curve: jax.Array
    error: jax.Array


def init(cell: Cell, task: Task, key: jax.Array) -> Weights:
    """Fresh weights, drawn as Keras draws them."""
    layer, dense = jax.random.split(key)
    kernel = jax.nn.initializers.glorot_uniform()(dense, (cell.units, task.outputs))
    return Weights(cell.init_params(layer, task.features), kernel, jnp.zeros(task.outputs))


def predict(cell: Cell, task: Task, weights: Weights, inputs: jax.Array) -> jax.Array:
    """``inputs (B, T, features)`` to predictions ``(B, answers, outputs)`` of the last steps."""
    outputs = flax_rnn.rnn(cell, weights.layer, inputs, return_sequences=True)
    return outputs[:, -task.answers :] @ weights.kernel + weights.bias


def count(cell: Cell, task: Task) -> int:
    """How many numbers are trained."""
    shapes = jax.eval_shape(functools.partial(init, cell, task), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@functools.partial(jax.jit, static_argnums=(0, 1, 2), compiler_options=runtime.compiler_options())
def train(cell: Cell, task: Task, plan: Plan, key: jax.Array) -> Trained:
    """All of the training, in one loop; what is drawn depends on the key only."""
    start, draws, judged = jax.random.split(key, 3)
    before = init(cell, task, start)
    optimizer = optax.chain(optax.clip_by_global_norm(plan.clip), optax.adam(plan.learning_rate))

    def loss(weights: Weights, key: jax.Array) -> jax.Array:
        examples = task.draw(key, plan.batch)
        return task.loss(predict(cell, task, weights, examples.inputs), examples.targets)

    def step(state: tuple[Weights, optax.OptState], key: jax.Array) -> tuple[tuple[Weights, optax.OptState], jax.Array]:
        weights, moments = state
        value, slopes = jax.value_and_grad(loss)(weights, key)
        updates, moments = optimizer.update(slopes, moments, weights)
        updated: Any = optax.apply_updates(weights, updates)
        return (updated, moments), value

    (after, _), losses = jax.lax.scan(step, (before, optimizer.init(before)), jax.random.split(draws, plan.steps))
    curve = jnp.mean(losses.reshape(plan.points, -1), axis=1)
    examples = task.draw(judged, EXAMPLES_TO_JUDGE)
    return Trained(before, after, curve, task.error(predict(cell, task, after, examples.inputs), examples.targets))
