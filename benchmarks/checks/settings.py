"""What is checked: layers with options, and the random numbers that they are given."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import Size, array_dtype
from benchmarks.checks.loops import GATES

SMALL, ODD, BLOCKS = Size(5, 7, 3, 6), Size(9, 21, 17, 33), Size(16, 12, 64, 128)
LARGE, LARGEST = Size(20, 6, 40, 256), Size(11, 5, 40, 500)
"""Sizes that differ in every axis; of ``BLOCKS`` on they are those that kernels like, or a little less."""
CELLS = ("lstm", "gru", "gru-reset-before", "simple_rnn")
PLACES, WINDOW = 4, 3
"""Of a convolutional layer."""
MEMBERS = 2
"""Of what ``vmap`` goes over."""

Tree = Any
"""A dict of ``params``, ``x`` and, where it is given, ``state``: what gradients are taken with respect to."""


@dataclass(frozen=True)
class Setting:
    """One layer.

    Attributes:
      name: what is special about it.
      cell, size, activation, bias: of which cells.
      mask: ``"padded"``, with sequences that end early; ``"holes"``, anywhere, and a row without steps; or none.
      resets: whether some steps start from zeros.
      state: whether an initial state is given.
      dropout, recurrent_dropout: rates.
      layout: ``"stack"`` and ``"bidirectional"`` of two cells; ``"vmap"`` over layers of the same inputs; or plain.
      options: of ``rnn``.
    """

    name: str
    cell: str = "lstm"
    size: Size = SMALL
    activation: str = "tanh"
    bias: bool = True
    mask: str | None = None
    resets: bool = False
    state: bool = False
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    layout: str = "plain"
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def states(self) -> int:
        """How many arrays a state of a cell has."""
        return 2 if "lstm" in self.cell else 1

    @property
    def places(self) -> tuple[int, ...]:
        """The axes between the batch and the features."""
        return (PLACES,) if self.cell == "conv-lstm" else ()

    @property
    def cells(self) -> int:
        """How many there are."""
        return {"stack": 2, "bidirectional": 2, "vmap": MEMBERS}.get(self.layout, 1)

    def option(self, name: str) -> Any:
        """An option of ``rnn``, or what it is by default here: outputs of all steps are asked for."""
        return self.options.get(name, name == "return_sequences")

    def arrays(self, dtype: str) -> Tree:
        """Random numbers for everything, with no more digits than ``dtype`` has, in float64.

        Weights, and states, are lists with an entry for each cell where there are several.
        """
        rng = np.random.default_rng(5)
        batch, steps, features, units = self.size
        below = [features, units if self.layout == "stack" else features]
        params = [self._weights(rng, size) for size, _ in zip(below, range(self.cells), strict=False)]
        states = [
            [rng.normal(0, 0.5, (batch, *self.places, units)) for _ in range(self.states)] for _ in range(self.cells)
        ]
        found: Tree = {"x": rng.normal(size=(batch, steps, *self.places, features)), "params": params}
        if self.state:
            found |= {"state": states}
        short = jnp.dtype(array_dtype(dtype))
        return jax.tree.map(lambda array: array.astype(short).astype(np.float64), found)

    def mask_array(self) -> np.ndarray | None:
        """Booleans ``(B, T)``: which steps count."""
        rng, (batch, steps) = np.random.default_rng(6), self.size[:2]
        if self.mask == "padded":
            return np.arange(steps) < rng.integers(1, steps + 1, batch)[:, None]
        if self.mask == "holes":
            return (rng.random((batch, steps)) < 0.6) & (np.arange(batch) != 1)[:, None]
        return None

    def reset_array(self) -> np.ndarray | None:
        """Booleans ``(B, T)``: ahead of which steps the state is set to zeros."""
        return np.random.default_rng(7).random(self.size[:2]) < 0.3 if self.resets else None

    def dropped(self) -> tuple[Any, Any] | None:
        """Dropout masks of the inputs and of the state, as ``loops`` takes them."""
        if not self.dropout and not self.recurrent_dropout:
            return None
        rng, gates, (batch, _, features, units) = np.random.default_rng(8), GATES[self.cell], self.size

        def draw(rate: float, count: int, size: int) -> Any:
            return tuple((rng.random((batch, size)) >= rate) / (1 - rate) for _ in range(count)) if rate else None

        of_inputs = draw(self.dropout, gates if self.recurrent_dropout else 1, features)
        return of_inputs, draw(self.recurrent_dropout, gates, units)

    def _weights(self, rng: np.random.Generator, features: int) -> dict[str, np.ndarray]:
        units, gates = self.size.units, GATES[self.cell]
        window = (WINDOW,) if self.cell == "conv-lstm" else ()
        found = {
            "kernel": rng.normal(0, features**-0.5, (*window, features, gates * units)),
            "recurrent_kernel": rng.normal(0, 0.8 * units**-0.5, (*window, units, gates * units)),
        }
        if self.bias:
            shape = {"gru": (2, gates * units), "cudnn-lstm": (8 * units,), "cudnn-gru": (6 * units,)}
            found["bias"] = rng.normal(0, 0.3, shape.get(self.cell, (gates * units,)))
        return found


def of_every_cell() -> list[Setting]:
    """All options, one at a time and where they meet, for an LSTM; the others have the same."""
    padded, holes = partial(Setting, mask="padded"), partial(Setting, mask="holes")
    return [
        Setting("plain"),
        Setting("odd size", size=ODD),
        Setting("whole blocks", size=BLOCKS),
        holes("large, resets, state", size=LARGE, resets=True, state=True),
        holes("largest, resets, state", size=LARGEST, resets=True, state=True),
        holes("large, both dropouts", size=LARGE, dropout=0.4, recurrent_dropout=0.4),
        holes("largest, both dropouts", size=LARGEST, dropout=0.4, recurrent_dropout=0.4),
        Setting("single step", size=SMALL._replace(steps=1)),
        Setting("last output", options={"return_sequences": False}),
        padded("padded"),
        padded("padded, odd size", size=ODD),
        holes("holes"),
        holes("holes, whole blocks", size=BLOCKS),
        holes("holes, last output", options={"return_sequences": False}),
        holes("holes, zeros", options={"zero_output_for_mask": True}),
        Setting("backwards", options={"go_backwards": True}),
        holes("backwards, holes, order kept", options={"go_backwards": True, "keep_order": True}),
        Setting("state", state=True),
        holes("state, holes", state=True),
        Setting("dropout", dropout=0.4),
        Setting("recurrent dropout", recurrent_dropout=0.4),
        holes("both dropouts, state, holes", dropout=0.4, recurrent_dropout=0.4, state=True),
        Setting("no bias", bias=False),
        Setting("relu", activation="relu"),
        Setting("resets", resets=True),
        Setting("resets, state", resets=True, state=True),
        Setting("unroll", options={"unroll": True}),
        holes("unroll by 3, holes", options={"unroll": 3}),
        padded("time major, padded", options={"time_major": True}),
        holes("chunks, holes", options={"checkpoint_every": 3}),
        Setting("bidirectional", layout="bidirectional"),
        holes("bidirectional, state, holes", layout="bidirectional", state=True),
        padded("bidirectional, last", layout="bidirectional", options={"return_sequences": False}),
        Setting("stack", layout="stack"),
        holes("stack, state, holes", layout="stack", state=True),
        holes("vmap, holes", layout="vmap"),
    ]


def everything() -> list[Setting]:
    """All settings in float32."""
    found = [replace(setting, cell=cell) for cell in CELLS for setting in of_every_cell()]
    for cell in ("cudnn-lstm", "cudnn-gru", "conv-lstm"):
        found += [Setting("plain", cell), Setting("state, holes", cell, state=True, mask="holes")]
    return found


def in_fewer_digits() -> list[Setting]:
    """Those that are checked in each other dtype."""
    names = ("whole blocks", "padded, odd size", "both dropouts, state, holes", "bidirectional, state, holes")
    return [setting for setting in everything() if setting.name in names and setting.cell in CELLS]
