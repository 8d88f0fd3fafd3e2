"""The loop with a backward pass of its own, in plain XLA.

Left to itself, jax differentiates a scan step by step: each step of the backward pass forms its share of the gradient
of every weight and adds it up, and the forward pass keeps whatever the derivatives of a step happen to need. Here

* the forward pass keeps, for each step, its carry and the results of its products with the recurrent weights, and
  nothing else: ``h`` and ``c`` and one array ``(T, B, H)`` per gate for an LSTM;
* the backward pass computes the elementwise part of a step again from these (its products are recalled, not computed),
  and hands on the gradient of the carry alone;
* the gradients of weights and inputs follow after the loop, from all steps at once: one large product per weight, of
  what a product was made of with the gradient of its result. To learn that gradient, a zero is added to the result.

This holds for every cell that takes its products from ``affine``, with any activation, mask or dropout, since the
elementwise part is left to jax. As the backward pass is plain jax code it can be differentiated again; what jax cannot
do is to push a tangent forward through it (``jax.jvp``), for which there is ``implementation="scan"``.

The gradient of a weight is put off until after the loop if ``affine`` got the prepared weight itself; see ``Affine``.

Source: Appleyard et al. 2016, "Optimizing Performance of Recurrent Neural Networks on GPUs", for products outside of
the loop.
"""

import functools
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from flax_rnn.cells.protocol import Affine, Carry, Dot, Weights, affine, product_blocks
from flax_rnn.implementations.loop import Arrays, Evaluate, Inputs, Loop, State, advance, run
from flax_rnn.implementations.over_time import over_time, with_carries
from flax_rnn.implementations.products import dot, kernel_gradient
from flax_rnn.implementations.protocol import Request


