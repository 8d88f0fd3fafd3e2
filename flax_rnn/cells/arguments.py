"""The hyper-parameters of cells: what they are, apart from what is done with them.

A cell of the core adds the pure functions to its arguments; a Flax module of the same name takes the arguments only.
What is checked of an argument goes by the end of its name, so a cell of one's own has its arguments checked, too.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from flax_rnn import _checks, activations, initializers

Dtype = Any

# Flax's names of arguments, and Keras', which are ours.
_NAMES_OF_FLAX = {
    "features": "units",
    "hidden_features": "units",
    "kernel_init": "kernel_initializer",
    "recurrent_kernel_init": "recurrent_initializer",
    "bias_init": "bias_initializer",
    "activation_fn": "activation",
    "gate_fn": "recurrent_activation",
    "reverse": "go_backwards",
    "return_carry": "return_state",
}


class KerasNames:
    """Base of what is built from arguments under Keras' names: others, as Flax has them, are told apart."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Raises ``TypeError`` for an argument that has another name here."""
        fields = getattr(cls, "__dataclass_fields__", {})
        for name in kwargs:
            if (ours := _NAMES_OF_FLAX.get(name)) and name not in fields:
                ours = "filters" if ours == "units" and "filters" in fields else ours
                raise TypeError(f"{name}: unexpected argument of {cls.__name__}; expected Keras' name for it, {ours!r}")
        return super().__new__(cls)


@dataclasses.dataclass(unsafe_hash=True, kw_only=True)
class CellArguments(KerasNames):
    """What all built-in cells have in common.

    Attributes:
      use_bias: whether to add a bias.
      kernel_initializer: for ``kernel``, over the fused matrix of all gates: a name as in Keras, see
        ``flax_rnn.initializers``, or a callable ``(key, shape, dtype) -> array``.
      recurrent_initializer: for ``recurrent_kernel``, likewise.
      bias_initializer: for ``bias``, likewise.
      dropout: rate in [0, 1) at which input features are dropped when training: by masks that are drawn once for a
        sequence, and the same at all of its steps.
      recurrent_dropout: rate in [0, 1) at which features of the previous output are dropped, likewise. Above 0 each
        gate has its own masks, of the inputs too.
      dtype (DTypeLike | None): of the computation; ``None`` takes it from the inputs and the weights. The products take
        operands of this dtype; their sums, the gates and the carry that is integrated over time are kept in float32 at
        least, also where it is bfloat16 or float16.
      param_dtype (DTypeLike): dtype of the weights.
      precision (PrecisionLike): of the matrix products, as in ``jax.lax.dot``.

    Raises:
      ValueError: for arguments that make no sense, such as unknown names.
      TypeError: for arguments of the wrong type, and unknown ones.
    """

    use_bias: bool = True
    kernel_initializer: initializers.InitializerLike = "glorot_uniform"
    recurrent_initializer: initializers.InitializerLike = "orthogonal"
    bias_initializer: initializers.InitializerLike = "zeros"
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: jax.lax.PrecisionLike = None

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Raises ``ValueError`` or ``TypeError`` for hyper-parameters that make no sense, naming them."""
        for field in dataclasses.fields(self):
            name = field.name
            value: Any = getattr(self, name, None)
            if name in ("units", "filters"):
                _checks.positive_int(name, value)
            elif name.endswith("dropout"):
                _checks.rate(name, value)
            elif name.endswith("activation"):
                activations.get(value, name)
            elif name.endswith("_initializer"):
                initializers.get(value, name)


@dataclasses.dataclass(unsafe_hash=True)
class Units:
    """The arguments that come first, and may go without a name; a class of its own for that reason.

    Attributes:
      units: size H of the output and of the state.
      activation: applied to what the new state is made of: a name as in Keras, see ``flax_rnn.activations``, a callable
        ``array -> array`` or ``None`` (linear).
    """

    units: int
    activation: activations.Activation = "tanh"


@dataclasses.dataclass(unsafe_hash=True)
class DenseArguments(CellArguments, Units):
    """The arguments of a ``SimpleRNNCell``: those of ``Units`` and ``CellArguments``."""
