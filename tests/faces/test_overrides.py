"""Subclasses of the faces' cells and layers: what they may define anew is honoured, what they may not is refused."""

from typing import Any

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

B, T, D, H = 3, 4, 2, 3
X: Any = np.random.default_rng(0).normal(size=(B, T, D)).astype("f4")
KEY = jax.random.key(0)
FACES = pytest.mark.parametrize("face", ["nnx", "linen"])
# Whose first arguments type checkers take to be `deterministic`, or do not know.
LinenRNN: Any = flax_rnn.linen.RNN
FlaxLinenRNN: Any = nn.RNN
FlaxNnxRNN: Any = nnx.RNN
ALL: dict[str, Any] = {"return_sequences": True, "return_state": True}


class NnxDoubled(flax_rnn.nnx.LSTMCell):
    def __call__(self, carry: Any, inputs: Any) -> Any:
        carry, output = super().__call__(carry, inputs)
        return carry, 2 * output


class NnxOnes(flax_rnn.nnx.LSTMCell):
    def initialize_carry(self, *args: Any, **kwargs: Any) -> Any:
        return jax.tree.map(jnp.ones_like, super().initialize_carry(*args, **kwargs))


class LinenDoubled(flax_rnn.linen.LSTMCell):
    def __call__(self, carry: Any, inputs: Any) -> Any:
        carry, output = super().__call__(carry, inputs)
        return carry, 2 * output


class LinenOnes(flax_rnn.linen.LSTMCell):
    @nn.nowrap
    def initialize_carry(self, *args: Any, **kwargs: Any) -> Any:
        return jax.tree.map(jnp.ones_like, super().initialize_carry(*args, **kwargs))


NNX: dict[str, Any] = {"plain": flax_rnn.nnx.LSTMCell, "call": NnxDoubled, "carry": NnxOnes}
LINEN: dict[str, Any] = {"plain": flax_rnn.linen.LSTMCell, "call": LinenDoubled, "carry": LinenOnes}


def randomized(tree: Any) -> Any:
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.7, leaf.dtype), tree)


def nnx_cells(*kinds: str) -> list[Any]:
    """Cells of these kinds that could stand on top of each other, with random weights."""
    cells = [NNX[kind](size, H, rngs=nnx.Rngs(0)) for kind, size in zip(kinds, (D, H), strict=False)]
    for cell in cells:
        nnx.update(cell, randomized(nnx.state(cell, nnx.Param)))
    return cells


@pytest.mark.each(2)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["call", "carry"])
@FACES
def test_a_layer_runs_what_flax_runs(face: str, kind: str, reverse: bool) -> None:
    own: dict[str, Any] = {"go_backwards": reverse, "keep_order": True, **ALL}
    theirs: dict[str, Any] = {"reverse": reverse, "keep_order": True, "return_carry": True}
    if face == "nnx":
        plain, cell = nnx_cells("plain")[0], nnx_cells(kind)[0]
        layer: Any = flax_rnn.nnx.RNN(cell, **own)
        outputs, carry = layer(X)
        last, expected = FlaxNnxRNN(cell, **theirs)(X)
        unlike, _ = flax_rnn.nnx.RNN(plain, **own)(X)
        start = layer.initialize_carry((B, D))
    else:
        layer = LinenRNN(LINEN[kind](H), **own)
        variables = randomized(jax.eval_shape(layer.init, KEY, X))
        outputs, carry = layer.apply(variables, X)
        last, expected = FlaxLinenRNN(LINEN[kind](H), **theirs).apply(variables, X)
        unlike, _ = LinenRNN(LINEN["plain"](H), **own).apply(variables, X)
        start = layer.initialize_carry(KEY, (B, D))
    oracle.assert_close((outputs, carry), (expected, last), 1e-6)
    assert np.abs(outputs - unlike).max() > 0.05
    assert np.all(start.h == (kind == "carry"))


