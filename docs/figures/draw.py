"""Draws the figures of the guide into this folder: ``python docs/figures/draw.py``."""

from collections.abc import Callable
from pathlib import Path

import cells
import over_time
from pen import Pen


def _simple_rnn_time() -> Pen:
    states = [1.0, 0.5, 0.25]
    return over_time.unrolled("SimpleRNN: the first number fades, by half a step", "× ½, +", ["1", "0", "0"], states)


def _rnn_time() -> Pen:
    return over_time.unrolled("RNN: a cell that adds runs over three numbers", "+", ["1", "2", "3"], [1.0, 3.0, 6.0])


def _lstm_time() -> Pen:
    inputs, held = ["5, write", "7, hold", "9, half"], [5.0, 5.0, 7.0]
    return over_time.unrolled("LSTM: it takes in, holds, and takes in half", "LSTM", inputs, held, held)


def _gru_time() -> Pen:
    inputs, held = ["5, write", "7, hold", "9, half"], [5.0, 5.0, 7.0]
    return over_time.unrolled("GRU: it takes in, holds, and mixes half and half", "GRU", inputs, held)


def _masks() -> Pen:
    skipped = (False, True, False)
    title = "A mask: the state goes past the step that is masked"
    return over_time.unrolled(title, "+", ["1", "2", "3"], [1.0, 1.0, 4.0], skipped=skipped)


FIGURES: dict[str, Callable[[], Pen]] = {
    "idea": over_time.idea,
    "rnn": _rnn_time,
    "cell-and-layer": over_time.cell_and_layer,
    "simple-rnn-cell": cells.simple_rnn,
    "simple-rnn": _simple_rnn_time,
    "lstm-cell": cells.lstm,
    "lstm": _lstm_time,
    "gru-cell": cells.gru,
    "gru": _gru_time,
    "stacked": over_time.stacked,
    "cudnn-lstm": lambda: cells.cudnn("CuDNNLSTM", "ifgo"),
    "cudnn-gru": lambda: cells.cudnn("CuDNNGRU", "zrn"),
    "bidirectional": over_time.bidirectional,
    "conv-lstm": cells.conv_lstm,
    "masks": _masks,
    "states": over_time.states,
    "dropout": over_time.dropout,
}


def draw() -> dict[str, str]:
    """All figures, by the names of their files."""
    return {f"{name}.svg": figure().picture() for name, figure in FIGURES.items()}


if __name__ == "__main__":
    for name, picture in draw().items():
        Path(__file__).with_name(name).write_text(picture)
