"""Cells that were not written for this library, such as those of Flax: one function from step to step."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from flax_rnn import _checks
from flax_rnn.cells.evaluate import output_shape
from flax_rnn.cells.protocol import Affine, Carry, Cell, Dot, affine, dot


class Bound(NamedTuple):
    """The variables of a foreign cell, and what it is given besides."""

    variables: Any
    constants: Any = None


@dataclasses.dataclass(frozen=True)
class ForeignCell(Cell):
    """A cell made of functions that see the inputs as they are: nothing is computed ahead of the loop.

    Output and carry may have any structure and shapes, and the carry leaves of any dtypes, keys too.

    Attributes:
      module: what the functions come from, to be named in errors.
      feature_axes: its ``num_feature_axes``.
      variables: ``(key, inputs (B, D)) -> variables``, fresh ones.
      start: ``(variables, input_shape) -> carry`` to start from.
      call: ``(variables, carry, inputs (B, D), key, **constants) -> (carry, output)``.
    """

    module: Any
    feature_axes: int
    variables: Callable[..., Any]
    start: Callable[..., Carry]
    call: Callable[..., tuple[Carry, jax.Array]]

    # Made anew for each call, and equal to itself only: what is compiled for it would be kept in vain.
    transient: ClassVar[bool] = True

    @property
    def num_feature_axes(self) -> int:
        """As the module says."""
        return self.feature_axes

    @property
    def records_products(self) -> bool:
        """Its products are out of sight: there is nothing that ``fused`` could keep or postpone."""
        return False

    @property
    def takes_constants(self) -> bool:
        """Whether the module's call has an argument of that name."""
        return "constants" in inspect.signature(type(self.module).__call__).parameters

    def with_constants(self, params: Bound, constants: Any) -> Bound:
        """As ``flax_rnn.bind_constants``."""
        return params._replace(constants=constants)

    def param_specs(self, in_features: int) -> None:
        """Its variables are its own business."""
        del in_features

    def init_params(self, key: jax.Array, in_features: int) -> Bound:
        """As for every cell."""
        return Bound(self.variables(key, jnp.zeros((*(1,) * self.num_feature_axes, in_features))))

    def output_size(self, in_features: int) -> int:
        """As for every cell; found by an abstract evaluation."""
        return output_shape(self, (*(1,) * self.num_feature_axes, in_features))[-1]

    def dropout_masks(self, key: jax.Array, inputs: jax.Array) -> jax.Array:
        """The key itself, the same at every step, so that what the cell draws from it is constant over time."""
        del inputs
        return key

    def project(self, params: Bound, inputs: jax.Array, masks: Any = None, dot: Dot = dot) -> jax.Array:
        """The inputs as they are."""
        del params, masks, dot
        return inputs

    def initial_carry(self, params: Bound, projected: jax.Array) -> Carry:
        """What the module starts from."""
        return jax.tree.map(jnp.asarray, self.start(params.variables, projected.shape))

    def prepare(self, params: Bound, projected: jax.Array, masks: Any = None) -> tuple[Bound, Any]:
        """Nothing to prepare."""
        del projected
        return params, masks

    def step(
        self, weights: tuple[Bound, Any], carry: Carry, projected: jax.Array, affine: Affine = affine
    ) -> tuple[Carry, jax.Array]:
        """One call of the module.

        Raises:
          ValueError: if the carry that it returns is not like the one that it was given.
        """
        del affine
        (variables, constants), key = weights
        given = {} if constants is None else {"constants": constants}
        new, output = self.call(variables, carry, projected, key, **given)
        new = _checks.carry_like(f"the carry that {type(self.module).__name__} returns", carry, new)
        return jax.tree.map(_checks.cast_like, new, carry), output
