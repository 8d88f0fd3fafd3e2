"""The optimizer of the experiment, by optax."""

import argparse

import jax
import jax.numpy as jnp
import optax

SCHEDULES = ("constant", "linear", "cosine")


def learning_rate(options: argparse.Namespace, steps: int) -> optax.Schedule:
    """The learning rate at each of ``steps``: a linear rise over ``--warmup``, then the ``--schedule`` down to 0."""
    peak, rest = options.learning_rate, max(steps - options.warmup, 1)
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
    }[options.schedule]()
    if not options.warmup:
        return after
    # The first step has a rate above 0, and the last one of the rise has the peak.
    rise = optax.linear_schedule(peak / options.warmup, peak, options.warmup - 1)
    return optax.join_schedules([rise, after], [options.warmup])


def optimizer(options: argparse.Namespace, steps: int) -> optax.GradientTransformation:
    """Keras' Adam, whose epsilon of 1e-7 is added before the second moment's bias is corrected, not after.

    ``--clip-norm`` goes ahead of it, and ``--weight-decay`` is that of AdamW: apart from the moments, and of matrices
    only.
    """
    adam = optax.inject_hyperparams(optax.scale_by_adam)
    parts: list[optax.GradientTransformation] = [adam(eps=lambda step: 1e-7 / jnp.sqrt(1 - 0.999 ** (step + 1.0)))]
    if options.clip_norm is not None:
        parts.insert(0, optax.clip_by_global_norm(options.clip_norm))
    if options.weight_decay:
        parts.append(optax.add_decayed_weights(options.weight_decay, mask=_matrices))
    return optax.chain(*parts, optax.scale_by_learning_rate(learning_rate(options, steps)))


def _matrices(params: optax.Params) -> optax.Params:
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)
