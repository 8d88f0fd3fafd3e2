"""The calls of cuDNN, which jax has in ``jax.experimental.rnn``, and the vector of weights that they take.

It runs an LSTM of one layer over the first ``lengths`` steps of each row, in one direction or in both. The second
direction starts at the last of these steps; outputs of both stand side by side.

jax has no rule for these calls under ``jax.vmap``, and ``jax.shard_map`` does not learn from them over which axes
results vary; both are added here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flax_rnn.implementations.partitioned import varying_alike

Weights = Mapping[str, jax.Array]
"""``kernel`` ``(D, 4 H)``, ``recurrent_kernel`` ``(H, 4 H)``, and ``bias`` ``(4 H,)`` or none: the gates i, f, g, o."""


class Operands(NamedTuple):
    """What goes in, all float32 but the lengths; there are ``N`` directions, 1 or 2.

    Attributes:
      x: ``(B, T, D)``.
      h, c: the states to start from ``(N, B, H)``.
      weights: see ``flat``.
      lengths: int32 ``(B,)``, 1 to ``T``.
    """

    x: jax.Array
    h: jax.Array
    c: jax.Array
    weights: jax.Array
    lengths: jax.Array


def absent() -> str | None:
    """Why there are no calls, in words; ``None`` if there are."""
    try:
        import jax.experimental.rnn  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        return f"this jax has no jax.experimental.rnn ({error})"
    if "rocm" in jax.devices()[0].client.platform_version.lower():
        return "it is NVIDIA's, and this is ROCm"
    return None


def flat(directions: Sequence[Weights]) -> jax.Array:
    """The weights as one vector: for each direction the two matrices ``(4 H, ...)``, then for each its two biases.

    Ours is the bias of the inputs; that of the state is zeros.
    """
    matrices = [weights[name].T.ravel() for weights in directions for name in ("kernel", "recurrent_kernel")]
    biases: list[jax.Array] = []
    for weights in directions:
        zeros = jnp.zeros_like(weights["kernel"][0])
        biases += [weights.get("bias", zeros), zeros]
    return jnp.concatenate(matrices + biases)


def forward(operands: Operands, precision: jax.lax.Precision, keep: bool) -> tuple[Any, Any]:
    """``((y (B, T, N H), h (N, B, H), c (N, B, H)), saved)``: outputs, last states, and what ``backward`` needs.

    What stands in ``y`` beyond the lengths is not to be used.

    Args:
      operands: what goes in.
      precision: ``HIGHEST`` for float32, ``HIGH`` for TF32.
      keep: whether ``saved`` is wanted; else it is ``None``.
    """

    def call(operands: Operands) -> tuple[Any, Any]:
        from jax.experimental import rnn

        result, saved = rnn.lstm_fwd(*operands, **_fixed(operands, precision))
        return result, saved if keep else None

    return _one_by_one(call, operands)


def backward(operands: Operands, precision: jax.lax.Precision, saved: Any, cotangents: Any) -> tuple[jax.Array, ...]:
    """The gradients of ``(x, h, c, weights)``; that of ``x`` beyond the lengths is not to be used.

    Args:
      operands, precision: as for ``forward``.
      saved: what that returned.
      cotangents: of ``(y, h, c)``, with zeros in that of ``y`` beyond the lengths.
    """

    def call(operands: Operands, saved: Any, cotangents: Any) -> Any:
        from jax.experimental import rnn

        return rnn.lstm_bwd(**_fixed(operands, precision), residuals=saved, gradients=cotangents)[:4]

    return _one_by_one(call, operands, saved, cotangents)


def _fixed(operands: Operands, precision: jax.lax.Precision) -> dict[str, Any]:
    """The static arguments of jax's functions."""
    directions, _, units = operands.h.shape
    return {
        "input_size": operands.x.shape[-1],
        "hidden_size": units,
        "num_layers": 1,
        "dropout": 0.0,
        "bidirectional": directions == 2,
        "precision": precision,
    }


def _one_by_one(call: Callable[..., Any], *operands: Any) -> Any:
    """``call(*operands)``; under ``jax.vmap`` one after the other."""

    def varying(*operands: Any) -> Any:
        operands = varying_alike(operands)
        return varying_alike((call(*operands), operands))[0]

    return jax.custom_batching.sequential_vmap(varying)(*operands)
