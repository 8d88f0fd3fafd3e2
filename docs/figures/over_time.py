"""What flows from step to step: the same cell again and again, with the numbers of the worked examples."""

import itertools
from collections.abc import Sequence

from pen import Pen, number

DIGITS = "₀₁₂₃₄₅"
CENTRES = (120, 280, 440)


def unrolled(
    title: str,
    name: str,
    inputs: Sequence[str],
    outputs: Sequence[float],
    memory: Sequence[float] | None = None,
    skipped: Sequence[bool] = (False, False, False),
    shown: Sequence[str] | None = None,
) -> Pen:
    """Three steps of a cell; where skipped the state goes past it."""
    pen = Pen(title, 280)
    h_y, c_y = (176, 138) if memory else (158, 0)
    edges = [(24, CENTRES[0] - 48), *((a + 48, b - 48) for a, b in itertools.pairwise(CENTRES)), (488, 540)]
    for step, centre in enumerate(CENTRES):
        pen.wire("off" if skipped[step] else "x", f"M{centre},244 V206")
        pen.wire("h", f"M{centre},116 V74")
        pen.box(centre, 160, 96, 88, "" if skipped[step] else name, kind="off" if skipped[step] else "box")
        if skipped[step]:
            pen.wire("h", f"M{centre - 48},{h_y} H{centre + 48}", head=False)
            pen.wire("h", f"M{centre},{h_y} V116", head=False)
            pen.dot(centre, h_y, "h")
            pen.text(centre, h_y + 28, "skipped", "middle bold")
        words = shown[step] if shown else number(outputs[step])
        pen.text(centre, 62, f"h{DIGITS[step + 1]} = {words}", "middle h bold")
        pen.text(centre, 266, f"x{DIGITS[step + 1]} = {inputs[step]}", "middle x bold")
    for at, (left, right) in enumerate(edges):
        pen.wire("h", f"M{left},{h_y} H{right - 1}")
        if memory:
            pen.wire("c", f"M{left},{c_y} H{right - 1}")
        middle = (left + right) / 2
        pen.text(middle, h_y + 23, number([0.0, *outputs][at]), "middle h")
        if memory:
            pen.text(middle, c_y - 8, number([0.0, *memory][at]), "middle c")
    pen.text(280, 26, title_words(memory is not None), "middle faint")
    return pen


def title_words(memory: bool) -> str:
    """What the lines between the cells are."""
    lines = "orange: memory c; blue: output h" if memory else "blue: state h"
    return f"{lines}; time goes to the right"


def idea() -> Pen:
    """A cell that feeds itself is the same cell once for each step."""
    pen = Pen("A recurrent layer: one cell whose state comes back to it, drawn once for each step", 270)
    pen.box(74, 130, 84, 70, "cell")
    pen.wire("x", "M74,214 V167")
    pen.wire("h", "M116,130 H142 V44")
    pen.dot(142, 74, "h")
    pen.wire("h", "M142,74 H14 V130 H30")
    pen.text(74, 236, "x", "middle x bold")
    pen.text(142, 32, "output", "h middle")
    pen.text(176, 137, "=", "middle bold")
    for at, centre in enumerate((264, 382, 500)):
        pen.box(centre, 130, 70, 70, "cell")
        pen.wire("x", f"M{centre},214 V167")
        pen.wire("h", f"M{centre},95 V44")
        pen.wire("h", f"M{(202, 299, 417)[at]},130 H{centre - 37}")
        pen.text(centre, 236, f"x{DIGITS[at + 1]}", "middle x bold")
        pen.text(centre, 32, f"h{DIGITS[at + 1]}", "middle h bold")
    pen.wire("h", "M535,130 H556")
    pen.text(210, 120, "h₀", "middle h bold")
    pen.text(382, 262, "the same weights at every step", "middle faint")
    return pen


def cell_and_layer() -> Pen:
    """A step, and all of them."""
    pen = Pen("A cell takes one step; a layer runs the cell over all steps", 500)
    pen.text(24, 32, "cell: one step", "bold")
    pen.box(280, 104, 110, 64, "cell")
    pen.wire("h", "M120,104 H222")
    pen.wire("h", "M335,104 H436")
    pen.wire("x", "M280,182 V138")
    pen.wire("h", "M280,72 V44")
    pen.text(110, 100, "carry", "end h bold")
    pen.text(110, 122, "(B, H)", "end faint")
    pen.text(446, 100, "new carry", "h bold")
    pen.text(446, 122, "(B, H)", "faint")
    pen.text(296, 180, "inputs (B, D)", "x")
    pen.text(296, 54, "output (B, H)", "h")
    pen.text(24, 224, "layer: all steps", "bold")
    pen.text(280, 254, "outputs: the last (B, H), or with", "middle h")
    pen.text(280, 277, "return_sequences all (B, T, H)", "middle h")
    pen.box(263, 364, 466, 116, kind="empty")
    for at, centre in enumerate((120, 280, 440)):
        pen.box(centre, 364, 84, 60, "cell")
        pen.wire("x", f"M{centre},450 V395")
        pen.wire("h", f"M{centre},334 V288")
        pen.wire("h", f"M{(44, 162, 322)[at]},364 H{centre - 43}")
    pen.wire("h", "M482,364 H546")
    pen.text(280, 470, "inputs (B, T, D)", "middle x bold")
    pen.text(524, 354, "carry", "middle h")
    pen.text(280, 492, "B sequences, T steps, D features, H units", "middle faint")
    return pen