@pytest.mark.each(1)
@pytest.mark.parametrize("kind", ["call", "carry"])
@FACES
def test_a_list_runs_what_flax_runs_one_after_the_other(face: str, kind: str) -> None:
    if face == "nnx":
        cells = nnx_cells(kind, "plain")
        outputs, carries = flax_rnn.nnx.RNN(cells, **ALL)(X)
        first, x = FlaxNnxRNN(cells[0], return_carry=True)(X)
        second, expected = FlaxNnxRNN(cells[1], return_carry=True)(x)
    else:
        layer = LinenRNN([LINEN[kind](H), LINEN["plain"](H)], **ALL)
        variables = randomized(jax.eval_shape(layer.init, KEY, X))
        outputs, carries = layer.apply(variables, X)
        params = [{"params": {"cell": variables["params"]["cell"][f"cells_{index}"]}} for index in range(2)]
        first, x = FlaxLinenRNN(LINEN[kind](H), return_carry=True).apply(params[0], X)
        second, expected = FlaxLinenRNN(LINEN["plain"](H), return_carry=True).apply(params[1], x)
    oracle.assert_close((outputs, carries), (expected, (first, second)), 1e-6)


@pytest.mark.parametrize("kind", ["call", "carry"])
@FACES
def test_both_directions_run_what_flax_runs(face: str, kind: str) -> None:
    """The backward layer is made from the forward one, and is of the same class."""
    if face == "nnx":
        layer: Any = flax_rnn.nnx.Bidirectional(flax_rnn.nnx.RNN(nnx_cells(kind)[0], **ALL), rngs=nnx.Rngs(1))
        assert type(layer.backward_layer.cell) is NNX[kind]
        forward, backward = (FlaxNnxRNN(one.cell) for one in (layer.forward_layer, layer.backward_layer))
        theirs: Any = nnx.Bidirectional(forward, backward, return_carry=True)(X)
        outputs, carries = layer(X)
    else:
        layer = flax_rnn.linen.Bidirectional(LinenRNN(LINEN[kind](H), **ALL))
        params = randomized(jax.eval_shape(layer.init, KEY, X))["params"]
        outputs, carries = layer.apply({"params": params}, X)
        both: Any = nn.Bidirectional(*(FlaxLinenRNN(LINEN[kind](H)) for _ in range(2)), return_carry=True)
        renamed = {f"{way}_rnn": params[f"{way}_layer"] for way in ("forward", "backward")}
        theirs = both.apply({"params": renamed}, X)
    oracle.assert_close((outputs, carries), theirs[::-1], 1e-6)


@pytest.mark.parametrize("member", ["step", "explain", "project", "prepare", "param_specs"])
@FACES
def test_mathematics_in_a_module_are_refused(face: str, member: str) -> None:
    base = (NNX if face == "nnx" else LINEN)["plain"]
    with pytest.raises(
        TypeError, match=f"^{member}: not expected in the module Mine, .* a subclass of the core's cell"
    ):
        type("Mine", (base,), {member: lambda self, *args: None})


@FACES
def test_a_layer_with_its_own_call_is_not_taken_apart(face: str) -> None:
    if face == "nnx":

        class Halved(flax_rnn.nnx.LSTM):
            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                return super().__call__(*args, **kwargs) / 2

        layer: Any = Halved(D, H, rngs=nnx.Rngs(0))
    else:

        class LinenHalved(flax_rnn.linen.LSTM):
            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                return super().__call__(*args, **kwargs) / 2

        layer = LinenHalved(H)
    build: Any = getattr(flax_rnn, face).Bidirectional
    with pytest.raises(TypeError, match=r"layer: expected a layer whose call is that of flax_rnn, got a .*Halved"):
        build(layer, **({"rngs": nnx.Rngs(0)} if face == "nnx" else {}))


