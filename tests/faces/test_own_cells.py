"""The cells of docs/extending.md, wherever a cell can run, against loops in NumPy."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from flax import nnx

import flax_rnn
import flax_rnn.linen
import flax_rnn.nnx
from flax_rnn import initializers
from flax_rnn.cells.protocol import affine

DOCUMENT = Path(__file__).parents[2] / "docs" / "extending.md"
LinenRNN: Any = flax_rnn.linen.RNN  # whose first argument type checkers take to be `deterministic`
B, T, D, H = 3, 5, 2, 4
MASK = np.array([[1, 1, 0, 1, 1], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]], bool)


def classes() -> Iterator[tuple[str, str]]:
    """Name and text of each class in the document."""
    for code in re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE):
        for text in re.findall(r"^class .*?(?=^\S|\Z)", code, re.DOTALL | re.MULTILINE):
            yield re.findall(r"class (\w+)", text)[0], text


@pytest.fixture(scope="module")
def cells() -> dict[str, Any]:
    codes = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"__name__": "extending"}
    for code in codes[:2]:
        exec(compile(code, "extending.md", "exec"), names)
    return {name: names[name] for name, _ in classes()}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def normalize(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return scale * (x - x.mean()) / np.sqrt(x.var() + 1e-6)


def peephole(w: Any, h: np.ndarray, c: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    i, f, g, o = np.split(x @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"], 4)
    new = sigmoid(f + w["peephole"][1] * c) * c + sigmoid(i + w["peephole"][0] * c) * np.tanh(g)
    return sigmoid(o + w["peephole"][2] * new) * np.tanh(new), new


def layer_norm(w: Any, h: np.ndarray, c: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inner, outer = (
        normalize(x @ w["kernel"], w["input_scale"]),
        normalize(h @ w["recurrent_kernel"], w["recurrent_scale"]),
    )
    i, f, g, o = np.split(inner + outer + w["bias"], 4)
    new = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(normalize(new, w["scale"]) + w["shift"]), new


STEPS = {"PeepholeLSTMCell": peephole, "LayerNormLSTMCell": layer_norm}


def expected(name: str, w: Any, x: np.ndarray, state: Any, mask: Any, reverse: bool) -> tuple[Any, Any]:
    """Row by row and step by step: outputs in the order of the inputs, and last carries."""
    w = {key: np.float64(value) for key, value in w.items()}
    outputs, last = np.zeros((*x.shape[:2], state[0].shape[1])), [np.array(part, np.float64) for part in state]
    for row in range(len(x)):
        held = np.zeros(state[0].shape[1])
        for step in reversed(range(x.shape[1])) if reverse else range(x.shape[1]):
            if mask is None or mask[row, step]:
                held, last[1][row] = STEPS[name](w, last[0][row], last[1][row], x[row, step].astype(np.float64))
                last[0][row] = held
            outputs[row, step] = held
    return outputs, last


def problem(cell: Any, in_features: int = D, seed: int = 0) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: cell.init_params(jax.random.key(0), in_features))
    weights = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f4") * 0.7 + 0.1, shapes)
    states = tuple(rng.normal(size=(B, H)).astype("f4") for _ in range(2))
    return weights, rng.normal(size=(B, T, in_features)).astype("f4"), states


@pytest.mark.parametrize(("name", "text"), [*classes()])
def test_a_cell_is_short_and_there_are_both(name: str, text: str) -> None:
    assert name in STEPS
    assert len([line for line in textwrap.dedent(text).split("\n") if line.strip()]) <= 25


@pytest.mark.each(2)
@pytest.mark.parametrize("implementation", ["fused", "scan"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_numbers(cells: Any, name: str, masked: bool, reverse: bool, implementation: str) -> None:
    cell, mask = cells[name](H), MASK if masked else None
    weights, x, state = problem(cell)
    outputs, carry = flax_rnn.rnn(
        cell, weights, x, initial_state=state, mask=mask, return_sequences=True, return_state=True,
        go_backwards=reverse, keep_order=True, implementation=implementation,
    )  # fmt: skip
    oracle.assert_close((outputs, [*carry]), expected(name, weights, x, state, mask, reverse), 2e-5)


@pytest.mark.parametrize("name", STEPS)
def test_gradients_of_the_fast_backward_pass(cells: Any, name: str) -> None:
    """Of weights, inputs and state: central differences of the loop in NumPy; and no product with a weight is left
    within the backward pass but those for the state's gradient."""
    cell = cells[name](H)
    assert flax_rnn.choose(cell).implementation == "fused"
    point = problem(cell)

    def loss(point: Any, implementation: str = "auto") -> Any:
        weights, x, state = point
        outputs, carry = flax_rnn.rnn(
            cell, weights, x, initial_state=state, mask=MASK, return_sequences=True, return_state=True,
            implementation=implementation,
        )  # fmt: skip
        return oracle.weighted_sum(1, (outputs, [*carry]))

    def exact(point: Any) -> Any:
        weights, x, state = point
        return oracle.weighted_sum(1, expected(name, weights, x, state, MASK, False))

    wide = jax.tree.map(np.float64, point)
    fused, plain = (jax.jit(jax.grad(lambda point, how=how: loss(point, how)))(point) for how in ("fused", "scan"))
    oracle.assert_close(fused, plain, 2e-5)
    oracle.assert_close(fused, oracle.central_differences(exact, wide), 3e-4)
    assert outer_products(loss, point, "fused") == 0 < outer_products(loss, point, "scan")


