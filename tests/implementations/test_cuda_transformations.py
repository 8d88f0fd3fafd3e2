"""What jax and the layers make of the CUDA kernels: vmap, second derivatives, chunks, stacks, directions, faces."""

from collections.abc import Callable
from typing import Any

import cuda_device
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cuda_device import assert_close, calls, dropped, exact, gradients, marks, narrow, problem
from flax import nnx

import flax_rnn
import flax_rnn.linen as linen_face
import flax_rnn.nnx as nnx_face

gpu = cuda_device.gpu
pytestmark = [pytest.mark.full, cuda_device.needed, pytest.mark.usefixtures("gpu")]

CELLS = {"LSTM": flax_rnn.LSTMCell(5), "GRU": flax_rnn.GRUCell(5), "SimpleRNN": flax_rnn.SimpleRNNCell(5)}
MASK, RESETS = marks()
every_cell = pytest.mark.parametrize("name", CELLS)


def layer(cell: Any, how: str, **options: Any) -> Callable[..., Any]:
    """A function of weights, inputs, state, dropout masks, mask and resets."""
    options = {"return_sequences": True, "return_state": True, **options}

    def run(weights: Any, x: Any, state: Any = None, masks: Any = None, mask: Any = None, resets: Any = None) -> Any:
        return flax_rnn.rnn(
            cell, weights, x, initial_state=state, dropout_masks=masks, mask=mask, resets=resets, implementation=how,
            **options,
        )  # fmt: skip

    return run


def many(tree: Any) -> Any:
    """Three of each, with the new axis at the front."""
    return jax.tree.map(lambda leaf: np.stack([leaf, leaf[::-1], leaf / 2 if leaf.dtype == float else ~leaf]), tree)


def derivatives(function: Callable[..., Any]) -> Callable[..., Any]:
    """With respect to weights, inputs, state and dropout masks."""

    def run(weights: Any, x: Any, state: Any, masks: Any, *steps: Any) -> Any:
        def loss(*floats: Any) -> Any:
            return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(function(*floats, *steps)))

        return jax.grad(loss, (0, 1, 2, 3))(weights, x, state, masks)

    return run


# Which of weights, inputs, state, dropout masks, mask and resets there are many of.
MAPPED = {
    "inputs": ("x",),
    "rows": ("x", "state", "masks", "mask", "resets"),
    "state": ("state",),
    "masks of dropout": ("masks",),
    "mask": ("mask",),
}
NAMES = ("weights", "x", "state", "masks", "mask", "resets")


def mapped(cell: Any, over: tuple[str, ...]) -> tuple[Any, Any]:
    """Arguments of a layer, some of them many, and their axes for ``jax.vmap``."""
    arguments = (*problem(cell), dropped(cell, 1, cell.num_gates), MASK, RESETS)
    pairs = zip(NAMES, arguments, strict=True)
    arrays = tuple(many(argument) if name in over else argument for name, argument in pairs)
    return arrays, tuple(0 if name in over else None for name in NAMES)


def floats_narrow(arrays: Any) -> Any:
    return (*narrow(arrays[:4]), *arrays[4:])


@pytest.mark.each(1)
@every_cell
@pytest.mark.parametrize("over", MAPPED)
def test_under_vmap_rows_of_all_are_rows_of_one_call(over: str, name: str) -> None:
    cell = CELLS[name]
    arrays, axes = mapped(cell, MAPPED[over])
    run = jax.vmap(derivatives(layer(cell, "cuda")), axes)
    assert calls(run, *floats_narrow(arrays)) == [("backward", 15), ("forward", 15)]
    plain = jax.vmap(derivatives(layer(cell, "scan")), axes)
    assert_close(jax.jit(run)(*floats_narrow(arrays)), exact(jax.jit(plain), *arrays), "float32")


@pytest.mark.each(1)
@every_cell
@pytest.mark.parametrize("over", [("weights",), NAMES], ids=["weights", "all"])
def test_under_vmap_layers_with_weights_of_their_own_are_called_one_by_one(over: tuple[str, ...], name: str) -> None:
    cell = CELLS[name]
    arrays, axes = mapped(cell, over)
    run = jax.vmap(derivatives(layer(cell, "cuda")), axes)
    assert calls(run, *floats_narrow(arrays)) == [("backward", 5), ("forward", 5)]
    plain = jax.vmap(derivatives(layer(cell, "scan")), axes)
    assert_close(jax.jit(run)(*floats_narrow(arrays)), exact(jax.jit(plain), *arrays), "float32")


def test_vmap_within_vmap() -> None:
    """Over inputs within one over weights, and with an axis that is not the first."""
    cell = CELLS["GRU"]
    weights, x, _ = problem(cell)
    arrays = many(weights), np.moveaxis(many(x), 0, 2)

    def both(how: str) -> Callable[..., Any]:
        return jax.vmap(jax.vmap(layer(cell, how), (None, 2)), (0, None))

    assert calls(both("cuda"), *narrow(arrays)) == [("forward", 15)]
    assert_close(jax.jit(both("cuda"))(*narrow(arrays)), exact(jax.jit(both("scan")), *arrays), "float32")


