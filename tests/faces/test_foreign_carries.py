"""Cells of others with carries and outputs of every structure and dtype; and plain tuples as carries of ours."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from flax import linen as nn
from flax import nnx

import flax_rnn
import flax_rnn.linen
import flax_rnn.nnx

B, T, D, H = 2, 4, 3, 2
RNG = np.random.default_rng(0)
X: Any = jnp.asarray(RNG.normal(size=(B, T, D)), jnp.float32)
W: Any = jnp.asarray(RNG.normal(size=(D, H)), jnp.float32)
MASK: Any = np.array([[1, 0, 1, 1], [0, 1, 1, 0]], bool)
KEY = jax.random.key(0)
FACES = pytest.mark.parametrize("face", ["nnx", "linen"])
# Type checkers do not know their first arguments.
LinenRNN: Any = flax_rnn.linen.RNN
FlaxLinenRNN: Any = nn.RNN
FlaxNnxRNN: Any = nnx.RNN


@flax.struct.dataclass
class Counted:
    """A carry that is a node of its own."""

    h: Any
    count: Any


class Kind(NamedTuple):
    """What a cell does: ``(batch) -> carry``, and ``(weights, carry, inputs) -> (carry, output)``."""

    start: Callable[[tuple[int, ...]], Any]
    step: Callable[[Any, Any, Any], tuple[Any, Any]]


def mixed(w: Any, x: Any, h: Any) -> Any:
    return jnp.tanh(x @ w + h[..., ::-1])


def halves(batch: tuple[int, ...]) -> Any:
    return jnp.full((*batch, H), 0.5)


def drawn(keys: Any) -> tuple[Any, Any]:
    """The next key of each row, and a number from it."""
    return jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys), jax.vmap(jax.random.normal)(keys)[:, None]


KINDS = {
    "list": Kind(
        lambda batch: [halves(batch), halves(batch)],
        lambda w, c, x: ([mixed(w, x, c[1]), c[0] + 1], {"old": c[0], "pair": (c[1], [x])}),
    ),
    "nested": Kind(
        lambda batch: (halves(batch), [halves(batch)]), lambda w, c, x: ((mixed(w, x, c[1][0]), [c[0]]), c[0])
    ),
    "None": Kind(lambda batch: None, lambda w, c, x: (None, x @ w)),
    "empty": Kind(lambda batch: ((), [], ()), lambda w, c, x: (((), [], ()), (x @ w, [x]))),
    "dataclass": Kind(
        lambda batch: Counted(halves(batch), jnp.ones(batch, jnp.int32)),
        lambda w, c, x: (Counted(mixed(w, x, c.h), c.count + 1), Counted(c.h * c.count[..., None], c.count)),
    ),
    "booleans": Kind(
        lambda batch: {"flag": jnp.ones(batch, bool), "h": halves(batch)},
        lambda w, c, x: (
            {"flag": ~c["flag"], "h": mixed(w, x, c["h"])},
            (jnp.where(c["flag"][..., None], c["h"], -1), c["flag"]),
        ),
    ),
    "keys": Kind(
        lambda batch: (jax.random.split(jax.random.key(3), batch), halves(batch)),
        lambda w, c, x: ((drawn(c[0])[0], mixed(w, x, c[1])), c[1] + drawn(c[0])[1]),
    ),
}
KIND = pytest.mark.parametrize("kind", KINDS)


class NnxCell(nnx.Module):
    num_feature_axes = 1

    def __init__(self, kind: str):
        self.kind, self.w = kind, nnx.Param(W)

    def initialize_carry(self, input_shape: tuple[int, ...], rngs: Any = None) -> Any:
        return KINDS[self.kind].start(input_shape[:-1])

    def __call__(self, carry: Any, inputs: Any) -> Any:
        return KINDS[self.kind].step(self.w[...], carry, inputs)


class LinenCell(nn.Module):
    kind: str

    @property
    def num_feature_axes(self) -> int:
        return 1

    @nn.nowrap
    def initialize_carry(self, rng: Any, input_shape: tuple[int, ...]) -> Any:
        return KINDS[self.kind].start(input_shape[:-1])

    @nn.compact
    def __call__(self, carry: Any, inputs: Any) -> Any:
        return KINDS[self.kind].step(self.param("w", lambda key: W), carry, inputs)


def ours(face: str, kind: str, x: Any = X, *, call: Any = None, **options: Any) -> Any:
    options = {"return_sequences": True, "return_state": True, **options}
    if face == "nnx":
        return flax_rnn.nnx.RNN(NnxCell(kind), **options)(x, **(call or {}))
    return LinenRNN(LinenCell(kind), **options).apply({"params": {"cell": {"w": W}}}, x, **(call or {}))


def theirs(face: str, kind: str, x: Any = X, *, call: Any = None, **options: Any) -> Any:
    options = {"return_carry": True, "keep_order": True, **options}
    if face == "nnx":
        carry, outputs = FlaxNnxRNN(NnxCell(kind), **options)(x, **(call or {}))
    else:
        module = FlaxLinenRNN(LinenCell(kind), **options)
        carry, outputs = module.apply({"params": {"cell": {"w": W}}}, x, **(call or {}))
    return outputs, carry


def numbers(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def assert_same(actual: Any, expected: Any) -> None:
    """Structures, dtypes and numbers."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        assert (a.dtype, a.shape) == (e.dtype, e.shape)
        np.testing.assert_allclose(numbers(a), numbers(e), rtol=1e-5, atol=1e-6)


