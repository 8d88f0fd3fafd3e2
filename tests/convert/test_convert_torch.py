"""State dicts of live torch modules."""

from typing import Any

import numpy as np
import pytest

import flax_rnn
from flax_rnn.convert import ConversionError, from_torch, to_torch

torch = pytest.importorskip("torch")

B, T, D, H = 2, 4, 3, 2
KINDS: dict[str, Any] = {"RNN": flax_rnn.SimpleRNNCell, "LSTM": flax_rnn.LSTMCell, "GRU": flax_rnn.GRUCell}


def module(kind: str, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return getattr(torch.nn, kind)(D, H, batch_first=True, **options)


def run(kind: str, layers: Any, x: Any, use_bias: bool = True) -> Any:
    """Our layers on top of each other, each in one or both directions."""
    cell = KINDS[kind](H, use_bias=use_bias)
    for params in layers:
        if isinstance(params, tuple):
            x = flax_rnn.bidirectional((cell, cell), params, x, return_sequences=True)
        else:
            x = flax_rnn.rnn(cell, params, x, return_sequences=True)
    return x


OPTIONS: list[dict[str, Any]] = [{}, {"num_layers": 3}, {"bidirectional": True, "num_layers": 2}, {"bias": False}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_both_ways(kind: str, options: dict[str, Any]) -> None:
    theirs = module(kind, **options)
    x = np.random.default_rng(0).normal(size=(B, T, D)).astype("f4")
    expected = theirs(torch.from_numpy(x))[0].detach().numpy()
    layers = from_torch(theirs.state_dict())
    ours = run(kind, layers, x, options.get("bias", True))
    np.testing.assert_allclose(ours, expected, atol=1e-5)

    other = module(kind, seed=1, **options)
    other.load_state_dict({name: torch.from_numpy(array) for name, array in to_torch(layers).items()})
    np.testing.assert_allclose(other(torch.from_numpy(x))[0].detach().numpy(), expected, atol=1e-6)


def test_layers_of_one_direction_are_a_stack() -> None:
    theirs = module("LSTM", num_layers=2)
    x = np.random.default_rng(0).normal(size=(B, T, D)).astype("f4")
    stack = flax_rnn.StackedRNNCells([flax_rnn.LSTMCell(H), flax_rnn.LSTMCell(H)])
    ours = flax_rnn.rnn(stack, from_torch(theirs.state_dict()), x, return_sequences=True)
    np.testing.assert_allclose(ours, theirs(torch.from_numpy(x))[0].detach().numpy(), atol=1e-5)


def test_biases() -> None:
    state = module("GRU").state_dict()
    back = to_torch(from_torch(state))
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(back[name], tensor.numpy())
    state = module("LSTM").state_dict()
    back = to_torch(from_torch(state)[0])
    np.testing.assert_array_equal(back["bias_ih_l0"], (state["bias_ih_l0"] + state["bias_hh_l0"]).numpy())
    np.testing.assert_array_equal(back["bias_hh_l0"], np.zeros(4 * H))


def test_prefix() -> None:
    model = torch.nn.ModuleDict({"rnn": module("GRU"), "head": torch.nn.Linear(H, 1)})
    (params,) = from_torch(model.state_dict(), prefix="rnn.")
    assert {*to_torch(params, prefix="rnn.")} == {name for name in model.state_dict() if name.startswith("rnn.")}


def test_errors() -> None:
    state = dict(module("LSTM").state_dict())
    with pytest.raises(ConversionError, match="without proj_size, got 'weight_hr_l0'"):
        from_torch(torch.nn.LSTM(D, H, proj_size=1).state_dict())
    with pytest.raises(ConversionError, match="expected an entry 'bias_hh_l0'"):
        from_torch({name: array for name, array in state.items() if name != "bias_hh_l0"})
    with pytest.raises(ConversionError, match=r"no more entries than those of 1 layers, got \['head.weight'\]"):
        from_torch(state | {"head.weight": torch.ones(2)})
    with pytest.raises(ConversionError, match=r"bias: expected shape \(8,\), got \(3,\)"):
        from_torch(state | {"bias_hh_l0": torch.ones(3)})
    with pytest.raises(ConversionError, match="expected an array that NumPy can read"):
        from_torch({name: tensor.to_sparse() for name, tensor in state.items()})
    with pytest.raises(ConversionError, match="expected an entry 'weight_ih_l0'"):
        from_torch({})
    gru = {"kernel": np.ones((D, 3 * H)), "recurrent_kernel": np.ones((H, 3 * H)), "bias": np.ones(3 * H)}
    with pytest.raises(ConversionError, match="reset_after=True"):
        to_torch(gru)
    with pytest.raises(ConversionError, match="expected a cell or a pair of cells, got 3"):
        to_torch([(gru, gru, gru)])