def test_a_constructor_of_its_own_needs_a_backward_layer() -> None:
    class Cell(flax_rnn.nnx.LSTMCell):
        def __init__(self, *, rngs: nnx.Rngs):
            super().__init__(D, H, rngs=rngs)

    class Layer(flax_rnn.nnx.LSTM):
        def __init__(self, *, rngs: nnx.Rngs, back: bool = False):
            super().__init__(D, H, rngs=rngs, go_backwards=back)

    class Run(flax_rnn.nnx.RNN):
        def __init__(self, *, rngs: nnx.Rngs):
            super().__init__(flax_rnn.nnx.LSTMCell(D, H, rngs=rngs))

    rngs = nnx.Rngs(0)
    cell = Cell(rngs=rngs)
    for name, layer in (
        ("Cell", flax_rnn.nnx.RNN(cell)), ("Cell", flax_rnn.nnx.RNN([cell])), ("Layer", Layer(rngs=rngs)),
        ("Run", Run(rngs=rngs)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^backward_layer: expected one, since a new {name} cannot be made from"):
            flax_rnn.nnx.Bidirectional(layer, rngs=rngs)
    forward, backward = Layer(rngs=rngs), Layer(rngs=rngs, back=True)
    both = flax_rnn.nnx.Bidirectional(forward, backward_layer=backward)
    oracle.assert_close(both(X), jnp.concatenate([forward(X), backward(X)], -1), 1e-6)


def test_fields_of_a_linen_subclass_reach_the_other_direction() -> None:
    class Scaled(flax_rnn.linen.LSTMCell):
        scale: float = 2.0

        def __call__(self, carry: Any, inputs: Any) -> Any:
            carry, output = super().__call__(carry, inputs)
            return carry, self.scale * output

    layers = [flax_rnn.linen.Bidirectional(LinenRNN(Scaled(H, scale=scale))) for scale in (1.0, 3.0)]
    variables = randomized(jax.eval_shape(layers[0].init, KEY, X))
    once, thrice = (np.asarray(layer.apply(variables, X)) for layer in layers)
    oracle.assert_close(thrice, 3 * once, 1e-6)
    assert np.abs(once).min() > 1e-4


def test_layers_with_equal_initializers_are_compiled_once() -> None:
    """Those of one's own, too, even if made anew for each layer, since they make no difference to what runs."""
    layers = [
        flax_rnn.nnx.LSTM(D, H, kernel_initializer=nnx.initializers.normal(0.1), rngs=nnx.Rngs(seed)) for seed in (0, 1)
    ]
    others = [flax_rnn.nnx.RNN(flax_rnn.LSTMCell(H, bias_initializer=nnx.initializers.normal()), in_features=D,
                               rngs=nnx.Rngs(seed)) for seed in (0, 1)]  # fmt: skip
    unlike = flax_rnn.nnx.LSTM(D, H, activation="relu", rngs=nnx.Rngs(0))
    traces = []

    @nnx.jit
    def run(layer: Any, x: Any) -> Any:
        traces.append(type(layer))
        return layer(x)

    for pair in (layers, others):
        definitions = [nnx.split(layer)[0] for layer in pair]
        assert definitions[0] == definitions[1] and hash(definitions[0]) == hash(definitions[1])
        traces.clear()
        first, second = (run(layer, X) for layer in pair)
        assert len(traces) == 1
        assert np.abs(first - second).max() > 1e-3
    assert nnx.split(unlike)[0] != nnx.split(layers[0])[0]


@pytest.mark.parametrize("both", [False, True])
def test_tabulate_shows_the_weights_of_every_cell(both: bool) -> None:
    layer: Any = flax_rnn.nnx.LSTM(D, H, rngs=nnx.Rngs(0))
    layer = flax_rnn.nnx.Bidirectional(layer, rngs=nnx.Rngs(1)) if both else layer
    table = nnx.tabulate(layer, X, console_kwargs={"width": 300, "force_terminal": False, "no_color": True})
    rows = [row for row in table.split("\n") if "LSTMCell" in row]
    assert [row.split("/")[0].strip("│ ") for row in rows] == (
        ["forward_layer", "backward_layer"] if both else ["cell"]
    )
    for name, shape in (("kernel", (D, 4 * H)), ("recurrent_kernel", (H, 4 * H)), ("bias", (4 * H,))):
        cells = [cell for cell in table.replace("\x1b", "").split("│") if f" {name}: " in cell]
        assert len(cells) >= len(rows), name
        assert all(str([*shape]).replace(" ", "") in cell for cell in cells), name


@FACES
def test_options_that_do_not_go_together_are_refused(face: str) -> None:
    layers: Any = getattr(flax_rnn, face)
    first, rngs = ((D,), {"rngs": nnx.Rngs(0)}) if face == "nnx" else ((), {})
    for rank in (1, 2, 3):
        for suffix in ("", "Cell"):
            with pytest.raises(ValueError, match=r"^strides, dilation_rate: expected at most one .* got 2 and 3"):
                getattr(layers, f"ConvLSTM{rank}D{suffix}")(*first, 2, 2, strides=2, dilation_rate=3, **rngs)
    for name, value in (("zero_output_for_mask", True), ("implementation", "scan"), ("time_major", True)):
        forward = layers.LSTM(*first, H, **{name: value}, **rngs)
        backward = layers.LSTM(*first, H, go_backwards=True, **rngs)
        with pytest.raises(ValueError, match=f"^backward_layer: expected {name}={value!r} as in the forward layer"):
            layers.Bidirectional(forward, backward_layer=backward)


def test_there_has_to_be_a_state_to_reset() -> None:
    both = flax_rnn.nnx.Bidirectional(flax_rnn.nnx.LSTM(D, H, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(1))
    for model in (both, both.forward_layer, nnx.Linear(2, 3, rngs=nnx.Rngs(0))):
        with pytest.raises(ValueError, match=r"^model: expected stateful layers .*got none in " + type(model).__name__):
            flax_rnn.nnx.reset_state(model)
    layer = flax_rnn.linen.LSTM(H)
    variables = layer.init(KEY, X)
    with pytest.raises(ValueError, match=r"^model: expected stateful layers .*got none in LSTM"):
        flax_rnn.linen.reset_state(variables, model=layer, inputs=X)
    with pytest.raises(ValueError, match=r"^variables: expected a collection 'carry', .*, got params"):
        flax_rnn.linen.reset_state(variables, np.ones(B, bool))


NAMES = {
    "features": "units", "hidden_features": "units", "kernel_init": "kernel_initializer",
    "recurrent_kernel_init": "recurrent_initializer", "bias_init": "bias_initializer", "activation_fn": "activation",
    "gate_fn": "recurrent_activation",
}  # fmt: skip


@pytest.mark.parametrize("theirs", NAMES)
@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU", "CuDNNGRU", "ConvLSTM2D"])
@pytest.mark.parametrize("face", ["core", "nnx", "linen"])
def test_names_of_flax_are_answered_with_ours(face: str, name: str, theirs: str) -> None:
    module: Any = flax_rnn if face == "core" else getattr(flax_rnn, face)
    rngs = {"in_features": D, "rngs": nnx.Rngs(0)} if face == "nnx" else {}
    ours = "filters" if NAMES[theirs] == "units" and name == "ConvLSTM2D" else NAMES[theirs]
    for cls in [getattr(module, f"{name}Cell"), *([] if face == "core" else [getattr(module, name)])]:
        with pytest.raises(TypeError, match=f"^{theirs}: unexpected argument of {cls.__name__}; .*, '{ours}'$"):
            cls(**{theirs: 3}, **rngs)


@pytest.mark.parametrize(("theirs", "ours"), [("reverse", "go_backwards"), ("return_carry", "return_state")])
def test_options_of_flax_are_answered_with_ours(theirs: str, ours: str) -> None:
    option: dict[str, Any] = {theirs: True}
    for build in (
        lambda: flax_rnn.nnx.RNN(flax_rnn.nnx.LSTMCell(D, H, rngs=nnx.Rngs(0)), **option),
        lambda: LinenRNN(flax_rnn.linen.LSTMCell(H), **option),
        lambda: flax_rnn.nnx.GRU(D, H, rngs=nnx.Rngs(0), **option),
        lambda: flax_rnn.linen.GRU(H, **option),
        lambda: flax_rnn.rnn(flax_rnn.LSTMCell(H), {}, X, **option),
    ):
        with pytest.raises(TypeError, match=f"^{theirs}: unexpected argument of .*, '{ours}'$"):
            build()
