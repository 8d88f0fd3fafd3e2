"""Draws who holds what in the kernels for a GPU, and a step of each: ``python docs/figures/gpu_kernels.py``."""

from collections.abc import Callable
from pathlib import Path

from pen import Pen

CENTRES = (171, 489)
WIDTH = 660


def cluster() -> Pen:
    """Four blocks that share 128 units, and go over all steps of 8 rows."""
    pen = Pen(
        "A cluster of four blocks: each has the recurrent weights of its own units, and h of all units", 424, WIDTH
    )
    for at in range(3):
        pen.box(226 + 158 * at, 44, 150, 50, f"rows {8 * at} to {8 * at + 7}", f"cluster {at}")
    pen.text(640, 50, "…", "middle")
    pen.wire("plain", "M226,69 V96")
    pen.box(401, 246, 504, 298, kind="empty")
    for y, lines in (
        (171, ("registers,", "all threads")),
        (247, ("registers,", "float32")),
        (331, ("shared memory,", "two buffers")),
    ):
        for at, line in enumerate(lines):
            pen.text(12, y - 4 + 20 * at, line, "faint")
    for block in range(4):
        centre, own = 215 + 124 * block, f"{32 * block} to {32 * block + 31}"
        pen.box(centre, 246, 116, 282)
        pen.text(centre, 130, f"block {block}", "middle bold")
        pen.box(centre, 171, 104, 52, "Rᵀ", own, kind="gate")
        pen.box(centre, 247, 104, 52, "c, h", own, kind="op")
        pen.box(centre + 4, 335, 96, 54, kind="op")
        pen.box(centre - 4, 327, 96, 54, "h", "0 to 127", kind="op")
    pen.text(401, 414, "numbers in boxes: units, of 128 in all", "middle faint")
    return pen


def _blocks(pen: Pen, top: float, bottom: float) -> None:
    """Two of a cluster."""
    for centre, name in zip(CENTRES, ("a block", "another one"), strict=True):
        pen.box(centre, (top + bottom) / 2, 302, bottom - top)
        pen.text(centre - 138, top + 26, name, "bold")


def _wait(pen: Pen, y: float, words: str) -> None:
    """What each block waits for."""
    pen.box(WIDTH / 2, y, WIDTH - 20, 30, kind="off")
    pen.text(WIDTH / 2, y + 6, words, "middle")


def _across(pen: Pen, colour: str, top: float, bottom: float) -> None:
    """From each block to all."""
    for at, start in enumerate(CENTRES):
        for to, end in enumerate(CENTRES):
            first, last = start + 24 * (to - at), end - 24 * (to - at)
            pen.wire(colour, f"M{first},{top} L{last},{bottom}")


def forward() -> Pen:
    """From h of all units to h of all units, a step later."""
    pen = Pen("A step forwards: a product, sums of warps, the cell, and h goes to all blocks", 536, WIDTH)
    _blocks(pen, 12, 482)
    for centre, turn in zip(CENTRES, (1, -1), strict=True):  # one is the other in a mirror
        pen.box(centre, 78, 210, 50, "h", "all units, this buffer", kind="op")
        for side, words in ((-66, "first half of h"), (66, "second half")):
            pen.wire("h", f"M{centre + side},103 V131")
            pen.gate(centre + side, 158, "Rᵀ hᵀ", words, 126)
            pen.wire("gate", f"M{centre + side},184 L{centre + (13 if side > 0 else -13)},213")
        pen.wire("gate", f"M{centre},236 V261")
        pen.op(centre, 222, "+")
        pen.text(centre + 24, 228, "sums of warps", "faint")
        outer = "" if turn > 0 else "end "
        pen.wire("x", f"M{centre - 138 * turn},278 H{centre - 56 * turn}")
        pen.text(centre - 138 * turn, 268, "x", f"{outer}x bold")
        pen.box(centre, 288, 110, 52, "cell", "own units", kind="gate")
        pen.box(centre + 116 * turn, 288, 50, 56, "c, h", kind="op")
        pen.wire("c", f"M{centre + 91 * turn},278 H{centre + 56 * turn}")
        pen.wire("c", f"M{centre + 55 * turn},300 H{centre + 90 * turn}")
        pen.wire("plain", f"M{centre - 55 * turn},300 H{centre - 84 * turn} V346")
        for at, words in enumerate(("to memory:", "h, gates, c")):
            pen.text(centre - 138 * turn, 364 + 20 * at, words, f"{outer}faint")
        pen.box(centre, 446, 210, 50, "h′", "all units, other buffer", kind="op")
    _across(pen, "h", 314, 420)
    _wait(pen, 508, "each block waits until all of h′ has come; the next step reads that buffer")
    return pen


def backward() -> Pen:
    """From the gradient of h to that of h ahead of the step."""
    pen = Pen(
        "A step backwards: gradients of the cell, a product with R, and shares for those who own the units", 652, WIDTH
    )
    _blocks(pen, 12, 510)
    for centre in CENTRES:
        pen.box(centre + 10, 78, 176, 50, "∂h, ∂c", "own units, registers", kind="op")
        pen.wire("back", f"M{centre},103 V131")
        pen.wire("plain", f"M{centre - 138},158 H{centre - 66}")
        pen.text(centre - 138, 128, "gates, c,", "faint")
        pen.text(centre - 138, 148, "∂output", "faint")
        pen.box(centre, 158, 130, 52, "cell", "backwards", kind="gate")
        pen.wire("back", f"M{centre},184 V213")
        pen.wire("plain", f"M{centre + 65},158 H{centre + 110} V190")
        pen.text(centre + 144, 208, "∂s to memory", "end faint")
        pen.box(centre, 240, 232, 52, "∂s", "own units, shared memory", kind="op")
        pen.wire("back", f"M{centre},266 V333")
        pen.box(centre, 296, 190, 26, kind="off")
        pen.text(centre, 302, "barrier of the block", "middle faint")
        pen.gate(centre, 360, "R ∂sᵀ", "for all units", 150)
        pen.box(centre, 476, 220, 50, "shares", "own units, of each block", kind="op")
    _across(pen, "back", 386, 450)
    _wait(pen, 536, "each block waits until all of its shares have come")
    for centre in CENTRES:
        pen.wire("back", f"M{centre},552 V580")
        pen.op(centre, 596, "+")
        pen.text(centre + 26, 602, "direct part of ∂h", "faint")
        pen.wire("back", f"M{centre},610 V640")
        pen.text(centre - 14, 634, "∂h", "end back bold")
    return pen


FIGURES: dict[str, Callable[[], Pen]] = {"gpu-cluster": cluster, "gpu-forward": forward, "gpu-backward": backward}


def draw() -> dict[str, str]:
    """All figures, by the names of their files."""
    return {f"{name}.svg": figure().picture() for name, figure in FIGURES.items()}


if __name__ == "__main__":
    for name, picture in draw().items():
        Path(__file__).with_name(name).write_text(picture)
