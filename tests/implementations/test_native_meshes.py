"""On meshes, each device runs the kernels for its own rows: what is compiled, values, gradients, limits."""

import contextlib
import functools
import re
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import alone, loss_of, randomized

import flax_rnn
from flax_rnn.implementations import partitioned
from flax_rnn.implementations.native import library

pytestmark = pytest.mark.skipif(library.absent() is not None, reason=str(library.absent()))

B, T, D, H = 8, 3, 5, 7
RNG = np.random.default_rng(3)
X: Any = np.float32(RNG.normal(size=(B, T, D)))
MASK: Any = RNG.random((B, T)) < 0.6
STATE: Any = flax_rnn.LSTMCarry(*RNG.normal(size=(2, B, H)).astype(np.float32))
CELL = flax_rnn.LSTMCell(H, dropout=0.3, recurrent_dropout=0.3)
KEY = jax.random.key(0)
WEIGHTS = randomized(jax.eval_shape(lambda: CELL.init_params(KEY, D)))
ROWS: Any = (X, STATE, MASK)  # what is divided

Run = Callable[..., Any]


def forward(how: str, weights: Any, x: Any, state: Any = None, mask: Any = None, **options: Any) -> Any:
    options = {"return_sequences": True, "return_state": True, "implementation": how, **options}
    return flax_rnn.rnn(CELL, weights, x, initial_state=state, mask=mask, **options)


def training(how: str, weights: Any, x: Any, state: Any = None, mask: Any = None, **options: Any) -> Any:
    """``(gradients by weights, inputs and state, result)``."""

    def loss(weights: Any, x: Any, state: Any) -> Any:
        return loss_of(forward(how, weights, x, state, mask, **options))

    return jax.grad(loss, (0, 1) if state is None else (0, 1, 2), has_aux=True)(weights, x, state)


def masks() -> Any:
    return CELL.dropout_masks(KEY, jnp.asarray(X[:, 0]))


def everything(how: str, weights: Any, x: Any, state: Any, mask: Any) -> Any:
    return training(how, weights, x, state, mask, dropout_key=KEY)


@functools.cache
def expected() -> Any:
    return alone(functools.partial(everything, "scan"), WEIGHTS, *ROWS)


def assert_close(actual: Any, expected: Any) -> None:
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=2e-5)


def mesh_of(kind: AxisType = AxisType.Auto, **sizes: int) -> Any:
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(kind,) * len(sizes))


def put(mesh: Any, tree: Any, *spec: Any) -> Any:
    return jax.device_put(tree, NamedSharding(mesh, P(*spec)))


def assert_kernels_have(rows: int, compiled: Any, *, gathers: int | None = 0) -> None:
    """All four kernels are called, and for so many rows; nothing is gathered, or so many arrays, or maybe some."""
    text = compiled.as_text()
    calls = re.findall(r'custom_call_target="flax_rnn_(\w+)", operand_layout_constraints=\{\w+\[(\d+),', text)
    assert {name for name, _ in calls} == {"forward", "backward", "inputs_gradient", "weights_gradient"}
    assert {int(size) for _, size in calls} == {rows}, calls
    assert gathers in (None, len(re.findall(r" all-gather\(", text)))
    # The gradients of the sums take the place of the gates.
    assert re.search(r"flax_rnn_backward.*output_to_operand_aliasing=\{\{0\}: \(1, \{\}\)\}", text)


def in_shard_map(mesh: Any) -> Run:
    """A step as in data-parallel training, where weights are the same everywhere."""

    def step(weights: Any, x: Any, state: Any, mask: Any) -> Any:
        rows = jax.lax.axis_index("data") * 2 + jnp.arange(2)
        own = jax.tree.map(lambda leaf: leaf[rows], masks())
        return training("native", weights, x, state, mask, dropout_masks=own)

    each = P("data")
    return jax.shard_map(step, mesh=mesh, in_specs=(P(), each, each, each), out_specs=((P(), each, each), each))


WAYS = ("auto", "explicit", "no mesh in sight", "in_shardings", "shard_map")


def compiled_for(way: str) -> tuple[Any, Any]:
    """A step of training that is compiled for a batch over four devices, and its result."""
    mesh = mesh_of(AxisType.Explicit if way == "explicit" else AxisType.Auto, data=4)
    weights, rows = put(mesh, WEIGHTS), put(mesh, ROWS, "data")
    run: Any = functools.partial(everything, "native")
    options: dict[str, Any] = {}
    if way == "in_shardings":
        whole, divided = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
        weights, rows, options = WEIGHTS, ROWS, {"in_shardings": (whole, divided, divided, divided)}
    if way == "shard_map":
        run = in_shard_map(mesh)
    with jax.set_mesh(mesh) if way in ("auto", "explicit") else contextlib.nullcontext():
        compiled = jax.jit(run, **options).lower(weights, *rows).compile()
        return compiled, compiled(weights, *rows)


