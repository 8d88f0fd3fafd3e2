"""Layers whose units are divided over devices: an LSTM and a GRU of which no device has all weights.

For layers that are too large for one device, or for its share of a fast step. Each device has some of the units, with
all their gates: the columns of ``kernel`` and ``recurrent_kernel`` are stored as ``(gates, units)``, whose last axis is
divided over the axis "model" of a mesh, while batches may be divided over its axis "data". At each step the devices
tell each other the outputs of their units; everything else they compute by themselves.

    python examples/tensor_parallel.py

trains on a task that is made up, to tell what a sequence began with, and compares with a training on one device. Where
there is one device only, the processor passes for four.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_rnn

SYMBOLS, LENGTH, BATCH = 8, 12, 64
LEARNING_RATE = 4e-3

Weights = Any
"""``{"lstm", "gru", "dense"}``, each with a dict of arrays."""


class Share:
    """What makes some units of a cell of it: they see the outputs of all units, and compute their own."""

    def param_specs(self: Any, in_features: int) -> Any:
        """Those of so many units, but ``recurrent_kernel`` has a row for each unit of all devices."""
        specs: Any = super().param_specs(in_features)  # pyright: ignore[reportAttributeAccessIssue]
        initialize, (rows, columns) = specs["recurrent_kernel"]
        return specs | {"recurrent_kernel": (initialize, (rows * jax.lax.axis_size("model"), columns))}

    def recur(self, weights: Any, group: int, h: jax.Array, addends: Any, affine: Any) -> Any:
        """The product with the state, for which the devices exchange it; its derivative sends sums back."""
        everybody = jax.lax.all_gather(h, "model", axis=-1, tiled=True)
        return super().recur(weights, group, everybody, addends, affine)  # pyright: ignore[reportAttributeAccessIssue]


@dataclasses.dataclass(unsafe_hash=True)
class LSTMShare(Share, flax_rnn.LSTMCell):
    """Some units of an LSTM."""


@dataclasses.dataclass(unsafe_hash=True)
class GRUShare(Share, flax_rnn.GRUCell):
    """Some units of a GRU."""


SHARES = {flax_rnn.LSTMCell: LSTMShare, flax_rnn.GRUCell: GRUShare}


def by_units(cell: Any, weights: Any) -> Any:
    """The weights of ``cell`` with axes ``(gates, units)`` in place of the columns, so that units can be divided."""
    return {name: leaf.reshape(*leaf.shape[:-1], cell.num_gates, cell.units) for name, leaf in weights.items()}


def as_columns(weights: Any) -> Any:
    """The inverse, and on one device its own columns, gate by gate."""
    return {name: leaf.reshape(*leaf.shape[:-2], -1) for name, leaf in weights.items()}


def spec(leaf: Any) -> P:
    """Divided by the last axis, over all that "model" has."""
    return P(*[None] * (leaf.ndim - 1), "model")


def place(mesh: Mesh, weights: Weights) -> Weights:
    """Gives each device its share; no other device sees it."""
    return jax.tree.map(lambda leaf: jax.device_put(leaf, NamedSharding(mesh, spec(leaf))), weights)


def layer(mesh: Mesh, cell: Any, weights: Any, x: jax.Array, **options: Any) -> jax.Array:
    """``flax_rnn.rnn`` for weights ``by_units``: each device for its rows of ``x (B, T, D)``, and for its units."""
    share = SHARES[type(cell)].of(dataclasses.replace(cell, units=cell.units // mesh.shape["model"]))
    outputs = ("data", None, "model") if options.get("return_sequences") else ("data", "model")
    specs = jax.tree.map(spec, weights)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(specs, P("data")), out_specs=P(*outputs))
    def own(weights: Any, x: jax.Array) -> jax.Array:
        return flax_rnn.rnn(share, as_columns(weights), x, **options)

    return own(weights, x)


class Model(NamedTuple):
    """``tokens (B, T) -> logits (B, SYMBOLS)`` of the first one: an LSTM, a GRU on top of it, and a dense layer.

    Attributes:
      lstm, gru: the cells, with all their units.
      mesh: what has the axes "data" and "model"; ``None`` for one device.
    """

    lstm: flax_rnn.LSTMCell
    gru: flax_rnn.GRUCell
    mesh: Mesh | None = None

    def init(self, seed: int) -> Weights:
        """Fresh weights, the same on any mesh. They are drawn in memory of the host, where there is room for all."""
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            keys = jax.random.split(jax.random.key(seed), 3)
            dense = jax.nn.initializers.glorot_uniform()(keys[2], (self.gru.units, SYMBOLS))
            weights = {
                "lstm": self.lstm.init_params(keys[0], SYMBOLS),
                "gru": self.gru.init_params(keys[1], self.lstm.units),
                "dense": {"kernel": dense, "bias": jnp.zeros(SYMBOLS)},
            }
        host = jax.tree.map(np.asarray, weights)
        if self.mesh is None:
            return jax.tree.map(jnp.asarray, host)
        cells = {"lstm": by_units(self.lstm, host["lstm"]), "gru": by_units(self.gru, host["gru"])}
        return place(self.mesh, host | cells)

    def __call__(self, weights: Weights, tokens: jax.Array) -> jax.Array:
        """See above."""
        run: Any = flax_rnn.rnn if self.mesh is None else functools.partial(layer, self.mesh)
        x = run(self.lstm, weights["lstm"], jax.nn.one_hot(tokens, SYMBOLS), return_sequences=True)
        # What is between such layers, XLA divides by itself.
        x = run(self.gru, weights["gru"], x)
        return x @ weights["dense"]["kernel"] + weights["dense"]["bias"]

    def loss(self, weights: Weights, tokens: jax.Array) -> jax.Array:
        """The mean over the batch."""
        logits = self(weights, tokens)
        return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 0]))

    def together(self, weights: Weights) -> Weights:
        """A copy in memory of the host, as it is on one device."""
        host = jax.tree.map(np.asarray, weights)
        return host if self.mesh is None else host | {name: as_columns(host[name]) for name in ("lstm", "gru")}


def batches(mesh: Mesh | None, count: int) -> Any:
    """So many batches of random tokens, divided over "data"."""
    tokens = np.random.default_rng(0).integers(0, SYMBOLS, (count, BATCH, LENGTH))
    return tokens if mesh is None else [jax.device_put(batch, NamedSharding(mesh, P("data"))) for batch in tokens]


class Trained(NamedTuple):
    """What a training left: the loss of each step, gradients of the first, weights and moments of the last."""

    losses: np.ndarray
    gradients: Weights
    weights: Weights
    moments: optax.OptState


def train(model: Model, steps: int) -> Trained:
    """By Adam, from scratch. The moments are divided as the weights are, since they are made of them."""
    optimizer = optax.adam(LEARNING_RATE)

    @jax.jit
    def step(weights: Weights, moments: Any, tokens: jax.Array) -> tuple[Any, Any, Any, Any]:
        loss, gradients = jax.value_and_grad(model.loss)(weights, tokens)
        updates, moments = optimizer.update(gradients, moments)
        return optax.apply_updates(weights, updates), moments, loss, gradients

    weights = model.init(0)
    moments, losses, first = optimizer.init(weights), [], None
    for tokens in batches(model.mesh, steps):
        weights, moments, loss, gradients = step(weights, moments, tokens)
        first = gradients if first is None else first
        losses.append(loss)
    return Trained(np.asarray(jax.device_get(losses)), first, weights, moments)


def bytes_of_each_device(*trees: Any) -> list[int]:
    """How much of all arrays each device holds."""
    held: dict[Any, int] = {}
    for leaf in jax.tree.leaves(trees):
        for shard in leaf.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return [*held.values()]


def difference(one: Any, other: Any) -> float:
    """The largest one between two arrays, as a part of the largest number in them; of all arrays."""
    parts = jax.tree.map(lambda a, b: np.abs(a - b).max() / np.abs(b).max(), one, other)
    return float(max(jax.tree.leaves(parts)))


class Comparison(NamedTuple):
    """Of a training on a mesh with one on a device: differences, bytes of each device and of the one, losses."""

    gradients: float
    losses: float
    weights: float
    held: list[int]
    whole: int
    first: float
    last: float


def some_devices() -> list[Any]:
    """All GPUs or the like if there are several, else four of the devices that the processor passes for."""
    found = jax.devices() if jax.device_count() > 1 else jax.devices("cpu")
    return found[:4] if found[0].platform == "cpu" else found


def main(steps: int = 80, units: int = 64, model: int = 2, devices: Sequence[Any] | None = None) -> Comparison:
    """Prints and returns how a training on some devices, ``model`` of which share the units, compares with one."""
    devices = devices or some_devices()
    mesh = jax.make_mesh((len(devices) // model, model), ("data", "model"), (AxisType.Auto,) * 2, devices=devices)
    alone = Model(flax_rnn.LSTMCell(units), flax_rnn.GRUCell(units))
    divided = alone._replace(mesh=mesh)
    with jax.default_device(devices[0]):
        one, many = train(alone, steps), train(divided, steps)
    result = Comparison(
        difference(divided.together(many.gradients), alone.together(one.gradients)),
        difference(many.losses, one.losses),
        difference(divided.together(many.weights), alone.together(one.weights)),
        bytes_of_each_device(many.weights, many.moments),
        *bytes_of_each_device(one.weights, one.moments),
        *many.losses[[0, -1]].tolist(),
    )
    print(f"{len(devices)} devices: the rows are divided by {len(devices) // model}, the units by {model}")
    print(f"the loss is {result.first:.3f} at first, and {result.last:.3f} at step {steps}")
    print("differences to one device")
    print(f"    gradients of the first step: {result.gradients:.1e}")
    print(f"            losses of all steps: {result.losses:.1e}")
    print(f"        weights behind the last: {result.weights:.1e}")
    print(f"bytes of weights and moments: {result.whole:,} on one device, on each of these")
    print("   ", ", ".join(f"{held:,}" for held in result.held))
    # The count of steps alone is everywhere.
    assert len(result.held) == len(devices) and max(result.held) * model < result.whole + 64
    return result


if __name__ == "__main__":
    # Four are used. XLA has a thread for each device, and a device that waits for others blocks one; with none to spare
    # they may wait for each other forever.
    jax.config.update("jax_num_cpu_devices", 8)
    main()
