"""flax_rnn, with the implementation that is named."""

from typing import Any

import jax
import jax.numpy as jnp

import flax_rnn
from benchmarks.cases import Case
from benchmarks.contestants import with_jax
from benchmarks.contestants.interface import Run
from flax_rnn import runtime

CELLS = {"lstm": flax_rnn.LSTMCell, "gru": flax_rnn.GRUCell, "simple_rnn": flax_rnn.SimpleRNNCell}


class Ours(with_jax.OnJax):
    """``flax_rnn.rnn`` and ``flax_rnn.bidirectional``; everything that is measured is theirs."""

    def __init__(self, implementation: str, tuned: bool = False):
        if tuned:
            runtime.keep_memory()
        super().__init__()
        self.implementation = implementation
        self.compiler_options = runtime.compiler_options() if tuned else None

    def chosen(self, case: Case) -> str | None:
        """What ``implementation="auto"`` takes for the cells of a case."""
        shape, training = (case.batch, case.steps), case.phase == "training"
        cell, dtype = cell_of(case), case.array_dtype
        with jax.default_matmul_precision(with_jax.precision(case.dtype)):
            choice = flax_rnn.choose(cell, self.implementation, dtype=dtype, shape=shape, training=training)
        return choice.implementation

    def build(self, case: Case) -> Run:
        """See ``Contestant``."""
        mask = case.mask()
        extras = {
            "mask": None if mask is None else jnp.asarray(mask),
            "dropout_key": jax.random.key(0) if case.dropout else None,
        }
        return self.run(case, apply(case, self.implementation), with_jax.on_device(case, case.weights()), extras)


def cell_of(case: Case) -> flax_rnn.Cell:
    """The cell of each layer."""
    dtype = jnp.dtype(case.array_dtype)
    return CELLS[case.cell](
        case.units, case.activation, use_bias=case.bias, recurrent_dropout=case.dropout, dtype=dtype
    )


def apply(case: Case, implementation: str, **more: Any) -> with_jax.Apply:
    """``(params, inputs, arguments of rnn) -> outputs``, with more options of ``rnn``."""
    cell = cell_of(case)

    def function(params: Any, x: jax.Array, extras: dict[str, Any]) -> jax.Array:
        options: dict[str, Any] = {"return_sequences": True, "implementation": implementation, **more, **extras}
        if case.directions == 2:
            return flax_rnn.bidirectional((cell, cell), params[0], x, **options)
        if case.depth > 1:
            return flax_rnn.rnn(flax_rnn.StackedRNNCells([cell] * case.depth), params, x, **options)
        return flax_rnn.rnn(cell, params[0], x, **options)

    return function
