"""A cell is one file, an implementation one file and one line: every face runs them."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_rnn
import flax_rnn.linen
import flax_rnn.nnx
from flax_rnn.implementations import choice

LinenRNN: Any = flax_rnn.linen.RNN  # whose first argument type checkers take to be `deterministic`

CELL = '''
import dataclasses

import jax.numpy as jnp
from flax_rnn import Cell, initializers
from flax_rnn.cells.protocol import affine, dot


@dataclasses.dataclass(frozen=True)
class EchoCell(Cell):
    """``h' = x @ kernel + h @ echo``."""

    units: int

    def param_specs(self, in_features):
        init = initializers.get("glorot_uniform")
        return {"kernel": (init, (in_features, self.units)), "echo": (init, (self.units, self.units))}

    def output_size(self, in_features):
        return self.units

    def project(self, params, inputs, masks=None, dot=dot):
        return dot(inputs, params["kernel"], 1)[0]

    def initial_carry(self, params, projected):
        return jnp.zeros_like(projected)

    def step(self, weights, carry, projected, affine=affine):
        h = affine(carry, weights["echo"], projected)
        return h, h
'''

IMPLEMENTATION = '''
from flax_rnn.implementations.scan import Scan


class Recorded(Scan):
    """The plain loop, which tells what it ran."""

    name = "recorded"

    def __init__(self):
        self.cells = []

    def obstacle(self, request):
        return "it is too short" if getattr(request.cell, "units", 9) < 2 else None

    def run(self, loop, arrays):
        self.cells.append(type(loop.cell).__name__)
        return super().run(loop, arrays)
'''


def module_of(folder: Path, name: str, code: str) -> Any:
    (folder / f"{name}.py").write_text(code)
    spec: Any = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """The new cell's class, and the new implementation, which comes first in the list."""
    cell = module_of(tmp_path, "echo_cell", CELL).EchoCell
    recorded = module_of(tmp_path, "recorded", IMPLEMENTATION).Recorded()
    monkeypatch.setattr(choice, "IMPLEMENTATIONS", [recorded, *choice.IMPLEMENTATIONS])
    yield cell, recorded


X: Any = np.random.default_rng(0).normal(size=(2, 3, 2)).astype("f4")


def expected(kernel: Any, echo: Any, x: np.ndarray = X) -> np.ndarray:
    h, outputs = np.zeros((len(x), echo.shape[0])), []
    for step in range(x.shape[1]):
        h = x[:, step] @ np.float64(kernel) + h @ np.float64(echo)
        outputs.append(h)
    return np.stack(outputs, 1)


FORMS = ("single", "stack", "bidirectional")


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("face", ["nnx", "linen"])
def test_every_face_runs_both(room: Any, face: str, form: str, by_name: bool) -> None:
    cell, recorded = room
    options: dict[str, Any] = {"return_sequences": True, "implementation": "recorded" if by_name else "auto"}
    cells = [cell(3), cell(2)] if form == "stack" else cell(3)
    if face == "nnx":
        layer: Any = flax_rnn.nnx.RNN(cells, in_features=2, rngs=nnx.Rngs(0), **options)
        layer = flax_rnn.nnx.Bidirectional(layer, rngs=nnx.Rngs(1)) if form == "bidirectional" else layer
        outputs, tree = layer(X), nnx.to_pure_dict(nnx.state(layer, nnx.Param))
    else:
        layer = LinenRNN(cells, **options)
        layer = flax_rnn.linen.Bidirectional(layer) if form == "bidirectional" else layer
        variables = layer.init(jax.random.key(0), X)
        outputs, tree = layer.apply(variables, X), variables["params"]
    assert {*recorded.cells} == {"EchoCell"} and len(recorded.cells) >= (1 if form == "single" else 2)
    nodes = [node for node in leaves(tree)]
    if form == "bidirectional":
        forward, backward = (expected(**node, x=x) for node, x in zip(nodes, (X, X[:, ::-1]), strict=True))
        reference = np.concatenate([forward, backward[:, ::-1]], -1)
    else:
        reference = X
        for node in nodes:
            reference = expected(**node, x=reference)
    np.testing.assert_allclose(outputs, reference, atol=1e-5)


def leaves(tree: Any) -> Iterator[dict[str, Any]]:
    """The weights of each cell: forward ahead of backward, from the bottom up."""
    if "kernel" in tree:
        yield {"kernel": tree["kernel"], "echo": tree["echo"]}
    else:
        for name in sorted(tree, key=lambda name: ("backward" in str(name), str(name))):
            yield from leaves(tree[name])


def test_the_core_and_the_rule(room: Any) -> None:
    cell, recorded = room
    weights = cell(3).init_params(jax.random.key(0), 2)
    flax_rnn.rnn(cell(3), weights, X)
    assert recorded.cells == ["EchoCell"]
    flax_rnn.rnn(cell(3), weights, X, implementation="scan")
    assert recorded.cells == ["EchoCell"]
    assert flax_rnn.choose(cell(3)).implementation == "recorded"
    assert "not recorded, since it is too short" in flax_rnn.choose(cell(1)).reason
    with pytest.raises(ValueError, match="implementation: 'recorded' cannot be had: it is too short"):
        flax_rnn.rnn(cell(1), cell(1).init_params(jax.random.key(0), 2), X, implementation="recorded")
    names = r"\('auto', 'recorded', 'native', 'fused', 'scan', 'cudnn', 'cuda'\)"
    with pytest.raises(ValueError, match=f"expected one of {names}"):
        flax_rnn.rnn(cell(3), weights, X, implementation="quick")


def test_gradients_of_the_new_cell(room: Any) -> None:
    cell, _ = room
    weights = cell(3).init_params(jax.random.key(0), 2)

    def loss(weights: Any, implementation: str) -> Any:
        return jnp.sum(flax_rnn.rnn(cell(3), weights, X, implementation=implementation) ** 2)

    ours, reference = (jax.grad(loss)(weights, name) for name in ("fused", "recorded"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, reference)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("face", ["nnx", "linen"])
def test_every_face_says_what_keeps_it_from_the_new_one(room: Any, face: str, form: str) -> None:
    """Asked for by name; by itself it is passed over."""
    cell, recorded = room
    cells = [cell(3), cell(1)] if form == "stack" else cell(1)

    def run(name: str) -> Any:
        if face == "nnx":
            layer: Any = flax_rnn.nnx.RNN(cells, in_features=2, rngs=nnx.Rngs(0), implementation=name)
            return flax_rnn.nnx.Bidirectional(layer, rngs=nnx.Rngs(1))(X) if form == "bidirectional" else layer(X)
        layer = LinenRNN(cells, implementation=name)
        layer = flax_rnn.linen.Bidirectional(layer) if form == "bidirectional" else layer
        return layer.init_with_output(jax.random.key(0), X)[0]

    with pytest.raises(ValueError, match=r"^implementation: 'recorded' cannot be had: it is too short"):
        run("recorded")
    recorded.cells.clear()
    assert run("auto").shape == (2, 2 if form == "bidirectional" else 1)
    assert recorded.cells == (["EchoCell"] if form == "stack" else [])