class Fused:
    """See ``Implementation``."""

    name: ClassVar[str] = "fused"
    time_major: ClassVar[bool] = True

    def obstacle(self, request: Request) -> str | None:
        """Only what jax can take as a static argument."""
        if not isinstance(request.cell, Hashable):
            return f"it needs a cell that can be hashed, which this {type(request.cell).__name__} cannot"
        return None

    def run(self, loop: Loop, arrays: Arrays) -> tuple[Any, Carry]:
        """As for every implementation."""
        return run(cast(Evaluate, scan), cast(Dot, dot), loop, arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def scan(loop: Loop, weights: Weights, state: State, inputs: Inputs) -> tuple[State, Any]:
    """As ``flax_rnn.implementations.scan.scan``."""
    step = functools.partial(advance, loop, weights)
    return over_time(step, state, inputs, loop.options, loop.options.go_backwards)


def _forward(loop: Loop, weights: Weights, state: State, inputs: Inputs) -> tuple[Any, Any]:
    def step(state: State, inputs: Inputs) -> tuple[State, Any]:
        products: list[Any] = []
        new, output = advance(loop, weights, state, inputs, _recorder(products))
        return new, (output, products)

    final, (outputs, products), states = with_carries(step, state, inputs, loop.options, loop.options.go_backwards)
    return (final, outputs), (weights, inputs, states.carry, products, state.output)


def _backward(loop: Loop, residuals: Any, cotangents: Any) -> tuple[Any, Any, Any]:
    weights, inputs, carries, products, held = residuals
    final, outputs = cotangents

    def step(ahead: State, kept: Any) -> tuple[State, None]:
        carry, inputs, products, output = kept
        # Of a held output only the place matters, not the value: a mask passes it on as it is.
        _, pull = jax.vjp(lambda state: advance(loop, weights, state, inputs, _Recaller(products)), State(carry, held))
        return pull((ahead, output))[0], None

    kept = (carries, inputs, products, outputs)
    initial, _, ahead = with_carries(step, final, kept, loop.options, not loop.options.go_backwards, apart=False)

    uses: list[tuple[int | None, Any]] = []

    def all_steps(varied: Any, projected: Any, zeros: Any) -> Any:
        def one(carry: Any, inputs: Inputs, products: Any, zeros: Any) -> Any:
            kernels = list(zip(*map(jax.tree.leaves, (varied, weights)), strict=True))
            recall = _Recaller(products, zeros, kernels)
            result = advance(loop, varied, State(carry, held), inputs, recall)
            uses[:] = [(leaf, precision) for leaf, precision, _ in recall.uses]
            return result, [operand for _, _, operand in recall.uses]

        return jax.vmap(one)(carries, inputs._replace(projected=projected), products, zeros)

    zeros = jax.tree.map(jnp.zeros_like, products)
    _, pull, operands = jax.vjp(all_steps, weights, inputs.projected, zeros, has_aux=True)
    d_weights, d_projected, d_products = pull((ahead, outputs))
    leaves, tree = jax.tree.flatten(d_weights)
    for (leaf, precision), operand, d_product in zip(uses, operands, d_products, strict=True):
        if leaf is not None:
            leaves[leaf] += kernel_gradient(jax.tree.leaves(weights)[leaf], operand, d_product, precision)
    return jax.tree.unflatten(tree, leaves), initial, Inputs(d_projected, None, None)


scan.defvjp(_forward, _backward)


def _recorder(products: list[Any]) -> Affine:
    """An ``Affine`` that keeps its results."""

    def record(operand: Any, kernel: Any, addend: Any, precision: jax.lax.PrecisionLike = None) -> Any:
        products.append(affine(operand, kernel, addend, precision))
        return products[-1]

    return record


class _Recaller:
    """An ``Affine`` that returns kept results, in the order in which they were recorded.

    Args:
      products: the results.
      zeros: arrays like them, to be added, so that their gradients are those of the results.
      kernels: the weights that a kernel may be, and what to take in their place, so that no gradient goes to them from
        here. What their gradients are made of is left in ``uses``: for each product which of ``kernels`` it was, or
        ``None``, the precision, and the operand.
    """

    def __init__(
        self,
        products: Sequence[Any],
        zeros: Sequence[Any] | None = None,
        kernels: Sequence[tuple[Any, Any]] = (),
    ):
        self._remaining = iter(products)
        self._zeros = None if zeros is None else iter(zeros)
        self._kernels = kernels
        self.uses: list[tuple[int | None, Any, Any]] = []

    def __call__(self, operand: Any, kernel: Any, addend: Any, precision: jax.lax.PrecisionLike = None) -> Any:
        """See ``Affine``."""
        leaf = next((index for index, (varied, _) in enumerate(self._kernels) if varied is kernel), None)
        self.uses.append((leaf, precision, operand))
        if leaf is not None:
            kernel = self._kernels[leaf][1]
        result = _known(precision, operand, kernel, addend, next(self._remaining))
        return result if self._zeros is None else jax.tree.map(jnp.add, result, next(self._zeros))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _known(precision: Any, operand: Any, kernel: Any, addend: Any, result: Any) -> Any:
    """The ``Affine`` whose ``result`` is known: its value is taken, its derivative is that of the product."""
    del precision, operand, kernel, addend
    return result


@functools.partial(_known.defjvp, symbolic_zeros=True)
def _known_jvp(precision: Any, primals: Any, tangents: Any) -> tuple[Any, Any]:
    operand, kernel, _, result = primals
    d_operand, d_kernel, d_addend, _ = tangents
    results, tree = jax.tree.flatten(result)
    terms = [[jnp.zeros_like(one)] for one in results]
    for one, d_one in zip(terms, d_addend if isinstance(d_addend, tuple) else (d_addend,), strict=True):
        if not isinstance(d_one, SymbolicZero):
            one.append(d_one)
    for factors in ((d_operand, kernel), (operand, d_kernel)):
        if not any(isinstance(factor, SymbolicZero) for factor in factors):
            blocks = product_blocks(*factors, len(results), precision, results[0].dtype)
            for one, block in zip(terms, blocks, strict=True):
                one.append(block)
    return result, jax.tree.unflatten(tree, [sum(one[1:], start=one[0]) for one in terms])
