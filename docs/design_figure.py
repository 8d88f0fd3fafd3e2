"""Draws design.svg, the rooms of the library: ``python docs/design_figure.py``."""

from pathlib import Path

WIDTH, HEIGHT = 660, 808

STYLE = """
  svg { --paper: #ffffff; --room: #eef2f7; --inner: #ffffff; --line: #51606f; --ink: #17202a; --faint: #4a5763;
        --data: #0b5cad; }
  @media (prefers-color-scheme: dark) {
    svg { --paper: #12171d; --room: #1f2833; --inner: #12171d; --line: #8b9aab; --ink: #eef2f6; --faint: #b4c0cc;
          --data: #7db8f5; }
  }
  text { font-family: system-ui, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 15px; fill: var(--ink); }
  .paper { fill: var(--paper); }
  .room { fill: var(--room); stroke: var(--line); }
  .inner { fill: var(--inner); stroke: var(--line); }
  .name { font-size: 18px; font-weight: bold; }
  .words { fill: var(--faint); }
  .label { fill: var(--data); }
  .data { fill: none; stroke: var(--data); stroke-width: 2; marker-end: url(#data); }
  .imports { fill: none; stroke: var(--line); stroke-width: 1.3; stroke-dasharray: 5 4; marker-end: url(#imports); }
  .data-head { fill: var(--data); }
  .imports-head { fill: var(--line); }
"""

# Name, left, top, width, height, and what it is for.
ROOMS = [
    ("nnx", 48, 24, 178, 98, ["a face: modules of", "flax.nnx, which hold", "weights and states"]),
    ("linen", 241, 24, 178, 98, ["a face: modules of", "flax.linen, which", "declare them"]),
    ("convert", 434, 24, 178, 98, ["weights of Keras,", "torch and Flax,", "into both faces"]),
    ("layers", 48, 192, 564, 84, ["rnn and bidirectional: arguments are checked,", "stacks are run layer by layer"]),
    ("implementations", 48, 346, 564, 122, ["all steps, by the first of these that can run them"]),
    ("cells", 48, 538, 564, 84, ["one step: equations, weights, carries, dropout masks;", "Cell is the contract"]),
]
BESIDE = [
    ("programs", 48, 662, 178, 98, ["experiments, exam-", "ples, benchmarks;", "no room uses them"]),
    ("tests", 241, 662, 178, 98, ["in folders as these,", "against NumPy,", "Keras and torch"]),
    ("single files", 434, 662, 178, 98, ["activations,", "initializers,", "and others"]),
]
INNER = [
    ("native", 58, 406, 126, 50, ["C++, on CPUs"]),
    ("fused", 192, 406, 152, 50, ["own derivative"]),
    ("scan", 352, 406, 116, 50, ["jax.lax.scan"]),
    ("cudnn", 476, 406, 128, 50, ["NVIDIA's LSTM"]),
]

# Which room imports which, and how the arrow goes.
IMPORTS = {
    ("nnx", "layers"): "M70,122 V190",
    ("linen", "layers"): "M400,122 V190",
    ("layers", "implementations"): "M70,276 V344",
    ("implementations", "cells"): "M70,468 V536",
    ("nnx", "cells"): "M48,73 H14 V594 H46",
    ("layers", "cells"): "M48,234 H30 V568 H46",
    ("linen", "cells"): "M330,24 V10 H646 V594 H614",
    ("convert", "cells"): "M612,73 H630 V568 H614",
}

# Arrows, and for each its label: left, top, lines.
DATA = [
    ("M110,122 V189", 120, 152, ["cell, weights,", "inputs, mask, key"]),
    ("M290,192 V125", 300, 152, ["outputs,", "new state"]),
    ("M150,276 V343", 160, 306, ["Loop: what is fixed;", "Arrays: what comes in"]),
    ("M420,346 V279", 430, 306, ["outputs,", "last carry"]),
    ("M250,468 V535", 260, 498, ["weights, carry,", "projected inputs"]),
    ("M440,538 V471", 450, 498, ["new carry,", "output"]),
    ("M434,73 H422", 0, 0, []),
]


def text(kind: str, left: int, top: int, words: str) -> str:
    """One line."""
    return f'<text class="{kind}" x="{left}" y="{top}">{words}</text>'


def box(kind: str, name: str, left: int, top: int, width: int, height: int, lines: list[str]) -> list[str]:
    """A room, its name, and what it is for."""
    size, first, step = ("name", 24, 20) if kind == "room" else ("", 20, 20)
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
        body += [text("label", left, top + 19 * at, line) for at, line in enumerate(lines)]
    body += ['<path class="data" d="M48,786 H88"/>', text("words", 98, 791, "data")]
    body += ['<path class="imports" d="M168,786 H208"/>', text("words", 218, 791, "imports")]
    return "\n".join([*body, "</svg>", ""])


if __name__ == "__main__":
    Path(__file__).with_name("design.svg").write_text(draw())
