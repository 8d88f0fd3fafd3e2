"""Whole torch models into models of both faces, against what torch computes."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import flax_rnn.linen
import flax_rnn.nnx
from flax_rnn.convert import ConversionError, from_torch, load, load_torch, save_safetensors, to_torch

torch = pytest.importorskip("torch")

V, D, H = 11, 3, 4
SEQUENCES: dict[str, Any] = {"return_sequences": True}
LINEN: Any = flax_rnn.linen
TOKENS = np.random.default_rng(0).integers(0, V, size=(2, 5))


class Theirs(torch.nn.Module):
    """Every module that can be read."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.embed = torch.nn.Embedding(V, D)
        self.norm = torch.nn.LayerNorm(D)
        self.encoder = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(D, H, 2, batch_first=True)})
        self.both = torch.nn.GRU(H, 3, bidirectional=True, batch_first=True)
        self.rnn = torch.nn.RNN(6, H, batch_first=True)
        self.cell = torch.nn.LSTMCell(H, 2)
        self.head = torch.nn.Linear(2, 3)
        for parameter in self.parameters():  # a LayerNorm begins with ones and zeros
            parameter.data += 0.3 * torch.randn_like(parameter)

    def forward(self, tokens: Any) -> Any:
        x = self.encoder["lstm"](self.norm(self.embed(tokens)))[0]
        x = self.rnn(self.both(x)[0])[0]
        h, c = torch.zeros(len(x), 2), torch.zeros(len(x), 2)
        for step in range(x.shape[1]):
            h, c = self.cell(x[:, step], (h, c))
        return self.head(h)


class Ours(nnx.Module):
    def __init__(self, seed: int = 0):
        rngs, sequences = nnx.Rngs(seed), SEQUENCES
        cells = [flax_rnn.nnx.LSTMCell(D, H, rngs=rngs), flax_rnn.nnx.LSTMCell(H, H, rngs=rngs)]
        self.embed = nnx.Embed(V, D, rngs=rngs)
        self.norm = nnx.LayerNorm(D, epsilon=1e-5, rngs=rngs)
        self.encoder = flax_rnn.nnx.RNN(cells, **sequences)
        self.both = flax_rnn.nnx.Bidirectional(flax_rnn.nnx.GRU(H, 3, **sequences, rngs=rngs), rngs=rngs)
        self.rnn = flax_rnn.nnx.SimpleRNN(6, H, **sequences, rngs=rngs)
        self.cell = flax_rnn.nnx.LSTMCell(H, 2, rngs=rngs)
        self.head = nnx.Linear(2, 3, rngs=rngs)

    def __call__(self, tokens: Any) -> Any:
        x = self.rnn(self.both(self.encoder(self.norm(self.embed(tokens)))))
        return self.head(flax_rnn.nnx.RNN(self.cell)(x))


class OursInLinen(nn.Module):
    @nn.compact
    def __call__(self, tokens: Any) -> Any:
        sequences, linen = SEQUENCES, LINEN
        x = nn.LayerNorm(epsilon=1e-5, name="norm")(nn.Embed(V, D, name="embed")(tokens))
        for index in range(2):
            x = linen.LSTM(H, name=f"lstm_{index}", **sequences)(x)
        x = linen.Bidirectional(linen.GRU(3, **sequences), name="both")(x)
        x = linen.SimpleRNN(H, name="rnn", **sequences)(x)
        x = linen.RNN(linen.LSTMCell(2, name="cell"))(x)
        return nn.Dense(3, name="head")(x)


NNX_NAMES = {"encoder.lstm": "encoder"}
LINEN_NAMES = {"encoder.lstm": ["lstm_0", "lstm_1"]}


def expected(theirs: Any) -> np.ndarray:
    return theirs(torch.from_numpy(TOKENS)).detach().numpy()


def test_a_model_into_nnx() -> None:
    theirs, ours = Theirs(), Ours()
    assert load_torch(theirs.state_dict(), ours, names=NNX_NAMES) is ours
    np.testing.assert_allclose(ours(TOKENS), expected(theirs), atol=1e-5)


