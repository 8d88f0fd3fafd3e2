"""Draws design.svg, the rooms of the library: ``python docs/design_figure.py``."""

from pathlib import Path

WIDTH, HEIGHT = 900, 690

STYLE = """
  svg { --paper: #ffffff; --room: #eef2f7; --inner: #ffffff; --line: #51606f; --ink: #17202a; --faint: #4a5763;
        --data: #0b5cad; }
  @media (prefers-color-scheme: dark) {
    svg { --paper: #12171d; --room: #1f2833; --inner: #12171d; --line: #8b9aab; --ink: #eef2f6; --faint: #b4c0cc;
          --data: #7db8f5; }
  }
  text { font-family: system-ui, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 13px; fill: var(--ink); }
  .paper { fill: var(--paper); }
  .room { fill: var(--room); stroke: var(--line); }
  .inner { fill: var(--inner); stroke: var(--line); }
  .name { font-size: 17px; font-weight: bold; }
  .words { fill: var(--faint); }
  .label { fill: var(--data); }
  .data { fill: none; stroke: var(--data); stroke-width: 2; marker-end: url(#data); }
  .imports { fill: none; stroke: var(--line); stroke-width: 1.3; stroke-dasharray: 5 4; marker-end: url(#imports); }
  .data-head { fill: var(--data); }
  .imports-head { fill: var(--line); }
"""

# Name, left, top, width, height, and what it is for.
ROOMS = [
    ("nnx", 50, 30, 260, 80, ["a face: modules of flax.nnx hold", "weights, keys and states"]),
    ("linen", 330, 30, 260, 80, ["a face: modules of flax.linen", "declare weights, keys and states"]),
    ("layers", 50, 190, 540, 90, ["rnn and bidirectional: arguments are checked, stacks", "are run layer by layer"]),
    ("implementations", 50, 360, 540, 120, ["all steps, by the first of these that can run them"]),
    ("cells", 50, 560, 540, 80, ["one step: equations, weights, carries, dropout masks;", "Cell is the contract"]),
    ("convert", 670, 30, 200, 80, ["weights of Keras, torch,", "Flax, into both faces"]),
]
BESIDE = [
    ("programs", 670, 190, 200, 100, ["experiments, examples,", "benchmarks; no room", "uses them"]),
    ("tests", 670, 360, 200, 120, ["in folders as these;", "numbers of NumPy, Keras", "and torch are compared"]),
    ("single files", 670, 560, 200, 80, ["activations, initializers,", "regularizers and others"]),
]
INNER = [
    ("native", 65, 425, 115, 42, ["C++, on CPUs"]),
    ("fused", 192, 425, 150, 42, ["own backward pass"]),
    ("scan", 351, 425, 98, 42, ["jax.lax.scan"]),
    ("cudnn", 458, 425, 120, 42, ["NVIDIA's LSTM"]),
]

# Which room imports which, and how the arrow goes.
IMPORTS = {
    ("nnx", "layers"): "M75,110 V188",
    ("linen", "layers"): "M565,110 V188",
    ("layers", "implementations"): "M75,280 V358",
    ("implementations", "cells"): "M75,480 V558",
    ("nnx", "cells"): "M50,85 H18 V612 H48",
    ("layers", "cells"): "M50,235 H34 V588 H48",
    ("linen", "cells"): "M590,85 H610 V588 H592",
    ("convert", "cells"): "M670,85 H630 V612 H592",
}

# Arrows, and for each its label: left, top, lines.
DATA = [
    ("M185,110 V187", 195, 145, ["cell, weights, inputs,", "state, mask, dropout key"]),
    ("M420,190 V113", 430, 145, ["outputs,", "new state"]),
    ("M185,280 V357", 195, 315, ["Loop: what is fixed;", "Arrays: what comes in"]),
    ("M420,360 V283", 430, 315, ["outputs,", "last carry"]),
    ("M300,480 V557", 310, 515, ["weights, carry,", "projected inputs"]),
    ("M460,560 V483", 470, 515, ["new carry,", "output"]),
    ("M670,55 H593", 603, 46, ["weights"]),
]


def text(kind: str, left: int, top: int, words: str) -> str:
    """One line."""
    return f'<text class="{kind}" x="{left}" y="{top}">{words}</text>'


def box(kind: str, name: str, left: int, top: int, width: int, height: int, lines: list[str]) -> list[str]:
    """A room, its name, and what it is for."""
    size, first, step = ("name", 24, 20) if kind == "room" else ("", 17, 17)
    return [
        f'<rect class="{kind}" x="{left}" y="{top}" width="{width}" height="{height}" rx="6"/>',
        text(size, left + 12, top + first, name),
        *(text("words", left + 12, top + first + step * (at + 1), line) for at, line in enumerate(lines)),
    ]


def head(name: str) -> str:
    """The head of an arrow."""
    return (
        f'<marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="9" markerHeight="9" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path class="{name}-head" d="M0,0 L10,5 L0,10 Z"/></marker>'
    )


def draw() -> str:
    """The picture."""
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
        "<title>The rooms of flax_rnn: data goes down and up again, imports go down only</title>",
        f"<style>{STYLE}</style>",
        f"<defs>{head('data')}{head('imports')}</defs>",
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
    ]
    for room in [*ROOMS, *BESIDE]:
        body += box("room", *room)
    for one in INNER:
        body += box("inner", *one)
    body += [f'<path class="imports" d="{path}"/>' for path in IMPORTS.values()]
    for path, left, top, lines in DATA:
        body.append(f'<path class="data" d="{path}"/>')
        body += [text("label", left, top + 17 * at, line) for at, line in enumerate(lines)]
    body += ['<path class="data" d="M50,668 H90"/>', text("words", 100, 672, "data")]
    body += ['<path class="imports" d="M160,668 H200"/>', text("words", 210, 672, "imports")]
    return "\n".join([*body, "</svg>", ""])


if __name__ == "__main__":
    Path(__file__).with_name("design.svg").write_text(draw())
