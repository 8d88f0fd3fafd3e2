"""A warning where a kernel is compiled for several devices, which jax does not let us know while it traces.

A mesh that is in sight while jax traces keeps the kernels away. Shardings that come later, as ``in_shardings`` of
``jax.jit``, do not, and XLA gathers what a kernel reads, and runs it everywhere.
"""

import warnings
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

_on_one_device = Primitive("flax_rnn_on_one_device")


def on_one_device(x: jax.Array) -> jax.Array:
    """``x``, and a warning if this is compiled for more than one device."""
    return _on_one_device.bind(x)  # pyright: ignore[reportReturnType]


def _lower(context: Any, x: Any) -> list[Any]:
    devices = getattr(context.module_context.axis_context, "num_devices", 1)
    if devices > 1:
        warnings.warn(
            f"a native kernel of flax_rnn is compiled for {devices} devices: inputs that are sharded over them are "
            'gathered. implementation="fused" keeps them apart, and so does a mesh in sight (jax.set_mesh)',
            stacklevel=2,
        )
    return [x]


_on_one_device.def_impl(lambda x: x)
_on_one_device.def_abstract_eval(lambda x: x)
batching.defvectorized(_on_one_device)
mlir.register_lowering(_on_one_device, _lower)