def stacked() -> Pen:
    """Two cells on top of each other, over three steps."""
    pen = Pen("StackedRNNCells: within a step the output of each cell is the input of the next", 366)
    rows = [("cell 1", 238, [1, 2, 3]), ("cell 2", 114, [1, 3, 6])]
    for step, centre in enumerate(CENTRES):
        pen.wire("x", f"M{centre},314 V270")
        pen.text(centre, 334, f"x{DIGITS[step + 1]} = 1", "middle x bold")
        pen.wire("h", f"M{centre},207 V146")
        pen.text(centre + 18, 183, str(rows[0][2][step]), "middle h bold")
        pen.wire("h", f"M{centre},83 V42")
        pen.text(centre, 30, f"out{DIGITS[step + 1]} = {rows[1][2][step]}", "middle h bold")
        for name, y, values in rows:
            pen.box(centre, y, 90, 62, name)
            pen.wire("h", f"M{centre + 45},{y} H{centre + 114 if step < 2 else 544}")
            if step == 0:
                pen.wire("h", f"M20,{y} H{centre - 46}")
                pen.text(46, y + 23, "0", "middle h")
            pen.text(centre + 79, y + 23, str(values[step]), "middle h")
    pen.text(280, 358, "each cell has a state of its own", "middle faint")
    return pen


def bidirectional() -> Pen:
    """One layer goes to the right, another to the left."""
    pen = Pen("Bidirectional: one layer reads forwards, another backwards, and their outputs are merged", 396)
    forward, backward = [0, 1, 3, 6], [6, 5, 3, 0]
    for step, centre in enumerate(CENTRES):
        # x goes to both; what crosses without a dot does not meet.
        pen.wire("x", f"M{centre},356 V336 H{centre - 38} V299")
        pen.wire("x", f"M{centre},336 H{centre + 38} V181")
        pen.dot(centre, 336, "x")
        pen.text(centre, 378, f"x{DIGITS[step + 1]} = {step + 1}", "middle x bold")
        pen.wire("h", f"M{centre - 38},244 V93")
        pen.wire("back", f"M{centre + 38},126 V93")
        pen.wire("h", f"M{centre - 146 if step else 14},270 H{centre - 79}")
        pen.text(centre - 97, 293, str(forward[step]), "middle h")
        pen.wire("back", f"M{centre + 155 if step < 2 else 542},152 H{centre + 66}")
        pen.text(centre + 96, 175, str(backward[step + 1]), "middle back")
        pen.box(centre - 32, 270, 92, 52, "forward")
        pen.box(centre + 30, 152, 70, 52, "back")
        pen.box(centre, 72, 120, 38, f"{forward[step + 1]}, {backward[step]}")
    pen.text(280, 32, "concat: forward first, both in the order of the inputs", "middle faint")
    return pen


def states() -> Pen:
    """What is left by one call is where the next starts."""
    pen = Pen("stateful: the second call starts from the state that the first has left", 270)
    for left, right, words in ((38, 336, "first call"), (380, 522, "second call")):
        pen.box((left + right) / 2, 112, right - left, 112, kind="empty")
        pen.text((left + right) / 2, 40, words, "middle bold")
    values = [0, 1, 3, 6]
    for step, centre in enumerate((110, 262, 452)):
        pen.box(centre, 112, 84, 60, "cell")
        pen.wire("x", f"M{centre},200 V143")
        pen.wire("h", f"M{(8, 152, 304)[step]},112 H{centre - 43}")
        pen.text(centre, 222, f"x{DIGITS[step + 1]} = {step + 1}", "middle x bold")
    pen.wire("h", "M494,112 H554")
    for at, value in zip((22, 186, 358, 540), values, strict=True):
        pen.text(at, 100, str(value), "middle h bold")
    pen.text(280, 256, "blue: state h, kept between calls; no gradient goes back there", "middle faint")
    return pen


def dropout() -> Pen:
    """The same features are dropped at every step."""
    pen = Pen("Dropout in time: one mask for all steps of a sequence, another for the next sequence", 320)
    dropped = {"sequence 1": (1, 3), "sequence 2": (0,)}
    for row, (name, features) in enumerate(dropped.items()):
        top = 56 + 132 * row
        pen.text(24, top + 54, name, "bold")
        for step in range(5):
            for feature in range(4):
                x, y = 180 + 76 * step, top + 28 * feature
                pen.box(x, y, 58, 22, kind="off" if feature in features else "gate")
    for step in range(5):
        pen.text(180 + 76 * step, 30, f"x{DIGITS[step + 1]}", "middle x bold")
    pen.text(24, 306, "yellow: kept, times 1 / (1 − rate); empty: dropped", "faint")
    return pen
