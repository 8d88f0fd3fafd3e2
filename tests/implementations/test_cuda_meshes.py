"""On meshes, each device runs the CUDA kernels for its own rows: what is compiled, values, gradients, limits."""

import contextlib
import functools
from typing import Any

import cuda_device
import jax
import jax.numpy as jnp
import pytest
from cuda_device import assert_close, calls_in, dropped, marks, narrow, problem
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import alone, loss_of

import flax_rnn

gpu = cuda_device.gpu
pytestmark = [pytest.mark.full, cuda_device.needed, pytest.mark.usefixtures("gpu")]

B, T = 8, 3
CELLS = {"LSTM": flax_rnn.LSTMCell(7), "GRU": flax_rnn.GRUCell(7)}
MARKS = marks((B,), T)


def rows_of(cell: Any) -> Any:
    """Weights, and what is divided."""
    weights, x, state = problem(cell, (B,), T)
    masks = dropped(cell, 1, cell.num_gates, (B,))
    return narrow((weights, (x, state, masks))), MARKS


def training(how: str, cell: Any, weights: Any, rows: Any, steps: Any) -> Any:
    """``(gradients by weights, inputs, state and dropout masks, result)``."""

    def loss(weights: Any, rows: Any) -> Any:
        (x, state, masks), (mask, resets) = rows, steps
        return loss_of(
            flax_rnn.rnn(
                cell, weights, x, initial_state=state, dropout_masks=masks, mask=mask, resets=resets,
                return_sequences=True, return_state=True, implementation=how,
            )
        )  # fmt: skip

    return jax.grad(loss, (0, 1), has_aux=True)(weights, rows)


def mesh_of(kind: AxisType = AxisType.Auto, **sizes: int) -> Any:
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(kind,) * len(sizes))


def put(mesh: Any, tree: Any, *spec: Any) -> Any:
    return jax.device_put(tree, NamedSharding(mesh, P(*spec)))


def expected(cell: Any) -> Any:
    (weights, rows), steps = rows_of(cell)
    with flax_rnn.portable("cpu"):
        return alone(functools.partial(training, "scan", cell), weights, rows, steps)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("way", ["auto", "no mesh in sight", "shard_map"])
def test_each_device_runs_the_kernels_for_its_own_rows(way: str, name: str) -> None:
    cell, mesh = CELLS[name], mesh_of(data=4)
    (weights, rows), steps = rows_of(cell)
    run: Any = functools.partial(training, "cuda", cell)
    if way == "shard_map":
        each = P("data")
        run = jax.shard_map(run, mesh=mesh, in_specs=(P(), each, each), out_specs=((P(), each), each))
    arrays = put(mesh, weights), put(mesh, rows, "data"), put(mesh, steps, "data")
    with jax.set_mesh(mesh) if way == "auto" else contextlib.nullcontext():
        compiled = jax.jit(run).lower(*arrays).compile()
        found = compiled(*arrays)
    text = str(compiled.as_text())
    assert calls_in(text) == [("backward", 2), ("forward", 2)] and " all-gather(" not in text
    assert_close(found, expected(cell), "float32")


@pytest.mark.parametrize("check", [True, False])
def test_gradients_of_replicated_weights_are_summed_once(check: bool) -> None:
    """Within ``jax.shard_map``, also over axes of type Explicit; without its checks, the sum is the user's."""
    cell, mesh = CELLS["GRU"], mesh_of(AxisType.Explicit, data=4)
    (weights, rows), steps = rows_of(cell)

    def run(weights: Any, rows: Any, steps: Any) -> Any:
        gradients = training("cuda", cell, weights, rows, steps)[0][0]
        return gradients if check else jax.lax.psum(gradients, "data")

    each = P("data")
    divided = jax.shard_map(run, mesh=mesh, in_specs=(P(), each, each), out_specs=P(), check_vma=check)
    with jax.set_mesh(mesh):
        found = jax.jit(divided)(put(mesh, weights), put(mesh, rows, "data"), put(mesh, steps, "data"))
    assert_close(found, expected(cell)[0][0], "float32")


def test_vmap_on_a_mesh() -> None:
    """Also where what is mapped over is divided; rows of all are rows of one call."""
    cell, mesh = CELLS["LSTM"], mesh_of(data=2, rows=2)
    (weights, rows), steps = rows_of(cell)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), rows)
    each = jax.vmap(functools.partial(training, "cuda", cell), (None, 0, None))
    arrays = put(mesh, weights), put(mesh, many, "data", "rows"), put(mesh, steps, "rows")
    with flax_rnn.portable("cpu"):
        plain = jax.vmap(functools.partial(training, "scan", cell), (None, 0, None))
        exact = alone(plain, weights, many, steps)
    assert_close(jax.jit(each)(*arrays), exact, "float32")


def test_a_batch_that_cannot_be_divided() -> None:
    """Every device runs all of it."""
    cell, mesh = CELLS["LSTM"], mesh_of(data=4)
    (weights, (x, *_)), _ = rows_of(cell)

    def run(how: str, weights: Any, x: Any) -> Any:
        x = jax.lax.with_sharding_constraint(x[:6], NamedSharding(mesh, P("data")))
        return flax_rnn.rnn(cell, weights, x, implementation=how)

    compiled = jax.jit(functools.partial(run, "cuda")).lower(put(mesh, weights), put(mesh, x, "data")).compile()
    assert calls_in(str(compiled.as_text())) == [("forward", 6)]
    with flax_rnn.portable("cpu"):
        exact = jax.jit(functools.partial(run, "scan"))(weights, x)
    assert_close(compiled(put(mesh, weights), put(mesh, x, "data")), exact, "float32")


def test_what_it_refuses_on_a_mesh() -> None:
    """With words; and ``"auto"`` runs something else."""
    cell = CELLS["LSTM"]
    (weights, (x, *_)), _ = rows_of(cell)

    def run(how: str, weights: Any, x: Any) -> Any:
        return flax_rnn.rnn(cell, weights, x, implementation=how)

    mesh = mesh_of(AxisType.Explicit, data=4)
    with jax.set_mesh(mesh):
        arrays = put(mesh, weights), put(mesh, x, "data")
        jax.jit(functools.partial(run, "auto"))(*arrays)
        with pytest.raises(
            ValueError, match=r"'cuda' cannot be had: .* Explicit the CUDA kernels run within jax\.shard"
        ):
            jax.jit(functools.partial(run, "cuda"))(*arrays)

    mesh = mesh_of(a=2, b=2)
    for how in ("auto", "cuda"):
        in_part = jax.shard_map(
            functools.partial(run, how), mesh=mesh, in_specs=(P(), P("a")), out_specs=P("a"), axis_names={"a"}
        )
        with (
            pytest.raises(ValueError, match=r"'cuda' cannot be had: jax\.shard_map leaves axes of the mesh to XLA")
            if how == "cuda"
            else contextlib.nullcontext()
        ):
            jax.jit(in_part)(weights, x)
