"""A setting as the library runs it, with one of its implementations."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flax_rnn
from benchmarks.cases import array_dtype
from benchmarks.checks.reference import weights_of
from benchmarks.checks.settings import WINDOW, Setting, Tree
from benchmarks.contestants.with_jax import precision

Function = Callable[[Tree], tuple[jax.Array, Any]]
"""``arrays -> (outputs, state of each cell)``."""

CELLS: dict[str, Callable[..., Any]] = {
    "lstm": flax_rnn.LSTMCell,
    "gru": flax_rnn.GRUCell,
    "gru-reset-before": lambda units, **options: flax_rnn.GRUCell(units, reset_after=False, **options),
    "simple_rnn": flax_rnn.SimpleRNNCell,
    "cudnn-lstm": flax_rnn.CuDNNLSTMCell,
    "cudnn-gru": flax_rnn.CuDNNGRUCell,
    "conv-lstm": lambda units, **options: flax_rnn.ConvLSTM1DCell(units, WINDOW, padding="same", **options),
}


def cell_of(setting: Setting, dtype: str) -> Any:
    """The cell of the library."""
    options: dict[str, Any] = {"dtype": jnp.dtype(array_dtype(dtype))}
    if not setting.cell.startswith("cudnn-"):
        options |= {
            "activation": setting.activation, "use_bias": setting.bias,
            "dropout": setting.dropout, "recurrent_dropout": setting.recurrent_dropout,
        }  # fmt: skip
    return CELLS[setting.cell](setting.size.units, **options)


def function_of(setting: Setting, implementation: str, dtype: str) -> Function:
    """The layer, with the options of the setting."""
    cell, mask, resets, dropped = cell_of(setting, dtype), setting.mask_array(), setting.reset_array(), None
    if masks := setting.dropped():
        dropped = flax_rnn.DropoutMasks(*jax.tree.map(lambda mask: jnp.asarray(mask, jnp.float32), masks))
    time_major = bool(setting.option("time_major"))
    options: dict[str, Any] = {"return_sequences": True, "return_state": True, "implementation": implementation}
    options |= setting.options
    if setting.mask == "padded" and mask is not None:
        options["seq_lengths"] = jnp.asarray(mask.sum(1), jnp.int32)
    elif mask is not None:
        options["mask"] = jnp.asarray(mask.T if time_major else mask)
    if resets is not None:
        options["resets"] = jnp.asarray(resets)
    if dropped:
        options["dropout_masks"] = dropped

    def function(arrays: Tree) -> tuple[jax.Array, Any]:
        params, x, given = arrays["params"], arrays["x"], arrays.get("state")
        states = [None] * len(params) if given is None else [_carry(state) for state in given]
        x = x.swapaxes(0, 1) if time_major else x
        if setting.layout == "stack":
            state = None if given is None else tuple(states)
            stack = flax_rnn.StackedRNNCells([cell, cell])
            return flax_rnn.rnn(stack, tuple(params), x, initial_state=state, **options)
        if setting.layout == "bidirectional":
            return flax_rnn.bidirectional((cell, cell), tuple(params), x, initial_state=tuple(states), **options)
        if setting.layout == "vmap":
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
            outputs, carry = jax.vmap(lambda params: flax_rnn.rnn(cell, params, x, **options))(stacked)
            return outputs, [jax.tree.map(lambda leaf, index=index: leaf[index], carry) for index in range(len(params))]
        outputs, carry = flax_rnn.rnn(cell, params[0], x, initial_state=states[0], **options)
        return outputs.swapaxes(0, 1) if time_major else outputs, [carry]

    return function


def run(setting: Setting, implementation: str, dtype: str, arrays: Tree, compiler_options: Any) -> tuple[Any, Any]:
    """``((outputs, states), gradients of the weighted sum)`` as NumPy arrays, in one computation."""
    function = function_of(setting, implementation, dtype)

    def weighted_sum(arrays: Tree) -> tuple[jax.Array, Any]:
        results = function(arrays)
        leaves = [leaf.astype(jnp.float32) for leaf in jax.tree.leaves(results)]
        weights = [jnp.asarray(weight, jnp.float32) for weight in weights_of(results)]
        return sum((jnp.sum(a * b) for a, b in zip(leaves, weights, strict=True)), jnp.zeros(())), results

    def both(arrays: Tree) -> tuple[Any, Any]:
        with jax.default_matmul_precision(precision(dtype)):
            gradients, results = jax.grad(weighted_sum, has_aux=True)(arrays)
        return results, gradients

    given = jax.tree.map(lambda array: jnp.asarray(array, array_dtype(dtype)), arrays)
    found = jax.jit(both, compiler_options=compiler_options)(given)
    return jax.tree.map(lambda array: np.asarray(array.astype(jnp.float32), np.float64), found)


def _carry(state: list[Any]) -> Any:
    return flax_rnn.LSTMCarry(*state) if len(state) == 2 else state[0]