def outer_products(loss: Any, point: Any, implementation: str) -> int:
    """How many gradients of a recurrent weight, ``(H, 4 H)``, a loop of the backward pass forms step by step."""
    jaxpr: Any = jax.make_jaxpr(jax.grad(lambda point: loss(point, implementation)))(point)
    products = [e for e, inside in oracle.equations(jaxpr.jaxpr) if inside and e.primitive.name == "dot_general"]
    return sum({*e.outvars[0].aval.shape} == {H, 4 * H} for e in products)


def weights_in(tree: Any, like: Any) -> Any:
    """`tree` with random numbers."""
    rng = np.random.default_rng(like)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.5, leaf.dtype), tree)


FORMS = ("single", "stack", "bidirectional")


@pytest.mark.each(2)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("face", ["nnx", "linen"])
def test_faces(cells: Any, face: str, name: str, form: str) -> None:
    """What the core computes with the same weights, which the tests above compare with NumPy."""
    own, below, above = cells[name](H), flax_rnn.LSTMCell(3), flax_rnn.LSTMCell(5)
    stack = flax_rnn.StackedRNNCells([below, own, above])
    x = np.random.default_rng(3).normal(size=(B, T, D)).astype("f4")
    options: dict[str, Any] = {"return_sequences": True, "return_state": True}
    if face == "nnx":
        rngs = nnx.Rngs(0)
        modules = [flax_rnn.nnx.LSTMCell(D, 3, rngs=rngs), own, flax_rnn.nnx.LSTMCell(H, 5, rngs=rngs)]
        layer: Any = flax_rnn.nnx.RNN(modules if form == "stack" else own, in_features=D, rngs=rngs, **options)
        layer = flax_rnn.nnx.Bidirectional(layer, rngs=rngs) if form == "bidirectional" else layer
        tree = weights_in(nnx.to_pure_dict(nnx.state(layer, nnx.Param)), 1)
        nnx.update(layer, tree)
        outputs, carry = layer(x, mask=MASK)
    else:
        modules = [flax_rnn.linen.LSTMCell(3), own, flax_rnn.linen.LSTMCell(5)]
        layer = LinenRNN(modules if form == "stack" else own, **options)
        layer = flax_rnn.linen.Bidirectional(layer) if form == "bidirectional" else layer
        tree = weights_in(jax.eval_shape(layer.init, jax.random.key(0), x)["params"], 1)
        outputs, carry = layer.apply({"params": tree}, x, mask=MASK)
    nodes = [node for _, node in sorted(nodes_of(tree), key=lambda pair: ("backward" in pair[0], pair[0]))]
    assert len(nodes) == {"single": 1, "stack": 3, "bidirectional": 2}[form]
    if form == "bidirectional":
        reference = flax_rnn.bidirectional((own, own), (nodes[0], nodes[1]), x, mask=MASK, **options)
    elif form == "stack":
        reference = flax_rnn.rnn(stack, tuple(nodes), x, mask=MASK, **options)
    else:
        reference = flax_rnn.rnn(own, nodes[0], x, mask=MASK, **options)
    assert jax.tree.structure((outputs, carry)) == jax.tree.structure(reference)
    oracle.assert_close((outputs, carry), reference, 1e-6)
    assert np.abs(reference[0]).max() > 0.1