@pytest.mark.parametrize("way", WAYS)
def test_each_device_runs_the_kernels_for_its_own_rows(way: str) -> None:
    compiled, result = compiled_for(way)
    assert_kernels_have(2, compiled)
    assert_close(result, expected())


def test_what_is_gathered_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitioned, "_names", lambda mesh, *_: (None, mesh))
    compiled, result = compiled_for("auto")
    with pytest.raises(AssertionError, match=r"\{8\} == \{2\}"):
        assert_kernels_have(2, compiled)
    assert_close(result, expected())


def test_the_rows_of_a_device_are_those_of_one_device_to_the_last_bit() -> None:
    mesh = mesh_of(data=4)
    run = jax.jit(functools.partial(forward, "native"))
    result = run(put(mesh, WEIGHTS), put(mesh, X, "data"))
    for first in range(0, B, 2):
        own = jax.tree.map(lambda leaf, first=first: leaf[first : first + 2], result)
        jax.tree.map(np.testing.assert_array_equal, own, run(WEIGHTS, X[first : first + 2]))


GRID: dict[str, Any] = {
    "one axis of two": (X, ("b",), (), 4, 0),
    "both axes": (X, (("b", "a"),), (), 2, 0),
    "weights, too": (X, ("a",), (None, "b"), 4, 2),
    "features": (X[..., :4], ("a", None, "b"), (), 4, None),
    "time": (X[:, :2], ("a", "b"), (), 4, None),
    "not divisible": (X[:6], (("a", "b"),), (), 6, None),
    "two batch axes": (X.reshape(4, 2, T, D), ("a",), (), 4, 0),
    "the second of two batch axes": (X.reshape(4, 2, T, D), (None, "a"), (), 8, None),
}


@pytest.mark.parametrize("case", GRID)
def test_a_batch_over_some_axes_of_a_mesh(case: str) -> None:
    """What is divided otherwise than by the first batch axis is gathered, and the numbers are the same."""
    x, spec, weights_spec, rows, gathers = GRID[case]
    mesh = mesh_of(a=2, b=2)
    weights = {name: leaf[: x.shape[-1]] if name == "kernel" else leaf for name, leaf in WEIGHTS.items()}
    divided = {name: put(mesh, leaf, *weights_spec[: leaf.ndim]) for name, leaf in weights.items()}

    def run(how: str, weights: Any, x: Any) -> Any:
        x = jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(*spec)))
        return training(how, weights, x)

    given = x if case == "not divisible" else put(mesh, x, *spec)
    compiled = jax.jit(functools.partial(run, "native")).lower(divided, given).compile()
    assert_kernels_have(rows, compiled, gathers=gathers)
    assert_close(compiled(divided, given), alone(functools.partial(training, "scan"), weights, x))


EXPLICIT: dict[str, Any] = {
    "inputs": (("a",), ()),
    "states": ((), ("a",)),
    "over different axes": (("a",), ("b",)),
    "features": (("b", None, "a"), ("b",)),
}


@pytest.mark.parametrize("case", EXPLICIT)
def test_arrays_on_explicit_axes_need_not_be_divided_alike(case: str) -> None:
    spec, state_spec = EXPLICIT[case]
    x, weights = X[..., :4], {**WEIGHTS, "kernel": WEIGHTS["kernel"][:4]}
    mesh = mesh_of(AxisType.Explicit, a=2, b=2)
    with jax.set_mesh(mesh):
        arrays = put(mesh, weights), put(mesh, x, *spec), put(mesh, STATE, *state_spec)
        compiled = jax.jit(functools.partial(training, "native")).lower(*arrays).compile()
        (_, d_x, d_state), _ = result = compiled(*arrays)
    assert_kernels_have(4, compiled, gathers=None)
    assert_close(result, alone(functools.partial(training, "scan"), weights, x, STATE))
    assert d_x.sharding.spec == P(*spec, *[None] * (3 - len(spec)))
    assert d_state.h.sharding.spec == P(*state_spec, *[None] * (2 - len(state_spec)))


def summed(how: str, weights: Any, x: Any) -> Any:
    return loss_of(forward(how, weights, x))[0]


@pytest.mark.parametrize("how", ["native", "fused"])
@pytest.mark.parametrize("check", [True, False])
def test_gradients_of_replicated_weights_are_summed_once(check: bool, how: str) -> None:
    """Within ``jax.shard_map`` and around it; without its checks, the sum within is the user's."""
    mesh = mesh_of(data=4)
    divide = functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), check_vma=check)

    def within(weights: Any, x: Any) -> Any:
        gradients = jax.grad(functools.partial(summed, how))(weights, x)
        return gradients if check else jax.lax.psum(gradients, "data")

    def around(weights: Any, x: Any) -> Any:
        return divide(lambda *arrays: jax.lax.psum(summed(how, *arrays), "data"))(weights, x)

    exact = alone(jax.grad(functools.partial(summed, "scan")), WEIGHTS, X)
    assert_close(jax.jit(divide(within))(WEIGHTS, X), exact)
    assert_close(jax.jit(jax.grad(around))(WEIGHTS, X), exact)


