"""The part that all contestants on JAX have in common: compiling, differentiating, waiting."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import Case, Layers, array_dtype
from benchmarks.contestants.interface import Contestant, Run, of_weights

Apply = Callable[[Any, jax.Array, Any], jax.Array]
"""``(params, inputs, extras) -> outputs``; extras are arrays such as masks, which would be constants otherwise."""

PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32"}
"""What products of float32 are to be where they could be several things; those of fewer digits are of one kind."""


class OnJax(Contestant):
    """Base of the contestants on JAX."""

    compiler_options: dict[str, Any] | None = None

    def __init__(self) -> None:
        self.platform = jax.default_backend()
        self.device = jax.devices()[0].device_kind

    def product(self, dtype: str, size: int) -> Callable[[], Any]:
        """Of two random matrices."""
        keys = jax.random.split(jax.random.key(0))
        a, b = (jax.random.normal(key, (size, size), jnp.dtype(array_dtype(dtype))) for key in keys)
        dot = jax.jit(lambda a, b: jnp.dot(a, b, precision=precision(dtype)))
        return lambda: jax.block_until_ready(dot(a, b))

    def run(
        self, case: Case, apply: Apply, params: Any, extras: Any = None, layers: Callable[[Any], Layers] = tuple
    ) -> Run:
        """``apply`` as a ``Run``; ``layers`` brings gradients of ``params`` into our layout."""
        x, cotangent = on_device(case, (case.inputs(), case.cotangent()))
        function = compiled(case, apply, self.compiler_options)

        def read(result: Any) -> dict[str, np.ndarray]:
            outputs, gradients = result
            results = {"outputs": _array(outputs)}
            if gradients is not None:
                weights, inputs = gradients
                results |= {"inputs": _array(inputs)} | of_weights(layers(jax.tree.map(_array, weights)))
            return results

        # A device runs calls one after the other, so the last result is there after all others.
        return Run(lambda: function(params, x, cotangent, extras), read, jax.block_until_ready)


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

    def function(*arguments: Any) -> tuple[jax.Array, Any]:
        # Here rather than around the call, so that it holds whatever other cases the process has.
        with jax.default_matmul_precision(precision(case.dtype)):
            return (training if case.phase == "training" else forward)(*arguments)

    return jax.jit(function, compiler_options=compiler_options)


def precision(dtype: str) -> str | None:
    """For jax, of products in one of the dtypes of cases; a CPU has one for each."""
    return None if jax.default_backend() == "cpu" else PRECISIONS.get(dtype)


def on_device(case: Case, tree: Any) -> Any:
    """Arrays in the dtype of the case."""
    return jax.tree.map(lambda array: jnp.asarray(array, case.array_dtype), tree)


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
