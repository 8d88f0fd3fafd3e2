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
    pen = Pen(title, 300)
    h_y, c_y = (176, 138) if memory else (158, 0)
    edges = [(24, CENTRES[0] - 48), *((a + 48, b - 48) for a, b in itertools.pairwise(CENTRES)), (488, 540)]
    for step, centre in enumerate(CENTRES):
        pen.wire("off" if skipped[step] else "x", f"M{centre},244 V206")
        pen.wire("h", f"M{centre},116 V74")
        pen.box(centre, 160, 96, 88, name if not skipped[step] else "skipped", kind="off" if skipped[step] else "box")
        if skipped[step]:
            pen.wire("h", f"M{centre - 48},158 H{centre - 46} V190 H{centre + 46} V158 H{centre + 48}", head=False)
        words = shown[step] if shown else number(outputs[step])
        pen.text(centre, 62, f"h{DIGITS[step + 1]} = {words}", "middle h bold")
        pen.text(centre, 266, f"x{DIGITS[step + 1]} = {inputs[step]}", "middle x bold")
    for at, (left, right) in enumerate(edges):
        pen.wire("h", f"M{left},{h_y} H{right}")
        if memory:
            pen.wire("c", f"M{left},{c_y} H{right}")
        middle = (left + right) / 2
        pen.text(middle, h_y + 20, number([0.0, *outputs][at]), "middle h")
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
    pen = Pen("A recurrent layer: one cell whose state comes back to it, drawn once for each step", 300)
    pen.box(74, 150, 84, 70, "cell")
    pen.wire("x", "M74,236 V187")
    pen.wire("h", "M74,115 V62")
    pen.wire("h", "M116,150 H140 V92 H22 V150 H30")
    pen.text(74, 258, "x", "middle x bold")
    pen.text(92, 58, "output", "h middle")
    pen.text(168, 157, "=", "middle bold")
    for at, centre in enumerate((250, 370, 490)):
        pen.box(centre, 150, 74, 70, "cell")
        pen.wire("x", f"M{centre},236 V187")
        pen.wire("h", f"M{centre},115 V70")
        pen.wire("h", f"M{centre - (60 if at == 0 else 83)},150 H{centre - 38}")
        pen.text(centre, 258, f"x{DIGITS[at + 1]}", "middle x bold")
        pen.text(centre, 60, f"h{DIGITS[at + 1]}", "middle h bold")
    pen.wire("h", "M527,150 H552")
    pen.text(202, 142, "h₀", "middle h bold")
    pen.text(370, 288, "the same weights at every step", "middle faint")
    return pen


def cell_and_layer() -> Pen:
    """A step, and all of them."""
    pen = Pen("A cell takes one step; a layer runs the cell over all steps", 520)
    pen.text(24, 32, "cell: one step", "bold")
    pen.box(280, 104, 110, 64, "cell")
    pen.wire("h", "M120,104 H222")
    pen.wire("h", "M335,104 H436")
    pen.wire("x", "M280,184 V138")
    pen.wire("h", "M280,72 V48")
    pen.text(110, 100, "carry", "end h bold")
    pen.text(110, 122, "(B, H)", "end faint")
    pen.text(446, 100, "new carry", "h bold")
    pen.text(446, 122, "(B, H)", "faint")
    pen.text(296, 182, "inputs (B, D)", "x")
    pen.text(296, 52, "output (B, H)", "h")
    pen.text(24, 236, "layer: all steps", "bold")
    pen.box(263, 360, 466, 128, kind="empty")
    for at, centre in enumerate((120, 280, 440)):
        pen.box(centre, 360, 84, 60, "cell")
        pen.wire("x", f"M{centre},456 V391")
        pen.wire("h", f"M{centre},330 V278")
        pen.wire("h", f"M{(44, 162, 322)[at]},360 H{centre - 43}")
    pen.wire("h", "M482,360 H546")
    pen.text(280, 480, "inputs (B, T, D)", "middle x bold")
    pen.text(200, 268, "return_sequences: (B, T, H)", "middle h")
    pen.text(440, 268, "else: (B, H)", "middle h bold")
    pen.text(503, 350, "state", "h")
    pen.text(280, 508, "B sequences, T steps, D features, H units", "middle faint")
    return pen


