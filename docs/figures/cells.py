"""What is inside of a cell: how the input and the old state make the new one."""

import itertools

from pen import Pen


def _legend(pen: Pen, y: float, memory: bool = False, yellow: str = "weights, σ or tanh") -> None:
    """What the colours are."""
    pen.text(24, y, "x input", "x")
    pen.text(104, y, "h state = output" if not memory else "h output", "h")
    if memory:
        pen.text(198, y, "c memory", "c")
    pen.text(536, y, f"yellow: {yellow}", "end faint")


def simple_rnn() -> Pen:
    """Two products, a sum and tanh."""
    pen = Pen("SimpleRNNCell: the new state is tanh of input times K plus old state times R plus b", 240)
    pen.wire("h", "M20,80 H112")
    pen.text(24, 70, "h", "h bold")
    pen.box(140, 80, 56, 46, "× R", kind="gate")
    pen.wire("h", "M168,80 H264")
    pen.wire("x", "M20,164 H112")
    pen.text(24, 154, "x", "x bold")
    pen.box(140, 164, 56, 46, "× K", kind="gate")
    pen.wire("x", "M168,164 H278 V96")
    pen.wire("plain", "M278,26 V64")
    pen.text(292, 38, "b", "bold")
    pen.wire("plain", "M292,80 H338")
    pen.op(278, 80, "+")
    pen.box(376, 80, 76, 46, "tanh", kind="gate")
    pen.wire("h", "M414,80 H536")
    pen.dot(460, 80, "h")
    pen.wire("h", "M460,80 V32")
    pen.text(474, 40, "output", "h")
    pen.text(516, 106, "h′", "h bold")
    _legend(pen, 226, yellow="weights, tanh")
    return pen


def lstm() -> Pen:
    """The memory above, the gates below."""
    pen = Pen("LSTMCell: three gates decide what the memory keeps, what it takes in, and what it shows", 400)
    pen.wire("c", "M20,56 H536")
    pen.text(24, 44, "c", "c bold")
    pen.text(516, 44, "c′", "c bold")
    # Every gate takes both the old output and the input.
    pen.wire("h", "M20,304 H378 V255")
    pen.text(24, 294, "h", "h bold")
    pen.wire("x", "M20,346 H406 V255")
    pen.text(24, 336, "x", "x bold")
    for at in (96, 192, 292):
        pen.wire("h", f"M{at - 14},304 V255")
        pen.dot(at - 14, 304, "h")
        pen.wire("x", f"M{at + 14},346 V255")
        pen.dot(at + 14, 346, "x")
    pen.wire("gate", "M96,202 V72")
    pen.wire("gate", "M192,202 V134 H276")
    pen.wire("gate", "M292,202 V150")
    pen.wire("gate", "M292,120 V72")
    pen.wire("gate", "M392,202 V174 H454")
    pen.dot(470, 56, "c")
    pen.wire("c", "M470,56 V86")
    pen.wire("c", "M470,128 V158")
    pen.wire("h", "M470,188 V304 H536")
    pen.text(516, 294, "h′", "h bold")
    pen.gate(96, 228, "f = σ", "keep?")
    pen.gate(192, 228, "i = σ", "write?")
    pen.gate(292, 228, "g = tanh", "what?", 96)
    pen.gate(392, 228, "o = σ", "show?")
    pen.box(470, 107, 64, 40, "tanh")
    for at, sign in (((96, 56), "×"), ((292, 56), "+"), ((292, 134), "×"), ((470, 174), "×")):
        pen.op(*at, sign)
    _legend(pen, 386, memory=True)
    return pen


