"""What is inside of a cell: how the input and the old state make the new one."""

import itertools

from pen import Pen


def _legend(pen: Pen, y: float, memory: bool = False) -> None:
    """What the colours are."""
    pen.text(24, y, "x input", "x")
    pen.text(100, y, "h state = output" if not memory else "h output", "h")
    if memory:
        pen.text(188, y, "c memory", "c")
    pen.text(302, y, "yellow: weights, then σ or tanh", "faint")


def simple_rnn() -> Pen:
    """Two products, a sum and tanh."""
    pen = Pen("SimpleRNNCell: the new state is tanh of input times K plus old state times R plus b", 260)
    pen.wire("h", "M24,90 H112")
    pen.text(30, 80, "h", "h bold")
    pen.box(140, 90, 56, 46, "× R", kind="gate")
    pen.wire("h", "M168,90 H264")
    pen.wire("x", "M80,215 V180 H112")
    pen.text(58, 212, "x", "x bold")
    pen.box(140, 180, 56, 46, "× K", kind="gate")
    pen.wire("x", "M168,180 H278 V106")
    pen.wire("plain", "M278,36 V74")
    pen.text(292, 46, "b", "bold")
    pen.wire("plain", "M292,90 H338")
    pen.op(278, 90, "+")
    pen.box(376, 90, 76, 46, "tanh", kind="gate")
    pen.wire("h", "M414,90 H536")
    pen.dot(470, 90, "h")
    pen.wire("h", "M470,90 V40")
    pen.text(484, 46, "output", "h")
    pen.text(500, 116, "h′", "h bold")
    _legend(pen, 246)
    return pen


def lstm() -> Pen:
    """The memory above, the gates below."""
    pen = Pen("LSTMCell: three gates decide what the memory keeps, what it takes in, and what it shows", 420)
    pen.wire("c", "M20,70 H536")
    pen.text(24, 58, "c", "c bold")
    pen.text(516, 58, "c′", "c bold")
    # The bus of input and old output, from which each gate takes both.
    pen.wire("h", "M20,340 H394 V272")
    pen.text(24, 330, "h", "h bold")
    pen.wire("x", "M56,386 V342", head=False)
    pen.text(68, 380, "x", "x bold")
    pen.dot(56, 340, "h")
    for at in (110, 206, 302):
        pen.dot(at, 340, "h")
        pen.wire("h", f"M{at},340 V272")
    pen.wire("gate", "M110,220 V86")
    pen.wire("gate", "M206,220 V150 H286")
    pen.wire("gate", "M302,220 V166")
    pen.wire("gate", "M302,136 V86")
    pen.wire("gate", "M394,220 V190 H454")
    pen.dot(470, 70, "c")
    pen.wire("c", "M470,70 V102")
    pen.wire("c", "M470,144 V174")
    pen.wire("h", "M470,204 V340 H536")
    pen.text(512, 330, "h′", "h bold")
    pen.gate(110, 246, "f = σ", "keep?")
    pen.gate(206, 246, "i = σ", "write?")
    pen.gate(302, 246, "g = tanh", "what?", 92)
    pen.gate(394, 246, "o = σ", "show?")
    pen.box(470, 123, 64, 40, "tanh")
    for at, sign in (((110, 70), "×"), ((302, 70), "+"), ((302, 150), "×"), ((470, 190), "×")):
        pen.op(*at, sign)
    _legend(pen, 408, memory=True)
    return pen


def gru() -> Pen:
    """The state above, the gates below."""
    pen = Pen("GRUCell: one gate mixes the old state with a candidate, another says what the candidate sees", 420)
    pen.wire("h", "M20,290 H314")
    pen.text(24, 280, "h", "h bold")
    pen.dot(48, 290, "h")
    pen.wire("h", "M48,290 V70 H536")
    pen.text(512, 58, "h′", "h bold")
    pen.wire("x", "M20,346 H436 V230")
    pen.text(24, 336, "x", "x bold")
    for at in (110, 220):
        pen.dot(at, 290, "h")
        pen.wire("h", f"M{at},290 V230")
        pen.dot(at + 30, 346, "x")
        pen.wire("x", f"M{at + 30},346 V230")
    pen.wire("gate", "M276,204 H330 V274")
    pen.wire("h", "M344,290 H404 V230")
    pen.wire("gate", "M126,178 V86")
    pen.dot(126, 130, "gate")
    pen.wire("gate", "M126,130 H204")
    pen.wire("gate", "M264,130 H404")
    pen.wire("gate", "M420,178 V146")
    pen.wire("gate", "M420,114 V86")
    pen.gate(126, 204, "z = σ", "keep?")
    pen.gate(236, 204, "r = σ", "see h?")
    pen.gate(420, 204, "n = tanh", "candidate", 92)
    pen.box(234, 130, 60, 36, "1 − z")
    for at, sign in (((126, 70), "×"), ((420, 70), "+"), ((420, 130), "×"), ((330, 290), "×")):
        pen.op(*at, sign)
    pen.text(360, 315, "h R", "faint")
    _legend(pen, 406)
    return pen


def conv_lstm() -> Pen:
    """A spot that spreads, one window a step."""
    pen = Pen("ConvLSTM: a spot of the input is seen by its neighbours, a step later by theirs", 330)
    shown = ("x", [0, 0, 1, 0, 0]), ("step 1", [0, 1, 1, 1, 0]), ("step 2", [1, 2, 3, 2, 1])
    rows = [(*row, 280 - 110 * at, "h" if at else "x") for at, row in enumerate(shown)]
    places = [170 + 80 * at for at in range(5)]
    for (_, below, bottom, colour), (_, _, top, _) in itertools.pairwise(rows):
        for at, value in enumerate(below):
            for to in (at - 1, at, at + 1):
                if value and 0 <= to < 5:
                    pen.wire(colour, f"M{places[at]},{bottom - 26} L{places[to]},{top + 30}")
    for name, values, y, colour in rows:
        pen.text(62, y + 6, name, f"{colour} bold middle")
        for place, value in zip(places, values, strict=True):
            pen.box(place, y, 56, 46, str(value), kind="gate" if value else "box")
    return pen


def cudnn(name: str, gates: str) -> Pen:
    """The arrays of weights, one block for each gate."""
    pen = Pen(f"{name}: blocks of the weights, one for each gate, and two halves of the bias", 330)
    left, width = 196, 240 / len(gates)

    def row(y: float, words: str, height: float, block: str, kind: str) -> None:
        for at, gate in enumerate(gates):
            pen.box(left + width * (at + 0.5), y, width - 6, height, block.format(gate), kind=kind)
        pen.text(182, y + 6, words, "end bold")

    row(66, "kernel", 56, "{}ᵀ", "gate")
    row(150, "recurrent_kernel", 56, "{}ᵀ", "gate")
    row(222, "bias, for x", 34, "{}", "box")
    row(266, "bias, for h", 34, "{}", "box")
    for y, words in ((62, "each block"), (82, "transposed"), (146, "each block"), (166, "transposed")):
        pen.text(448, y, words, "faint")
    pen.text(448, 240, "one array", "faint")
    pen.text(448, 260, f"({2 * len(gates)} H,)", "faint")
    added = "the two halves are added" if len(gates) == 4 else "the halves are added; that of n for h is reset, too"
    pen.text(280, 314, added, "middle faint")
    return pen
