"""The functions that XLA calls, called directly: they check every size themselves, whoever calls them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_rnn
from flax_rnn.cells.dropout import DropoutMasks
from flax_rnn.implementations.native import kernels, library

pytestmark = pytest.mark.skipif(library.absent() is not None, reason=str(library.absent()))

CELLS = {
    "simple_rnn": flax_rnn.SimpleRNNCell,
    "lstm": flax_rnn.LSTMCell,
    "gru": flax_rnn.GRUCell,
    "gru_reset_before": lambda units: flax_rnn.GRUCell(units, reset_after=False),
}
KERNELS = {kernel.name: kernel for kernel in kernels.KERNELS}
ACTIVATIONS = {"activation": "tanh", "recurrent_activation": "sigmoid"}

Shapes = dict[str, tuple[int, ...]]


def shapes(target: str, name: str, batch: int, steps: int, features: int, units: int) -> tuple[Shapes, Shapes]:
    """Those of all arguments and results of a kernel, in order."""
    of = KERNELS[name]
    h, c = (batch, units), (batch, units) if of.states == 2 else (0, 0)
    weights = (features, of.gates * units), (units, of.gates * units), (of.sums * units,)
    input_masks, recurrent_masks = (of.gates, batch, features), (of.gates, batch, units)
    x, outputs, gates, extra, d_sums = (
        (batch, steps, size) for size in (features, units, of.saved * units, of.extra * units, of.sums * units)
    )
    mask, none = (batch, steps), (0, 0, 0)
    kernel, recurrent, bias = weights
    kept = (gates, extra) if of.saved else (none, none)
    return {
        library.FORWARD: (
            dict(x=x, kernel=kernel, recurrent_kernel=recurrent, bias=bias, h0=h, c0=c, mask=mask,
                 input_masks=input_masks, recurrent_masks=recurrent_masks),
            dict(h=h, c=c, outputs=outputs, gates=kept[0], extra=kept[1]),
        ),
        library.BACKWARD: (
            dict(outputs=outputs, gates=gates, extra=extra, recurrent_kernel=recurrent, h0=h, c0=c, mask=mask,
                 recurrent_masks=recurrent_masks, d_h=h, d_c=c, d_outputs=outputs),
            dict(d_sums=d_sums, d_h0=h, d_c0=c),
        ),
        library.INPUTS_GRADIENT: (dict(d_sums=d_sums, kernel=kernel, input_masks=input_masks), dict(d_x=x)),
        library.WEIGHTS_GRADIENT: (
            dict(d_sums=d_sums, x=x, outputs=outputs, extra=extra, h0=h, mask=mask, input_masks=input_masks,
                 recurrent_masks=recurrent_masks),
            dict(d_kernel=kernel, d_recurrent_kernel=recurrent, d_bias=bias),
        ),
    }[target]  # fmt: skip


def call(target: str, name: str, arguments: Shapes, results: Shapes, **attributes: Any) -> list[jax.Array]:
    if target in (library.FORWARD, library.BACKWARD):
        attributes = {**ACTIVATIONS, **attributes}
    if target != library.INPUTS_GRADIENT:
        attributes = {"reverse": False, **attributes}
    function: Any = jax.ffi.ffi_call(target, [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in results.values()])
    arrays = [jnp.ones(shape, bool if argument == "mask" else jnp.float32) for argument, shape in arguments.items()]
    return jax.block_until_ready(function(*arrays, **{"cell": name, **attributes}))


TARGETS = (library.FORWARD, library.BACKWARD, library.INPUTS_GRADIENT, library.WEIGHTS_GRADIENT)
ARRAYS = [
    (target, name, array)
    for target in TARGETS
    for name in ("lstm", "gru_reset_before")  # which have all arrays, and differ in what they need of them
    for part in shapes(target, name, 2, 3, 4, 5)
    for array, shape in part.items()
    if 0 not in shape  # what this cell does not have
]


@pytest.mark.each(2, at_most=40)
@pytest.mark.parametrize(("target", "name", "array"), ARRAYS, ids=lambda part: part.removeprefix("flax_rnn_"))
def test_an_array_that_is_too_short_is_refused_by_name(target: str, name: str, array: str) -> None:
    """Along any of its axes, or with one axis fewer."""
    right = shapes(target, name, 2, 3, 4, 5)
    whole = next(part[array] for part in right if array in part)
    shorter = [(*whole[:axis], whole[axis] - 1, *whole[axis + 1 :]) for axis in range(len(whole))]
    for wrong in (*shorter, whole[1:]):
        # What other sizes follow from is believed, and so those are refused.
        named = r"\w+" if array in ("x", "outputs", "d_x", "kernel", "h0", "mask") else array
        arguments, results = ({**part, array: wrong} if array in part else part for part in right)
        with pytest.raises(
            jax.errors.JaxRuntimeError, match=rf"INVALID_ARGUMENT: {named}: expected .*, got (shape )?\("
        ):
            call(target, name, arguments, results)


@pytest.mark.parametrize(
    ("name", "array", "wrong", "why"),
    [
        ("gru", "bias", (1,), r"bias: expected shape \(20,\), got \(1,\)"),
        ("gru", "bias", (2, 3), r"bias: expected shape \(20,\), got \(2, 3\)"),
        ("gru_reset_before", "bias", (4,), r"bias: expected shape \(15,\), got \(4,\)"),
        ("gru_reset_before", "bias", (2, 15), r"bias: expected shape \(15,\), got \(2, 15\)"),
        ("gru_reset_before", "recurrent_masks", (2, 2, 5), r"recurrent_masks: expected shape \(3, 2, 5\)"),
        ("lstm", "recurrent_masks", (5, 2, 5), r"recurrent_masks: expected shape \(4, 2, 5\), got \(5, 2, 5\)"),
        ("lstm", "x", (2, 12), r"x: expected 3 axes, got shape \(2, 12\)"),
    ],
)
def test_it_says_what_is_wrong(name: str, array: str, wrong: tuple[int, ...], why: str) -> None:
    arguments, results = shapes(library.FORWARD, name, 2, 3, 4, 5)
    with pytest.raises(jax.errors.JaxRuntimeError, match=f"INVALID_ARGUMENT: {why}"):
        call(library.FORWARD, name, {**arguments, array: wrong}, results)


def test_unknown_names_are_refused() -> None:
    for attribute in ("cell", "activation", "recurrent_activation"):
        with pytest.raises(jax.errors.JaxRuntimeError, match=rf"INVALID_ARGUMENT: {attribute}: .*, got 'none such'"):
            call(library.FORWARD, "lstm", *shapes(library.FORWARD, "lstm", 2, 3, 4, 5), **{attribute: "none such"})


@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
@pytest.mark.parametrize("name", KERNELS)
def test_one_mask_for_all_gates_is_as_the_same_for_each(name: str, reverse: bool) -> None:
    cell = CELLS[name](21)
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    of, x, h = KERNELS[name], draw(7, 5, 3), draw(7, 21)
    weights = {"kernel": draw(3, of.gates * 21), "recurrent_kernel": draw(21, of.gates * 21) / 5}
    weights["bias"] = draw(of.sums * 21)
    carry = flax_rnn.LSTMCarry(h, -h) if of.states == 2 else h
    mask, one = jnp.asarray(rng.random((7, 5)) < 0.7), (draw(7, 3), draw(7, 21))

    def passes(masks: DropoutMasks) -> Any:
        last, saved = kernels.forward(cell, weights, masks, carry, x, mask, reverse, True, True)
        d_sums, d_carry = kernels.backward(
            cell, weights["recurrent_kernel"], masks, carry, saved, mask, reverse, last, saved.outputs
        )
        d_x = kernels.inputs_gradient(cell, d_sums, weights["kernel"], masks)
        d_weights = kernels.weights_gradient(cell, d_sums, x, saved, carry, mask, masks, reverse)
        return last, saved.outputs, d_sums, d_carry, d_x, d_weights

    shared = jax.jit(passes)(DropoutMasks((one[0],), (one[1],)))
    each = jax.jit(passes)(DropoutMasks((one[0],) * of.gates, (one[1],) * of.gates))
    for a, b in zip(*map(jax.tree.leaves, (shared, each)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


@pytest.mark.parametrize("sizes", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0), (0, 0, 0, 0)], ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_arrays_without_elements(name: str, sizes: tuple[int, ...]) -> None:
    """No batch, no steps, no features, no units: nothing is read, and gradients of weights are zeros."""
    for target in TARGETS:
        arguments, results = shapes(target, name, *sizes)
        found = call(target, name, arguments, results)
        assert [array.shape for array in found] == list(results.values())
        if target == library.WEIGHTS_GRADIENT and 0 in sizes[:2]:
            assert not any(array.any() for array in found)


TOO_LARGE = """
import resource
import jax, jax.numpy as jnp
from flax_rnn.implementations.native import library
assert library.absent() is None
UNITS = 2**20
call = jax.ffi.ffi_call(library.INPUTS_GRADIENT, [jax.ShapeDtypeStruct((2, 5, 1), jnp.float32)])
arrays = jnp.ones((2, 5, UNITS)), jnp.ones((1, UNITS)), jnp.zeros((0, 0, 0))
compiled = jax.jit(lambda *arrays: call(*arrays, cell="simple_rnn")).lower(*arrays).compile()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
before = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, before[1]))  # and the kernel asks for a panel of 2**28
try:
    print(compiled(*arrays)[0].block_until_ready())
except jax.errors.JaxRuntimeError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, before)
print(compiled(*arrays)[0].shape)
"""


# A sanitizer has its own way with memory, and all of the address space.
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="there is no /proc here")
@pytest.mark.skipif("FLAX_RNN_KERNELS" in os.environ, reason="a library of one's own may reserve all addresses")
def test_without_memory_it_is_an_error() -> None:
    """And not the end of the process, which may go on."""
    done = subprocess.run([sys.executable, "-c", TOO_LARGE], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.strip().splitlines()
    assert first == "RESOURCE_EXHAUSTED: out of memory" and second == "(2, 5, 1)"