MANY: Any = np.stack([X, -X])


def each_of_many(how: str, weights: Any, many: Any) -> Any:
    return jax.vmap(functools.partial(training, how), (None, 0))(weights, many)


@pytest.mark.parametrize("spec", [(None, "a"), ("a", "b")], ids=["rows", "what is mapped over, and rows"])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_vmap_on_a_mesh(kind: AxisType, spec: Any) -> None:
    mesh = mesh_of(kind, a=2, b=2)
    with jax.set_mesh(mesh):
        result = jax.jit(functools.partial(each_of_many, "native"))(put(mesh, WEIGHTS), put(mesh, MANY, *spec))
    assert_close(result, alone(functools.partial(each_of_many, "scan"), WEIGHTS, MANY))


def test_vmap_within_shard_map_and_around_it() -> None:
    mesh = mesh_of(data=4)
    total = lambda weights, x: jax.lax.psum(summed("native", weights, x), "data")  # noqa: E731
    over_rows = jax.shard_map(total, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    within = jax.shard_map(jax.vmap(total, (None, 0)), mesh=mesh, in_specs=(P(), P(None, "data")), out_specs=P())
    exact = alone(jax.jacrev(jax.vmap(functools.partial(summed, "scan"), (None, 0))), WEIGHTS, MANY)
    for run in (jax.vmap(over_rows, (None, 0)), within):
        assert_close(jax.jit(jax.jacrev(run))(WEIGHTS, MANY), exact)


def test_pmap() -> None:
    run = jax.pmap(functools.partial(training, "native"), in_axes=(None, 0))
    exact = alone(functools.partial(each_of_many, "scan"), WEIGHTS, X.reshape(4, 2, T, D))
    assert_close(run(WEIGHTS, X.reshape(4, 2, T, D)), exact)


def test_a_second_derivative() -> None:
    def twice(how: str, weights: Any, x: Any) -> Any:
        return jax.grad(lambda *arrays: loss_of(training(how, *arrays)[0])[0])(weights, x)

    mesh, weights = mesh_of(data=4), jax.tree.map(lambda leaf: leaf / 4, WEIGHTS)
    result = jax.jit(functools.partial(twice, "native"))(put(mesh, weights), put(mesh, X, "data"))
    exact = alone(functools.partial(twice, "scan"), weights, X)
    for one, other in zip(*map(jax.tree.leaves, (result, exact)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def test_where_shard_map_leaves_axes_to_xla_it_says_so() -> None:
    mesh = mesh_of(a=2, b=2)

    def divided(how: str) -> Any:
        run = jax.shard_map(
            functools.partial(forward, how), mesh=mesh, in_specs=(P(), P("a")), out_specs=P("a"), axis_names={"a"}
        )
        return jax.jit(run)(WEIGHTS, X)

    assert_close(divided("auto"), alone(functools.partial(forward, "scan"), WEIGHTS, X))
    with pytest.raises(ValueError, match=r"'native' cannot be had: .* leaves axes of the mesh to XLA here"):
        divided("native")


def test_arrays_on_two_meshes_are_for_xla() -> None:
    """jax tells a lowering the devices, without which there is no division, for one mesh only."""
    arrays = put(mesh_of(a=2, b=2), WEIGHTS), put(mesh_of(data=4), X, "data")
    exact = alone(functools.partial(forward, "scan"), WEIGHTS, X)
    assert_close(jax.jit(functools.partial(forward, "fused"))(*arrays), exact)
    with pytest.raises(ValueError, match="mesh should be the same"):
        jax.jit(functools.partial(forward, "native"))(*arrays)


def test_with_the_older_partitioner() -> None:
    """An exception in one of our functions would end the process there."""
    if not hasattr(jax.config, "jax_use_shardy_partitioner"):
        pytest.skip("this jax has one partitioner only")
    jax.config.update("jax_use_shardy_partitioner", False)
    try:
        compiled, result = compiled_for("auto")
    finally:
        jax.config.update("jax_use_shardy_partitioner", True)
    assert_kernels_have(2, compiled)
    assert_close(result, expected())


def test_without_jit() -> None:
    with jax.disable_jit():
        result = training("native", WEIGHTS, X, STATE)
    assert_close(result, alone(functools.partial(training, "scan"), WEIGHTS, X, STATE))
