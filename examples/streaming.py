"""Inference frame by frame: a state of constant size goes from call to call, and the outputs are those of the sequence.

    python examples/streaming.py

prints the largest difference to the layer over the whole sequence, which is rounding: for cells of the core under
``jax.jit``, which hand their carry on; for a stateful layer of nnx, which keeps it, frame by frame and in pieces of any
length; and for a listener who comes while others listen. Last, how far off a layer is that forgets its state.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import flax_rnn
from flax_rnn.nnx import RNN, GRUCell, LSTMCell

LISTENERS, FEATURES = 3, 16


def with_cells(cell: flax_rnn.Cell, params: Any, frames: jax.Array) -> jax.Array:
    """Frame by frame with a pure function, which is compiled once: ``(carry, frame) -> (carry, output)``."""
    # The carry that comes out takes the place of the one that goes in.
    step = jax.jit(lambda carry, frame: flax_rnn.apply_cell(cell, params, carry, frame), donate_argnums=0)
    carry = flax_rnn.zero_carry(cell, frames[:, 0].shape)
    print(f"the state: {', '.join(str(leaf.shape) for leaf in jax.tree.leaves(carry))}")
    outputs: list[jax.Array] = []
    for time in range(frames.shape[1]):
        carry, output = step(carry, frames[:, time])
        outputs.append(output)
    return jnp.stack(outputs, 1)


def with_layer(layer: RNN, frames: jax.Array, cuts: Sequence[int], forget: bool = False) -> jax.Array:
    """In pieces, cut before the frames ``cuts``, with a stateful layer."""
    layer.reset_state(batch=LISTENERS)
    graph, params, state = nnx.split(layer, nnx.Param, ...)
    start = state

    # Split once and merged within, a module costs no time when the function is called.
    @jax.jit
    def step(params: Any, state: Any, piece: jax.Array) -> tuple[jax.Array, Any]:
        layer = nnx.merge(graph, params, state)
        return layer(piece), nnx.state(layer, nnx.Not(nnx.Param))

    outputs: list[jax.Array] = []
    for piece in jnp.split(frames, np.asarray(cuts), 1):
        output, state = step(params, start if forget else state, piece)
        outputs.append(output)
    return jnp.concatenate(outputs, 1)


def main(frames: int = 100) -> dict[str, float]:
    """Prints and returns the largest difference of each way to the layer over the whole sequence."""
    rngs = nnx.Rngs(0)
    cells = [LSTMCell(FEATURES, 64, rngs=rngs), GRUCell(64, 32, rngs=rngs)]
    layer = RNN(cells, stateful=True, return_sequences=True)
    heard = jax.random.normal(jax.random.key(1), (LISTENERS, frames, FEATURES))
    whole = layer(heard)
    print(f"{frames} frames of {FEATURES} features for {LISTENERS} listeners, by an LSTM and a GRU on top of it")

    half, every = frames // 2, range(1, frames)
    results = {
        "cells, frame by frame": with_cells(layer.cell.core, layer.cell.weights(), heard) - whole,
        "a stateful layer, frame by frame": with_layer(layer, heard, every) - whole,
        "a stateful layer, in pieces": with_layer(layer, heard, [1, half - 3, half + 4]) - whole,
    }

    # In the middle, another listener takes the place of the second one: one row starts anew, the others go on.
    new = jnp.arange(LISTENERS) == 1
    layer.reset_state()
    layer(heard[:, :half])
    layer.reset_state(new)
    after = layer(heard[:, half:])
    layer.reset_state()
    alone = layer(heard[:, half:])
    results["a new listener among others"] = after - jnp.where(new[:, None, None], alone, whole[:, half:])

    results["a layer that forgets"] = with_layer(layer, heard, every, forget=True) - whole
    differences = {way: float(jnp.max(jnp.abs(difference))) for way, difference in results.items()}
    for way, difference in differences.items():
        print(f"{way:>32}: {difference:.1e}")
    return differences


if __name__ == "__main__":
    main()