def stacked() -> Pen:
    """Two cells on top of each other, over three steps."""
    pen = Pen("StackedRNNCells: within a step the output of each cell is the input of the next", 400)
    rows = [("cell 1", 260, [1, 2, 3]), ("cell 2", 126, [1, 3, 6])]
    for step, centre in enumerate(CENTRES):
        pen.wire("x", f"M{centre},344 V292")
        pen.text(centre, 366, f"x{DIGITS[step + 1]} = 1", "middle x bold")
        for name, y, values in rows:
            pen.box(centre, y, 90, 62, name)
            pen.wire("h", f"M{centre},{y - 31} V{y - 70}")
            pen.wire("h", f"M{centre + 45},{y} H{centre + 114 if step < 2 else 544}")
            if step == 0:
                pen.wire("h", f"M20,{y} H{centre - 46}")
            pen.text(centre + 79, y + 20, str(values[step]), "middle h")
            pen.text(centre + 18, y - 44, str(values[step]), "middle h bold")
        pen.text(centre, 48, f"out{DIGITS[step + 1]} = {rows[1][2][step]}", "middle h bold")
    pen.text(280, 392, "each cell has a state of its own", "middle faint")
    return pen


def bidirectional() -> Pen:
    """One layer goes to the right, another to the left."""
    pen = Pen("Bidirectional: one layer reads forwards, another backwards, and their outputs are merged", 420)
    forward, backward = [1, 3, 6], [6, 5, 3]
    for step, centre in enumerate(CENTRES):
        pen.wire("x", f"M{centre - 22},364 V322")
        pen.wire("x", f"M{centre + 22},364 V190")
        pen.text(centre, 388, f"x{DIGITS[step + 1]} = {step + 1}", "middle x bold")
        pen.wire("c", f"M{centre + 22},134 V96")
        pen.wire("h", f"M{centre - 22},266 V96")
        pen.box(centre, 294, 96, 56, "forward")
        pen.box(centre, 78, 96, 36, f"{forward[step]}, {backward[step]}")
        if step < 2:
            pen.wire("h", f"M{centre + 48},294 H{centre + 111}")
            pen.text(centre + 79, 314, str(forward[step]), "middle h")
    for step, centre in enumerate(CENTRES):
        pen.box(centre + 22, 162, 76, 56, "back", kind="gate")
        if step < 2:
            pen.wire("c", f"M{centre + 144},162 H{centre + 61}")
            pen.text(centre + 102, 186, str(backward[step + 1]), "middle c")
    pen.text(280, 36, "concat: forward first, both in the order of the inputs", "middle faint")
    return pen


def states() -> Pen:
    """What is left by one call is where the next starts."""
    pen = Pen("stateful: the second call starts from the state that the first has left", 300)
    for left, right, words in ((30, 330, "first call"), (372, 520, "second call")):
        pen.box((left + right) / 2, 150, right - left, 120, kind="empty")
        pen.text((left + right) / 2, 76, words, "middle bold")
    values = [1, 3, 6]
    for step, centre in enumerate((100, 254, 446)):
        pen.box(centre, 150, 84, 60, "cell")
        pen.wire("x", f"M{centre},240 V181")
        pen.wire("h", f"M{(20, 142, 296)[step]},150 H{centre - 43}")
        pen.text(centre, 264, f"x{DIGITS[step + 1]} = {step + 1}", "middle x bold")
        pen.text((177, 351, 534)[step], 140, str(values[step]), "middle h bold")
    pen.wire("h", "M488,150 H546")
    pen.text(350, 290, "kept between calls; no gradient goes back through it", "middle faint")
    pen.text(280, 40, "blue: state h", "middle faint")
    return pen


def dropout() -> Pen:
    """The same features are dropped at every step."""
    pen = Pen("Dropout in time: one mask for all steps of a sequence, another for the next sequence", 330)
    dropped = {"sequence 1": (1, 3), "sequence 2": (0,)}
    for row, (name, features) in enumerate(dropped.items()):
        top = 66 + 132 * row
        pen.text(24, top + 54, name, "bold")
        for step in range(5):
            for feature in range(4):
                x, y = 170 + 72 * step, top + 28 * feature
                pen.box(x, y, 58, 22, kind="off" if feature in features else "gate")
    for step in range(5):
        pen.text(170 + 72 * step, 40, f"x{DIGITS[step + 1]}", "middle x bold")
    pen.text(24, 316, "yellow: kept, times 1 / (1 − rate); empty: dropped", "faint")
    return pen