@pytest.mark.each(2)
@pytest.mark.parametrize("reverse", [False, True])
@KIND
@FACES
def test_it_runs_as_in_flax(face: str, kind: str, reverse: bool) -> None:
    actual = ours(face, kind, go_backwards=reverse, keep_order=True)
    assert_same(actual, theirs(face, kind, reverse=reverse))


@pytest.mark.each(1)
@KIND
@FACES
def test_a_sequence_goes_on_where_it_ended(face: str, kind: str) -> None:
    """What is returned can be given back, to us and to Flax."""
    _, carry = ours(face, kind, X[:, :2])
    expected = ours(face, kind)
    for tail, last in (
        ours(face, kind, X[:, 2:], call={"initial_state": carry}),
        theirs(face, kind, X[:, 2:], call={"initial_carry": carry}),
    ):
        assert_same((tail, last), (jax.tree.map(lambda leaf: leaf[:, 2:], expected[0]), expected[1]))


@pytest.mark.each(1)
@pytest.mark.parametrize("reverse", [False, True])
@KIND
@FACES
def test_masked_steps_are_passed_over(face: str, kind: str, reverse: bool) -> None:
    """Row by row and step by step."""
    outputs, last = ours(face, kind, call={"mask": MASK}, go_backwards=reverse, keep_order=True)
    carry = KINDS[kind].start((B,))
    for row in range(B):
        state = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], carry)
        for t in reversed(range(T)) if reverse else range(T):
            if MASK[row, t]:
                state, output = KINDS[kind].step(W, state, X[row : row + 1, t])
                assert_same(
                    jax.tree.map(lambda leaf, at=(row, t): leaf[at], outputs), jax.tree.map(lambda o: o[0], output)
                )
        assert_same(jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], last), state)


@pytest.mark.parametrize("kind", ["dataclass", "keys"])
def test_gradients_pass_by_what_has_none(kind: str) -> None:
    """Integers and keys in the carry are in the way of no gradient, whatever evaluates the loop."""

    def loss(run: Callable[..., Any], x: Any, **options: Any) -> Any:
        leaves = jax.tree.leaves(run("nnx", kind, x, **options))
        return oracle.weighted_sum(1, [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)])

    expected = jax.grad(lambda x: loss(theirs, x))(X)
    assert np.abs(expected).max() > 0.1
    for implementation in ("scan", "fused"):
        actual = jax.grad(lambda x, how=implementation: loss(ours, x, implementation=how))(X)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.each(1, full=2)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("mask", [None, MASK], ids=["plain", "masked"])