def nodes_of(tree: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The weights of each cell with their paths."""
    if "kernel" in tree:
        yield path, tree
    else:
        for name, node in tree.items():
            yield from nodes_of(node, f"{path}/{name}")


class Attending(flax_rnn.Cell):
    """``h' = tanh(x @ kernel + h @ recurrent_kernel + memory)``."""

    @property
    def takes_constants(self) -> bool:
        return True

    def param_specs(self, in_features: int) -> Any:
        init = initializers.get("glorot_uniform")
        return {"kernel": (init, (in_features, H)), "recurrent_kernel": (init, (H, H))}

    def output_size(self, in_features: int) -> int:
        return H

    def with_constants(self, params: Any, constants: Any) -> Any:
        return {**params, "memory": constants}

    def project(self, params: Any, inputs: Any, masks: Any = None, dot: Any = None) -> Any:
        return inputs @ params["kernel"] + params["memory"]

    def initial_carry(self, params: Any, projected: Any) -> Any:
        return jnp.zeros_like(projected)

    def step(self, weights: Any, carry: Any, projected: Any, affine: Any = affine) -> Any:
        h = jnp.tanh(affine(carry, weights["recurrent_kernel"], projected))
        return h, h


@pytest.mark.parametrize("face", ["core", "nnx", "linen"])
def test_constants_reach_a_cell_that_takes_them(face: str) -> None:
    """Alone in the core, and in the faces above an LSTM that takes none."""
    x, memory = (np.random.default_rng(4).normal(size=size).astype("f4") for size in ((B, T, D), (B, H)))
    cell = Attending()
    options: dict[str, Any] = {"constants": memory}
    if face == "core":
        params = weights_in(jax.eval_shape(lambda: cell.init_params(jax.random.key(0), D)), 1)
        last, below = flax_rnn.rnn(cell, params, x, **options), x
    elif face == "nnx":
        layer: Any = flax_rnn.nnx.RNN([flax_rnn.LSTMCell(D), cell], in_features=D, rngs=nnx.Rngs(0))
        lower, params = (nnx.to_pure_dict(nnx.state(one, nnx.Param)) for one in layer.cell.cells)
        last, below = layer(x, **options), flax_rnn.rnn(flax_rnn.LSTMCell(D), lower, x, return_sequences=True)
    else:
        layer = LinenRNN([flax_rnn.LSTMCell(D), cell])
        variables = layer.init(jax.random.key(0), x, **options)
        lower, params = (variables["params"]["cell"][f"cells_{index}"] for index in range(2))
        last = layer.apply(variables, x, **options)
        below = flax_rnn.rnn(flax_rnn.LSTMCell(D), lower, x, return_sequences=True)
    below, h = np.asarray(below, np.float64), np.zeros((B, H))
    for step in range(T):
        h = np.tanh(below[:, step] @ params["kernel"] + memory + h @ params["recurrent_kernel"])
    oracle.assert_close(last, h, 1e-5)