def gru() -> Pen:
    """The state above, the gates below."""
    pen = Pen("GRUCell: one gate mixes the old state with a candidate, another says what the candidate sees", 390)
    pen.wire("h", "M20,276 H314")
    pen.text(24, 266, "h", "h bold")
    pen.dot(48, 276, "h")
    pen.wire("h", "M48,276 V56 H536")
    pen.text(516, 44, "h′", "h bold")
    pen.wire("x", "M20,334 H436 V217")
    pen.text(24, 324, "x", "x bold")
    for at in (110, 220):
        pen.dot(at, 276, "h")
        pen.wire("h", f"M{at},276 V217")
        pen.dot(at + 30, 334, "x")
        pen.wire("x", f"M{at + 30},334 V217")
    pen.wire("gate", "M277,190 H330 V260")
    pen.wire("h", "M344,276 H404 V217")
    pen.wire("gate", "M126,164 V72")
    pen.dot(126, 116, "gate")
    pen.wire("gate", "M126,116 H204")
    pen.wire("gate", "M264,116 H404")
    pen.wire("gate", "M420,164 V132")
    pen.wire("gate", "M420,100 V72")
    pen.gate(126, 190, "z = σ", "keep?")
    pen.gate(236, 190, "r = σ", "see h?")
    pen.gate(420, 190, "n = tanh", "candidate", 98)
    pen.box(234, 116, 60, 36, "1 − z")
    for at, sign in (((126, 56), "×"), ((420, 56), "+"), ((420, 116), "×"), ((330, 276), "×")):
        pen.op(*at, sign)
    pen.text(372, 298, "h R", "middle faint")
    _legend(pen, 376)
    return pen


def conv_lstm() -> Pen:
    """A spot that spreads, one window a step."""
    pen = Pen("ConvLSTM: a spot of the input is seen by its neighbours, a step later by theirs", 300)
    shown = ("x₁", "", [0, 0, 1, 0, 0]), ("h₁", "", [0, 1, 1, 1, 0]), ("h₂", "x₂ = 0", [1, 2, 3, 2, 1])
    rows = [(*row, 260 - 110 * at, "h" if at else "x") for at, row in enumerate(shown)]
    places = [170 + 80 * at for at in range(5)]
    for (*_, below, bottom, colour), (*_, top, _) in itertools.pairwise(rows):
        for at, value in enumerate(below):
            for side in (-1, 0, 1):
                if value and 0 <= at + side < 5:  # side by side where several end at one place
                    start, end = places[at] + 14 * side, places[at + side] - 14 * side
                    pen.wire(colour, f"M{start},{bottom - 24} L{end},{top + 26}")
    for name, words, values, y, colour in rows:
        pen.text(70, y + 6, name, f"{colour} bold middle")
        pen.text(70, y + 28, words, "faint middle")
        for place, value in zip(places, values, strict=True):
            pen.box(place, y, 56, 46, str(value), kind="gate" if value else "box")
    return pen


def cudnn(name: str, gates: str) -> Pen:
    """The arrays of weights, one block for each gate."""
    pen = Pen(f"{name}: blocks of the weights, one for each gate, and two halves of the bias", 306)
    left, width = 206, 240 / len(gates)

    def row(y: float, words: str, height: float, block: str, kind: str) -> None:
        for at, gate in enumerate(gates):
            pen.box(left + width * (at + 0.5), y, width - 6, height, block.format(gate), kind=kind)
        pen.text(192, y + 6, words, "end bold")

    row(46, "kernel", 56, "{}ᵀ", "gate")
    row(126, "recurrent_kernel", 56, "{}ᵀ", "gate")
    row(198, "bias, for x", 34, "{}", "box")
    row(242, "bias, for h", 34, "{}", "box")
    for y, words in ((42, "each block"), (62, "transposed"), (122, "each block"), (142, "transposed")):
        pen.text(458, y, words, "faint")
    pen.text(458, 216, "one array", "faint")
    pen.text(458, 236, f"({2 * len(gates)} H,)", "faint")
    added = "the two halves are added" if len(gates) == 4 else "the halves are added; that of n for h is reset, too"
    pen.text(280, 290, added, "middle faint")
    return pen