@KIND
@FACES
def test_chunks_change_nothing(face: str, kind: str, mask: Any, reverse: bool) -> None:
    def loss(x: Any, size: int | None) -> Any:
        result = ours(face, kind, x, call={"mask": mask}, go_backwards=reverse, checkpoint_every=size)
        leaves = [leaf for leaf in jax.tree.leaves(result) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return oracle.weighted_sum(1, leaves), result

    (in_chunks, actual), (at_once, expected) = (jax.grad(loss, has_aux=True)(X, size) for size in (3, None))
    assert_same(actual, expected)
    np.testing.assert_allclose(in_chunks, at_once, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["list", "dataclass", "keys"])
@FACES
def test_a_carry_of_another_structure_is_refused(face: str, kind: str) -> None:
    wrong: dict[str, Any] = {
        "list": [halves((B,))],
        "dataclass": (halves((B,)), jnp.ones(B, jnp.int32)),
        "keys": (jnp.zeros((B,), jnp.uint32), halves((B,))),
    }
    with pytest.raises(TypeError if kind == "keys" else ValueError, match=r"^initial_state.*: expected "):
        ours(face, kind, call={"initial_state": wrong[kind]})


OURS: dict[str, Any] = {
    "LSTMCell": lambda *zeros: zeros,
    "stack": lambda *zeros: (zeros, zeros[0]),
}


@pytest.mark.parametrize("kind", OURS)
@FACES
def test_plain_tuples_as_carries_of_ours_stay_plain(face: str, kind: str) -> None:
    """In a single step, in Flax's own RNN and in `jax.lax.scan`, which take the returned carry for the next one."""
    carry = OURS[kind](jnp.full((B, H), 0.3), jnp.full((B, H), -0.2))
    if face == "nnx":
        cells = [flax_rnn.nnx.LSTMCell(D, H, rngs=nnx.Rngs(0)), flax_rnn.nnx.GRUCell(H, H, rngs=nnx.Rngs(1))]
        cell: Any = flax_rnn.nnx.StackedRNNCells(cells) if kind == "stack" else cells[0]
        step: Any = cell
        last, outputs = FlaxNnxRNN(cell, return_carry=True)(X, initial_carry=carry)
        reference, expected = flax_rnn.nnx.RNN(cell, return_sequences=True, return_state=True)(X, carry)
    else:
        modules = flax_rnn.linen.LSTMCell(H), flax_rnn.linen.GRUCell(H)
        cell = flax_rnn.linen.StackedRNNCells(cells=modules) if kind == "stack" else modules[0]
        variables = cell.init(KEY, carry, X[:, 0])
        layer = {"params": {"cell": variables["params"]}}
        step = lambda carry, x: cell.apply(variables, carry, x)  # noqa: E731
        last, outputs = FlaxLinenRNN(cell, return_carry=True).apply(layer, X, initial_carry=carry)
        reference, expected = LinenRNN(cell, return_sequences=True, return_state=True).apply(layer, X, carry)
    scanned, steps = jax.lax.scan(step, carry, X.swapaxes(0, 1))
    once, _ = step(carry, X[:, 0])
    for tree in (last, scanned, once):
        assert jax.tree.structure(tree) == jax.tree.structure(carry)
    oracle.assert_close((last, outputs), (expected, reference), 1e-6)
    oracle.assert_close((scanned, steps.swapaxes(0, 1)), (expected, reference), 1e-6)
    # In our own layers carries have the names that they have here.
    assert isinstance(expected[0] if kind == "stack" else expected, flax_rnn.LSTMCarry)
