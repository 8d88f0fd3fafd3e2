"""What a cell is: pure functions for one step of a recurrent layer, with the input projection apart.

A cell holds hyper-parameters only. Weights, carries and dropout masks are values that go in and come out, so a cell can
be scanned, jitted, differentiated and shared between Flax's APIs unchanged.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

Params = Any
"""The weights of a cell: a dict of arrays, or a tuple of them for a stack."""

ParamSpecs = Any
"""A ``WeightSpecs``, or a tuple of them for a stack."""

WeightSpecs = Mapping[str, tuple[Callable[..., jax.Array], tuple[int, ...]]]
"""Initializer and shape of each weight by its name."""

Carry = Any
"""The state that is handed from step to step: an array, or a (named) tuple of arrays."""

Projected = Any
"""What ``project`` makes of the inputs: a pytree whose leading axes are those of the inputs."""

Masks = Any
"""A ``DropoutMasks``, or a tuple of them for a stack; ``None`` where nothing is dropped."""

Weights = Any
"""What ``prepare`` makes of the weights: a pytree of arrays that a step uses as they are."""

Values = Any
"""What a step computes on its way, by the names of the equations: a named tuple, or a tuple of them for a stack."""


class Affine(Protocol):
    """``(operand (B, N), kernel (N, M), addend) -> operand @ kernel + addend``, summed in the dtype of ``addend``.

    Where ``addend`` is a tuple of ``n`` arrays, ``kernel`` is ``(N, n M)``, and the result is a tuple, too: the blocks
    of columns, each with its addend. That is faster than ``n`` products. Or ``kernel`` is ``(n, N, M)`` and ``operand``
    ``(n, B, N)``: then each addend is that of a product of its own.

    A step calls the one it is given for its products with the carry. The loop thereby sees them: it keeps their
    results for the backward pass, and hands them back in place of computing them again.

    ``kernel`` has to be an array that ``prepare`` returned, that very object. Only then can the gradient of the weight
    be put off until after the loop, where it is one product for all steps. Whatever is made of a weight within the step
    (a cast, a slice, a transpose, a mask) gets the right gradient, too, but step by step, which is slower.
    """

    def __call__(
        self, operand: jax.Array, kernel: jax.Array, addend: Any, precision: jax.lax.PrecisionLike = None
    ) -> Any:
        """See above."""
        ...


def affine(operand: jax.Array, kernel: jax.Array, addend: Any, precision: jax.lax.PrecisionLike = None) -> Any:
    """The plain ``Affine``."""
    addends = addend if isinstance(addend, tuple) else (addend,)
    blocks = product_blocks(operand, kernel, len(addends), precision, addends[0].dtype)
    if len(blocks) > 1:
        # On CPUs, XLA does not vectorize what reads columns of an array in place.
        blocks = jax.lax.platform_dependent(blocks, cpu=jax.lax.optimization_barrier, default=lambda same: same)
    results = tuple(block + one for block, one in zip(blocks, addends, strict=True))
    return results if isinstance(addend, tuple) else results[0]


def product_blocks(
    operand: jax.Array, kernel: jax.Array, count: int, precision: jax.lax.PrecisionLike, dtype: Any
) -> list[jax.Array]:
    """The product that an ``Affine`` adds to, as ``count`` arrays ``(B, M)`` of this dtype."""
    if kernel.ndim == 2:
        return jnp.split(jnp.dot(operand, kernel, precision=precision, preferred_element_type=dtype), count, -1)
    each = "n...i,nij->n...j"
    return [*jnp.einsum(each, operand, kernel, precision=precision, preferred_element_type=dtype)]


class Dot(Protocol):
    """``(x (..., D), kernel (D, n M), n) -> x @ kernel``, as a tuple of ``n`` blocks of columns ``(..., M)``.

    What a projection takes its products from. Which one it is given depends, as with ``Affine``, on how the loop is
    evaluated.
    """

    def __call__(
        self, x: jax.Array, kernel: jax.Array, blocks: int, precision: jax.lax.PrecisionLike = None
    ) -> tuple[jax.Array, ...]:
        """See above."""
        ...


def dot(x: jax.Array, kernel: jax.Array, blocks: int, precision: jax.lax.PrecisionLike = None) -> tuple[jax.Array, ...]:
    """The plain ``Dot``: a product for each block, since over a whole sequence one more copy is dearer than that."""
    return tuple(jnp.dot(x, block, precision=precision) for block in jnp.split(kernel, blocks, -1))


class Cell(Protocol):
    """The protocol that ``rnn`` runs over time; shapes are those of one step.

    Any object with these members will do. A class that inherits from this one has to have ``param_specs``,
    ``output_size``, ``project``, ``initial_carry`` and ``step``; the others have defaults.
    """

    @property
    def num_feature_axes(self) -> int:
        """How many trailing axes of the inputs are not batch or time; 1 for dense cells."""
        return 1

    @property
    def has_dropout(self) -> bool:
        """Whether training needs a key."""
        return False

    @property
    def records_products(self) -> bool:
        """Whether steps take their products with the carry from ``affine``; without, ``"fused"`` has nothing to gain.

        Results are right either way.
        """
        return True

    @property
    def takes_constants(self) -> bool:
        """Whether steps use more than the weights, such as the memory that an attention reads."""
        return False

    @abstractmethod
    def param_specs(self, in_features: int) -> ParamSpecs:
        """Initializer and shape of each weight, ``{name: (initialize, shape)}``, for inputs of so many features.

        A weight that depends on the number of features is called ``kernel`` and has them as its last axis but one.
        """
        ...

    def init_params(self, key: jax.Array, in_features: int) -> Params:
        """Fresh weights for inputs of ``in_features`` features; by default what ``param_specs`` says."""
        specs = self.param_specs(in_features)
        keys = jax.random.split(key, len(specs))
        dtype = getattr(self, "param_dtype", jnp.float32)
        return {name: specs[name][0](k, specs[name][1], dtype) for k, name in zip(keys, specs, strict=True)}

    @abstractmethod
    def output_size(self, in_features: int) -> int:
        """The size of the last axis of the output for such inputs."""
        ...

    def dropout_masks(self, key: jax.Array, inputs: jax.Array) -> Masks:
        """The masks for one whole sequence whose steps are shaped like ``inputs`` ``(B, D)``; by default none."""
        del key, inputs
        return None

    def with_constants(self, params: Params, constants: Any) -> Params:
        """What the other methods get for ``params`` where ``takes_constants``; see ``bind_constants``."""
        raise TypeError(f"constants: {type(self).__name__} takes none")

    @abstractmethod
    def project(self, params: Params, inputs: jax.Array, masks: Masks = None, dot: Dot = dot) -> Projected:
        """The part of the step that does not depend on the carry, for inputs ``(..., B, D)`` of any number of steps."""
        ...

    def projected_like(self, params: Params, inputs: jax.Array) -> Projected:
        """What has the shapes and dtypes of ``project(params, inputs)``, and takes less to trace where it can."""
        return self.project(params, inputs)

    @abstractmethod
    def initial_carry(self, params: Params, projected: Projected) -> Carry:
        """The zero carry for one step of projected inputs, with their batch axes, dtype and sharding."""
        ...

    def prepare(self, params: Params, projected: Projected, masks: Masks = None) -> Weights:
        """Whatever a step needs and does not change from step to step, such as casts and splits of the weights.

        ``projected`` is an example of a step's projected inputs. By default the weights as they are.
        """
        del projected, masks
        return params

    @abstractmethod
    def step(
        self, weights: Weights, carry: Carry, projected: Projected, affine: Affine = affine
    ) -> tuple[Carry, jax.Array]:
        """One step, ``(prepared weights, carry, projected inputs) -> (new carry of the same dtypes, output)``."""
        ...

    def explain(
        self, weights: Weights, carry: Carry, projected: Projected, affine: Affine = affine
    ) -> tuple[Carry, jax.Array, Values]:
        """``step``, and the values of the gates and states by name; by default ``None``, as nobody knows the names.

        A cell that has names for them computes its step here, and ``step`` returns the first two.
        """
        return *self.step(weights, carry, projected, affine), None


def names_values(cell: Cell) -> bool:
    """Whether ``cell`` has an ``explain`` for the step that it takes, rather than for one that it overrides."""
    for base in type(cell).__mro__:
        if "explain" in vars(base):
            return base is not Cell
        if "step" in vars(base):
            return False
    return False


def explain(
    cell: Cell, weights: Weights, carry: Carry, projected: Projected, affine: Affine = affine
) -> tuple[Carry, jax.Array, Values]:
    """``cell.explain``, or ``None`` for the values of a cell without names for them."""
    if names_values(cell):
        return cell.explain(weights, carry, projected, affine)
    return *cell.step(weights, carry, projected, affine), None


MEMBERS = (
    "num_feature_axes", "has_dropout", "init_params", "output_size", "dropout_masks", "project", "initial_carry",
    "prepare", "step",
)  # fmt: skip
"""What an object has to have to be a cell. ``param_specs`` is needed where a Flax module makes its weights."""


def missing_members(cell: Any) -> list[str]:
    """The ``MEMBERS`` that ``cell`` lacks."""
    return [name for name in MEMBERS if not hasattr(cell, name)]


def check_cell(argument: str, cell: Any) -> None:
    """Raises ``TypeError`` unless ``cell`` is a cell of the core, and says what it lacks."""
    if isinstance(cell, type):
        raise TypeError(f"{argument}: expected a cell, got the class {cell.__name__}; call it with its arguments")
    missing = missing_members(cell)
    if len(missing) == len(MEMBERS):
        raise TypeError(f"{argument}: expected a recurrent cell, got {cell!r}")
    if missing:
        raise TypeError(
            f"{argument}: expected a recurrent cell, got a {type(cell).__name__} without {', '.join(missing)}"
        )