@pytest.mark.parametrize("shapes", [False, True])
def test_a_model_into_linen(shapes: bool) -> None:
    theirs: Any = Theirs()
    model: Any = OursInLinen()
    initialize = jax.eval_shape if shapes else lambda f, *a: f(*a)
    params: Any = initialize(lambda key: model.init(key, TOKENS)["params"], jax.random.key(0))
    params = load_torch(theirs, params, names=LINEN_NAMES)  # a module itself will do
    np.testing.assert_allclose(model.apply({"params": params}, TOKENS), expected(theirs), atol=1e-5)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files(tmp_path: pathlib.Path, suffix: str) -> None:
    theirs, ours, path = Theirs(1), Ours(), tmp_path / f"model{suffix}"
    if suffix == ".pt":
        torch.save({"epoch": 3, "best": {"model": theirs.state_dict()}}, path)
    else:
        pytest.importorskip("safetensors.torch").save_file(
            {f"best.model.{name}": tensor for name, tensor in theirs.state_dict().items()}, path
        )
    load_torch(path, ours, prefix="best.model.", names=NNX_NAMES)
    np.testing.assert_allclose(ours(TOKENS), expected(theirs), atol=1e-5)
    with pytest.raises(ConversionError, match=r"prefix: expected one of \['best.model.both.', .*, got 'model\.'"):
        load_torch(path, ours, prefix="model.", names=NNX_NAMES)
    with pytest.raises(ConversionError, match="got one of torch or safetensors; load_torch reads it"):
        load(path, ours)


class Payload:
    """What a pickle could run."""

    def __reduce__(self) -> Any:
        return (pathlib.Path.touch, (pathlib.Path("ran"),))


def test_files_that_are_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Payload(), "model.pt")
    with pytest.raises(ConversionError, match=r"model\.pt: expected a file of tensors alone"):
        load_torch("model.pt", Ours())
    assert not pathlib.Path("ran").exists()
    pathlib.Path("broken.pt").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ConversionError, match=r"broken\.pt: expected a file of tensors alone"):
        load_torch("broken.pt", Ours())
    with pytest.raises(FileNotFoundError):
        load_torch("missing.pt", Ours())
    pathlib.Path("model.keras").write_bytes(b"")
    with pytest.raises(ConversionError, match="got one of Keras; load reads it"):
        load_torch("model.keras", Ours())


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_a_single_layer(kind: str, use_bias: bool) -> None:
    """Both faces; `nnx.update` with what `from_torch` returns would leave the weights as they were."""
    theirs = getattr(torch.nn, kind.removeprefix("Simple"))(D, H, batch_first=True, bias=use_bias)
    x = np.random.default_rng(1).normal(size=(2, 5, D)).astype("f4")
    y = theirs(torch.from_numpy(x))[0][:, -1].detach().numpy()
    layer = getattr(flax_rnn.nnx, kind)(D, H, use_bias=use_bias, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(load_torch(theirs.state_dict(), layer)(x), y, atol=1e-5)
    module = getattr(flax_rnn.linen, kind)(H, use_bias=use_bias)
    params = load_torch(theirs.state_dict(), module.init(jax.random.key(0), x)["params"])
    np.testing.assert_allclose(module.apply({"params": params}, x), y, atol=1e-5)


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_from_torch_of_a_cell(kind: str) -> None:
    theirs = getattr(torch.nn, kind)(D, H)
    x, h = (np.random.default_rng(2).normal(size=(2, size)).astype("f4") for size in (D, H))
    state = (torch.from_numpy(h), torch.from_numpy(-h)) if kind == "LSTMCell" else torch.from_numpy(h)
    y = theirs(torch.from_numpy(x), state)
    (params,) = from_torch(theirs.state_dict())
    cell = {"LSTMCell": flax_rnn.LSTMCell, "GRUCell": flax_rnn.GRUCell, "RNNCell": flax_rnn.SimpleRNNCell}[kind](H)
    _, ours = flax_rnn.apply_cell(cell, params, (h, -h) if kind == "LSTMCell" else h, x)
    np.testing.assert_allclose(ours, (y[0] if kind == "LSTMCell" else y).detach().numpy(), atol=1e-5)


def test_bfloat16_and_parameters() -> None:
    theirs = torch.nn.LSTM(D, H, 1, batch_first=True)
    parameters = dict(theirs.named_parameters())  # which require gradients
    exact = from_torch(theirs.state_dict())[0]
    jax.tree.map(np.testing.assert_array_equal, from_torch(parameters)[0], exact)
    (half,) = from_torch(theirs.to(torch.bfloat16).state_dict())
    assert half["kernel"].dtype == jnp.bfloat16
    np.testing.assert_allclose(half["kernel"].astype("f4"), exact["kernel"], rtol=1e-2)
    layer = flax_rnn.nnx.LSTM(D, H, rngs=nnx.Rngs(0))
    load_torch(theirs.state_dict(), layer)
    assert layer.cell.kernel.dtype == jnp.float32
    np.testing.assert_array_equal(layer.cell.kernel[...], half["kernel"].astype("f4"))
    back = to_torch(half)  # as float32, which torch.from_numpy knows
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in back.items()})
    np.testing.assert_array_equal(from_torch(theirs.state_dict())[0]["kernel"], half["kernel"])


