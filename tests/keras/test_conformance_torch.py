"""The full cross of options against live torch: outputs, final states and the gradients of everything."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from flax_rnn import GRUCell, LSTMCell, SimpleRNNCell, StackedRNNCells, bidirectional, rnn
from flax_rnn.convert import from_torch

torch = pytest.importorskip("torch")
packing = torch.nn.utils.rnn

B, T, D, H = 4, 3, 4, 2
LENGTHS: Any = np.array([2, 3, 1, 3])
BOTH = (False, True)
CELLS: dict[str, Callable[..., Any]] = {
    "tanh": SimpleRNNCell,
    "relu": functools.partial(SimpleRNNCell, activation="relu"),
    "LSTM": LSTMCell,
    "GRU": GRUCell,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One combination of options; ``lengths`` is ``"full"``, ``"sorted"`` (by length, as torch asks) or ``"any"``."""

    kind: str
    num_layers: int
    bidirectional: bool
    bias: bool
    lengths: str
    initial_state: bool
    dtype: str = "float64"

    def __str__(self) -> str:
        flags = ("bidirectional", "bias", "initial_state")
        parts = [self.kind, str(self.num_layers), self.lengths, *(name for name in flags if getattr(self, name))]
        return "-".join(parts)

    @property
    def seq_lengths(self) -> Any:
        return None if self.lengths == "full" else LENGTHS


CASES = list(itertools.starmap(Case, itertools.product(CELLS, (1, 2), BOTH, BOTH, ("full", "sorted", "any"), BOTH)))


def module(case: Case) -> Any:
    torch.manual_seed(0)
    options = {name: getattr(case, name) for name in ("num_layers", "bidirectional", "bias")}
    if case.kind in ("tanh", "relu"):
        options["nonlinearity"] = case.kind
    return getattr(torch.nn, case.kind, torch.nn.RNN)(
        D, H, batch_first=True, dtype=getattr(torch, case.dtype), **options
    )


def problem(case: Case) -> tuple[np.ndarray, Any]:
    """Inputs, and the initial state as torch lays it out: ``h`` and perhaps ``c``, ``(layers * directions, B, H)``."""
    rng = np.random.default_rng(0)
    shape = (2 if case.kind == "LSTM" else 1, case.num_layers * (1 + case.bidirectional), B, H)
    x, states = rng.normal(size=(B, T, D)).astype(case.dtype), rng.normal(size=shape).astype(case.dtype)
    return x, tuple(states) if case.initial_state else None


def cotangents(results: Any) -> tuple[np.ndarray, ...]:
    """A gradient of its own for each number that torch or we return."""
    rng = np.random.default_rng(1)
    return tuple(rng.normal(size=result.shape).astype(str(result.dtype).removeprefix("torch.")) for result in results)


def theirs(case: Case) -> tuple[Any, Any]:
    """``(outputs, h[, c])``, and the gradients of weights (in our layout), inputs and initial state."""
    net, (x, state) = module(case), problem(case)
    inputs = torch.tensor(x, requires_grad=True)
    state = None if state is None else tuple(torch.tensor(part, requires_grad=True) for part in state)
    order = np.argsort(-LENGTHS, kind="stable") if case.lengths == "sorted" else np.arange(B)
    given, first = inputs[order], None if state is None else tuple(part[:, order] for part in state)
    if case.lengths != "full":
        lengths = torch.from_numpy(LENGTHS[order])
        given = packing.pack_padded_sequence(given, lengths, True, enforce_sorted=case.lengths == "sorted")
    if first is not None and case.kind != "LSTM":
        (first,) = first
    outputs, final = net(given, first)
    if case.lengths != "full":
        outputs, _ = packing.pad_packed_sequence(outputs, True)
    back = np.argsort(order)
    final = final if case.kind == "LSTM" else (final,)
    results = (outputs[back], *(part[:, back] for part in final))
    torch.autograd.backward(results, [torch.from_numpy(part) for part in cotangents(results)])
    weights = {name: parameter.grad.numpy() for name, parameter in net.named_parameters()}
    gradients = in_our_layout(weights), inputs.grad, None if state is None else [part.grad for part in state]
    return [result.detach() for result in results], gradients


def in_our_layout(gradients: dict[str, np.ndarray]) -> Any:
    """Where two biases are one for us, both have the same gradient, and so has their sum."""
    for name in [name for name in gradients if name.startswith("bias_hh") and len(gradients[name]) != 3 * H]:
        np.testing.assert_allclose(gradients[name], gradients[name.replace("hh", "ih")], 1e-5, 1e-6)
        gradients[name] = np.zeros_like(gradients[name])
    return from_torch(gradients)


def run(case: Case, layers: Any, x: Any, state: Any) -> tuple[Any, ...]:
    """Ours, with states as torch lays them out."""
    cell = CELLS[case.kind](H, use_bias=case.bias)
    options: dict[str, Any] = {"seq_lengths": case.seq_lengths, "return_sequences": True, "return_state": True}

    def carry(index: int) -> Any:
        parts = [part[index] for part in state]
        return parts if case.kind == "LSTM" else parts[0]

    if case.bidirectional:
        finals = []
        for index, params in enumerate(layers):
            first = None if state is None else (carry(2 * index), carry(2 * index + 1))
            x, final = bidirectional((cell, cell), params, x, initial_state=first, **options)
            finals += final
    else:
        first = None if state is None else tuple(carry(index) for index in range(case.num_layers))
        stack = StackedRNNCells([cell] * case.num_layers)
        x, finals = rnn(stack, layers, x, initial_state=first, zero_output_for_mask=True, **options)
    return x, *(jnp.stack(parts) for parts in zip(*map(jax.tree.leaves, finals), strict=True))


def point_of(case: Case) -> tuple[Any, Any, Any]:
    return jax.tree.map(jnp.asarray, (from_torch(module(case).state_dict()), *problem(case)))


def ours(case: Case, point: Any) -> tuple[Any, Any]:
    """As ``theirs``."""
    results, pull = jax.vjp(functools.partial(run, case), *point)
    return results, pull(jax.tree.map(jnp.asarray, cotangents(results)))


@functools.cache
def ours_step_by_step(case: Case) -> tuple[Any, Any]:
    with jax.disable_jit():
        return ours(case, point_of(case))


# Primitive by primitive: to compile each combination would take minutes.
@pytest.mark.each(1, full=3)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_states_and_gradients(case: Case) -> None:
    with jax.enable_x64(True):
        actual = ours_step_by_step(dataclasses.replace(case, lengths="full" if case.lengths == "full" else "any"))
        oracle.assert_close(actual, theirs(case), 1e-12)


@pytest.mark.each(1, full=3)
@pytest.mark.parametrize("case", [case for case in CASES if case.lengths != "sorted"], ids=str)
def test_outputs_and_states_in_float32(case: Case) -> None:
    case = dataclasses.replace(case, dtype="float32")
    with jax.disable_jit():
        oracle.assert_close(run(case, *point_of(case)), theirs(case)[0], 2e-6)


@pytest.mark.parametrize("kind", CELLS)
def test_compiled_in_float32(kind: str) -> None:
    case = Case(kind, 2, kind in ("relu", "LSTM"), True, "any", True, "float32")
    oracle.assert_close(jax.jit(functools.partial(ours, case))(point_of(case)), theirs(case), 2e-5)