@pytest.mark.each(1, at_most=1)
@every_cell
def test_it_can_be_differentiated_again(name: str) -> None:
    """By XLA, for which float32 is not TF32; the first derivative is that of the kernels."""
    cell = CELLS[name]
    weights, x, state = problem(cell, (2,), 3)

    def squares(how: str) -> Callable[..., Any]:
        first = jax.grad(lambda *some: sum(jnp.sum(jnp.sin(leaf)) for leaf in some_of(how, *some)), (0, 1, 2))
        return lambda *some: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(first(*some)))

    def some_of(how: str, *some: Any) -> Any:
        return jax.tree.leaves(layer(cell, how)(*some, None, MASK[:2, :3]))

    def run(how: str) -> Callable[..., Any]:
        return jax.jit(jax.grad(squares(how), (0, 1, 2)))

    assert ("backward", 2) in calls(squares("cuda"), *narrow((weights, x, state)))
    found = run("cuda")(*narrow((weights, x, state)))
    assert_close(found, exact(run("scan"), weights, x, state), "float32")


@pytest.mark.parametrize("sequences", [True, False], ids=["all", "last"])
def test_chunks_hand_on_states(sequences: bool) -> None:
    """The kernels run for a chunk, and again on the way back."""
    cell = CELLS["LSTM"]
    options: dict[str, Any] = {"checkpoint_every": 2, "return_sequences": sequences, "go_backwards": True}
    arrays, _ = mapped(cell, ())
    found = jax.jit(derivatives(layer(cell, "cuda", **options)))(*floats_narrow(arrays))
    plain = derivatives(layer(cell, "scan", **{**options, "checkpoint_every": None}))
    assert_close(found, exact(jax.jit(plain), *arrays), "float32")


def test_checkpoint_and_a_scan_over_calls() -> None:
    cell = CELLS["GRU"]
    arrays, _ = mapped(cell, ())
    ours = jax.jit(derivatives(layer(cell, "cuda")))(*floats_narrow(arrays))
    again = jax.jit(derivatives(jax.checkpoint(layer(cell, "cuda"))))(*floats_narrow(arrays))

    def step(carry: Any, _: Any) -> Any:
        return carry, derivatives(layer(cell, "cuda"))(*carry)

    scanned = jax.jit(lambda carry: jax.lax.scan(step, carry, length=2))(floats_narrow(arrays))[1]
    assert_close(again, ours, "float32")
    assert_close(scanned, jax.tree.map(lambda leaf: np.stack([leaf, leaf]), ours), "float32")


def test_without_jit() -> None:
    cell = CELLS["LSTM"]
    arrays, _ = mapped(cell, ())
    with jax.disable_jit():
        found = layer(cell, "cuda")(*floats_narrow(arrays))
    assert_close(found, exact(jax.jit(layer(cell, "scan")), *arrays), "float32")


def test_a_stack() -> None:
    """One call for each cell; what is kept for the backward pass is not where nobody asks for it."""
    stack = flax_rnn.StackedRNNCells((CELLS["LSTM"], CELLS["GRU"]))
    weights = tuple(problem(cell, features=size)[0] for cell, size in zip(stack.cells, (4, 5), strict=True))
    x = problem(CELLS["LSTM"])[1]

    def run(how: str) -> Callable[..., Any]:
        return lambda weights, x: layer(stack, how)(weights, x, mask=MASK, resets=RESETS)

    assert calls(run("cuda"), *narrow((weights, x))) == [("forward", 5)] * 2
    assert_close(gradients(run("cuda"), *narrow((weights, x))), exact(gradients, run("scan"), weights, x), "float32")


def test_both_directions() -> None:
    cells = CELLS["LSTM"], flax_rnn.CuDNNLSTMCell(5)
    weights, x = tuple(problem(cell)[0] for cell in cells), problem(cells[0])[1]

    def run(how: str) -> Callable[..., Any]:
        return lambda weights, x: flax_rnn.bidirectional(
            cells, weights, x, mask=MASK, return_sequences=True, implementation=how
        )

    assert_close(gradients(run("cuda"), *narrow((weights, x))), exact(gradients, run("scan"), weights, x), "float32")


@pytest.mark.parametrize("face", ["nnx", "linen"])
def test_layers_of_flax(face: str) -> None:
    """In training, with the dropout of their own keys, whose numbers are the same whatever runs them."""
    x = jnp.asarray(problem(CELLS["LSTM"])[1], jnp.float32)

    def loss_of(how: str) -> Any:
        options: dict[str, Any] = {"dropout": 0.3, "recurrent_dropout": 0.3, "implementation": how}
        if face == "nnx":
            model = nnx_face.LSTM(4, 5, **options, rngs=nnx.Rngs(0, dropout=1))
            return nnx.jit(nnx.grad(lambda model, x: (model(x, mask=MASK) ** 2).sum()))(model, x)
        module: Any = linen_face.LSTM(5, **options, deterministic=False)
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        variables = module.init(keys, x)
        return jax.jit(jax.grad(lambda v: (module.apply(v, x, mask=MASK, rngs=keys) ** 2).sum()))(variables)

    with flax_rnn.portable("cpu"):
        expected = loss_of("scan")
    assert_close(loss_of("cuda"), expected, "float32")