def modules(face: str) -> dict[str, Any]:
    """A layer, a pair and a stack of a face: the parameters of linen, or modules of nnx."""
    x = jnp.zeros((1, 2, D))
    if face == "linen":
        layers = {
            "layer": flax_rnn.linen.GRU(H),
            "pair": flax_rnn.linen.Bidirectional(flax_rnn.linen.LSTM(H)),
            "stack": LINEN.RNN([flax_rnn.linen.LSTMCell(H), flax_rnn.linen.LSTMCell(H)]),
        }
        return {name: layer.init(jax.random.key(0), x)["params"] for name, layer in layers.items()}
    rngs = nnx.Rngs(0)
    cells = [flax_rnn.nnx.LSTMCell(D, H, rngs=rngs), flax_rnn.nnx.LSTMCell(H, H, rngs=rngs)]
    return {
        "layer": flax_rnn.nnx.GRU(D, H, rngs=rngs),
        "pair": flax_rnn.nnx.Bidirectional(flax_rnn.nnx.LSTM(D, H, rngs=rngs), rngs=rngs),
        "stack": flax_rnn.nnx.RNN(cells),
    }


THEIRS: dict[str, Any] = {
    "layer": lambda: torch.nn.GRU(D, H),
    "pair": lambda: torch.nn.LSTM(D, H, bidirectional=True),
    "stack": lambda: torch.nn.LSTM(D, H, 2),
}


@pytest.mark.parametrize("what", THEIRS)
@pytest.mark.parametrize("face", ["linen", "nnx"])
def test_to_torch_of_layers(face: str, what: str) -> None:
    """What torch gave is what it gets back, but for the two biases of an LSTM, which are one here."""
    theirs = THEIRS[what]()
    state = theirs.state_dict()
    ours = load_torch(theirs, modules(face)[what])
    back = to_torch(ours, "rnn.")
    assert {*back} == {f"rnn.{name}" for name in state}
    total = lambda name: state[name] + (state[name.replace("bias_ih", "bias_hh")] if "bias_ih" in name else 0)  # noqa: E731
    for name in state:
        if "weight" in name or what == "layer":
            np.testing.assert_array_equal(back[f"rnn.{name}"], state[name])
        elif "bias_ih" in name:
            np.testing.assert_allclose(back[f"rnn.{name}"], total(name), rtol=1e-6)
    tuples = to_torch((ours,), "rnn.")
    jax.tree.map(np.testing.assert_array_equal, tuples, back)


