"""The part that all contestants on JAX have in common: compiling, differentiating, waiting."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import Case, Layers
from benchmarks.contestants.interface import Contestant, Run, of_weights

Apply = Callable[[Any, jax.Array, Any], jax.Array]
"""``(params, inputs, extras) -> outputs``; extras are arrays such as masks, which would be constants otherwise."""


class OnJax(Contestant):
    """Base of the contestants on JAX."""

    compiler_options: dict[str, Any] | None = None

    def __init__(self) -> None:
        self.platform = jax.default_backend()
        self.device = jax.devices()[0].device_kind

    def product(self, dtype: str, size: int) -> Callable[[], Any]:
        """Of two random matrices."""
        self.use_precision(dtype)
        a, b = (jax.random.normal(key, (size, size), jnp.dtype(dtype)) for key in jax.random.split(jax.random.key(0)))
        dot = jax.jit(jnp.dot)
        return lambda: jax.block_until_ready(dot(a, b))

    def use_precision(self, dtype: str) -> None:
        """No TF32 where float32 is asked for; on a CPU there is none."""
        exact = dtype == "float32" and self.platform == "gpu"
        jax.config.update("jax_default_matmul_precision", "highest" if exact else None)

    def run(
        self, case: Case, apply: Apply, params: Any, extras: Any = None, layers: Callable[[Any], Layers] = tuple
    ) -> Run:
        """``apply`` as a ``Run``; ``layers`` brings gradients of ``params`` into our layout."""
        self.use_precision(case.dtype)
        x, cotangent = (jnp.asarray(array, case.dtype) for array in (case.inputs(), case.cotangent()))
        function = compiled(case, apply, self.compiler_options)

        def read(result: Any) -> dict[str, np.ndarray]:
            outputs, gradients = result
            results = {"outputs": _array(outputs)}
            if gradients is not None:
                weights, inputs = gradients
                results |= {"inputs": _array(inputs)} | of_weights(layers(jax.tree.map(_array, weights)))
            return results

        return Run(lambda: jax.block_until_ready(function(params, x, cotangent, extras)), read)


def compiled(case: Case, apply: Apply, compiler_options: dict[str, Any] | None = None) -> Any:
    """``(params, inputs, cotangent, extras) -> (outputs, gradients or None)`` under ``jax.jit``."""

    def forward(params: Any, x: jax.Array, cotangent: jax.Array, extras: Any) -> tuple[jax.Array, None]:
        del cotangent
        return apply(params, x, extras), None

    def training(params: Any, x: jax.Array, cotangent: jax.Array, extras: Any) -> tuple[jax.Array, Any]:
        def weighted_sum(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            outputs = apply(params, x, extras)
            return jnp.sum((outputs * cotangent).astype(jnp.float32)), outputs

        gradients, outputs = jax.grad(weighted_sum, argnums=(0, 1), has_aux=True)(params, x)
        return outputs, gradients

    return jax.jit(training if case.phase == "training" else forward, compiler_options=compiler_options)


def on_device(case: Case, tree: Any) -> Any:
    """Arrays in the dtype of the case."""
    return jax.tree.map(lambda array: jnp.asarray(array, case.dtype), tree)


def layer_by_layer(
    one_direction: Callable[[Any, jax.Array, bool], jax.Array], params: Layers, x: jax.Array
) -> jax.Array:
    """A stack of layers, of one direction or two: ``one_direction(params of a cell, inputs, whether in reverse)``."""
    for layer in params:
        if isinstance(layer, tuple):
            x = jnp.concatenate([one_direction(layer[0], x, False), one_direction(layer[1], x, True)], -1)
        else:
            x = one_direction(layer, x, False)
    return x


def _array(array: jax.Array) -> np.ndarray:
    return np.asarray(array.astype(jnp.float32))