def test_to_torch_refuses() -> None:
    rngs = nnx.Rngs(0)
    cells = [flax_rnn.nnx.LSTMCell(D, H, rngs=rngs), flax_rnn.nnx.LSTMCell(H, H, rngs=rngs)]
    both = flax_rnn.nnx.Bidirectional(flax_rnn.nnx.RNN(cells), rngs=rngs)
    with pytest.raises(ConversionError, match="layers: expected a Bidirectional of one cell"):
        to_torch(both)
    with pytest.raises(ConversionError, match="expected the weights of recurrent layers, got entries"):
        to_torch({"embed": {"embedding": np.zeros((2, 2))}, "cell": {}})
    with pytest.raises(ConversionError, match="a tuple of them, or a layer, got NoneType"):
        to_torch(None)


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in Theirs().state_dict().items() if not key.startswith(name)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": None}, "state: expected a state dict, a torch module or the path of a file, got NoneType"),
        ({"state": _without("head")}, r"expected a layer for every parameter, found none for \['head/bias'"),
        (
            {"names": {}},
            r"expected a place in target for every layer, found none for \['encoder/lstm \(at",
        ),
        ({"names": {**NNX_NAMES, "lstm": "x"}}, r"names: expected names of layers with weights, .*, got \['lstm'\]"),
        ({"names": {"encoder.lstm": 3}}, "names: expected a path or a list of paths for 'encoder/lstm', got 3"),
        ({"names": {**NNX_NAMES, "rnn": "both"}}, "layer 'rnn': expected places of 1 cells, .* got .*'both/backward"),
        ({"names": {**NNX_NAMES, "head": "norm"}}, r"layer 'head': expected a weight for scale, got shape \(3, 2\)"),
        ({"names": {**NNX_NAMES, "cell": "rnn/cell"}}, r"layer 'cell': kernel: expected shape"),
        ({"prefix": "decoder."}, r"state: prefix: expected one of \['both.', 'cell.', .*\], or a part of it, got 'dec"),
    ],
)
def test_errors_of_models(change: dict[str, Any], message: str) -> None:
    """They leave the model as it was."""
    ours = Ours()
    before = jax.tree.map(jnp.copy, nnx.to_pure_dict(nnx.state(ours, nnx.Param)))
    arguments: dict[str, Any] = {"state": Theirs().state_dict(), "names": NNX_NAMES, **change}
    with pytest.raises(ConversionError, match=message):
        load_torch(arguments.pop("state"), ours, **arguments)
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(ours, nnx.Param)), before)


def test_not_strict() -> None:
    theirs, ours = Theirs(), Ours()
    before = ours.head.kernel[...]
    load_torch(_without("head"), ours, names=NNX_NAMES, strict=False)
    np.testing.assert_array_equal(ours.head.kernel[...], before)
    np.testing.assert_allclose(ours.embed.embedding[...], theirs.state_dict()["embed.weight"])


@pytest.mark.parametrize(
    ("theirs", "options", "message"),
    [
        (torch.nn.GRU(D, H), {"reset_after": False}, "layer '': expected reset_after=True at cell, as in torch"),
        (torch.nn.GRU(D, H, bias=False), {}, r"expected a cell with \['kernel', 'recurrent_kernel'\] at cell"),
        (torch.nn.GRU(D, H + 1), {}, r"layer '': kernel: expected shape \(3, 12\), got \(3, 15\)"),
        (torch.nn.LSTM(D, H, proj_size=2), {}, "layer '': state: expected a module without proj_size"),
        (torch.nn.Conv1d(D, H, 2), {}, r"expected a recurrent layer, a Linear, .*, got entries \['bias', 'weight'\]"),
    ],
)  # fmt: skip
def test_errors_of_layers(theirs: Any, options: dict[str, Any], message: str) -> None:
    layer = flax_rnn.nnx.GRU(D, H, **options, rngs=nnx.Rngs(0))
    with pytest.raises(ConversionError, match=message):
        load_torch(theirs, layer)


@dataclasses.dataclass
class Held:
    """A tensor that cannot be read."""

    shape: tuple[int, ...] = (8, 3)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, "state: expected a state dict, got NoneType"),
        ({"weight_ih_l0": Held(), "weight_hh_l0": Held()}, r"state\['weight_ih_l0'\]: expected floating-point numbers"),
    ],
)
def test_errors_of_from_torch(state: Any, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        from_torch(state)
    with pytest.raises(ConversionError, match=r"prefix: expected one of \['a\.b\.'\], or a part of it, got 'c'"):
        from_torch({"a.b.weight_ih_l0": np.zeros((4, 1))}, "c")


def test_safetensors_of_ours_are_not_those_of_torch(tmp_path: pathlib.Path) -> None:
    save_safetensors(tmp_path / "ours.safetensors", {"kernel": np.zeros((D, H), "f4")})
    with pytest.raises(ConversionError, match=r"layer '': expected a recurrent layer, a Linear, .* \['kernel'\]"):
        load_torch(tmp_path / "ours.safetensors", flax_rnn.nnx.GRU(D, H, rngs=nnx.Rngs(0)))
