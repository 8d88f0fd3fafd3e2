"""What all figures of the guide are drawn with, so that they look alike: colours, boxes, wires and operations."""

from html import escape

STYLE = """
  svg { --paper: #ffffff; --box: #eef2f7; --line: #51606f; --ink: #17202a; --faint: #4a5763;
        --x: #2e7d32; --h: #0b5cad; --c: #b34700; --back: #7a3fa0;
        --gate: #fff3d6; --gate-line: #96690a; --off: #9aa7b4; }
  @media (prefers-color-scheme: dark) {
    svg { --paper: #12171d; --box: #1f2833; --line: #8b9aab; --ink: #eef2f6; --faint: #b4c0cc;
          --x: #81c784; --h: #7db8f5; --c: #ffab70; --back: #c9a2f2;
          --gate: #3b3015; --gate-line: #d9ad4a; --off: #5b6977; }
  }
  text { font-family: system-ui, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 18px; fill: var(--ink); }
  .paper { fill: var(--paper); }
  .box { fill: var(--box); stroke: var(--line); stroke-width: 1.3; }
  .gate { fill: var(--gate); stroke: var(--gate-line); stroke-width: 1.5; }
  .empty { fill: none; stroke: var(--line); stroke-dasharray: 5 4; }
  .off { fill: var(--paper); stroke: var(--off); stroke-dasharray: 5 4; }
  .op { fill: var(--paper); stroke: var(--ink); stroke-width: 1.5; }
  .wire { fill: none; stroke-width: 2.2; }
  .middle { text-anchor: middle; }
  .end { text-anchor: end; }
  .bold { font-weight: bold; }
  .faint { fill: var(--faint); font-size: 16px; }
  .x-line { stroke: var(--x); } .h-line { stroke: var(--h); } .c-line { stroke: var(--c); }
  .back-line { stroke: var(--back); } .back { fill: var(--back); }
  .gate-line { stroke: var(--gate-line); } .plain-line { stroke: var(--line); } .off-line { stroke: var(--off); }
  .x { fill: var(--x); } .h { fill: var(--h); } .c { fill: var(--c); } .off-text { fill: var(--off); }
  .dot { stroke: none; } .gate-dot { fill: var(--gate-line); }
"""

COLOURS = ("x", "h", "c", "back", "gate", "plain", "off")


class Pen:
    """A figure of one size, to which parts are added; things that come later lie on top."""

    def __init__(self, title: str, height: int, width: int = 560):
        self.title, self.height, self.width = title, height, width
        self.parts: list[str] = []

    def text(self, x: float, y: float, words: str, kind: str = "middle") -> None:
        """One line; ``y`` is where it stands on."""
        self.parts.append(f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(words, quote=False)}</text>')

    def box(
        self, x: float, y: float, width: float, height: float, name: str = "", words: str = "", kind: str = "box"
    ) -> None:
        """A box around the point ``(x, y)``, with a name, and words below it."""
        left, top = x - width / 2, y - height / 2
        self.parts.append(
            f'<rect class="{kind}" x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="7"/>'
        )
        if name:
            self.text(x, y + (-2 if words else 6), name, "middle bold")
        if words:
            self.text(x, y + 17, words, "middle faint")

    def gate(self, x: float, y: float, name: str, words: str, width: float = 82) -> None:
        """A gate: weights, a sum, and what is done with it."""
        self.box(x, y, width, 52, name, words, "gate")

    def op(self, x: float, y: float, sign: str) -> None:
        """A sum or a product, number by number."""
        self.parts.append(f'<circle class="op" cx="{x:g}" cy="{y:g}" r="14"/>')
        self.text(x, y + 6, sign)

    def bar(self, left: float, top: float, width: float, height: float, colour: str) -> None:
        """A quantity."""
        size = f'x="{left:g}" y="{top:g}" width="{width:.1f}" height="{height:g}"'
        self.parts.append(f'<rect class="{colour}" {size} rx="2"/>')

    def dot(self, x: float, y: float, colour: str) -> None:
        """Where a wire branches."""
        kind = "gate-dot" if colour == "gate" else colour
        self.parts.append(f'<circle class="{kind} dot" cx="{x:g}" cy="{y:g}" r="4"/>')

    def wire(self, colour: str, path: str, head: bool = True) -> None:
        """A line along ``path``, with or without a head."""
        end = f' marker-end="url(#{colour})"' if head else ""
        self.parts.append(f'<path class="wire {colour}-line" d="{path}"{end}/>')

    def picture(self) -> str:
        """The file."""
        heads = "".join(
            f'<marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="11" markerHeight="11" '
            f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0,0 L10,5 L0,10 Z" style="fill: '
            f"var(--{'line' if name == 'plain' else 'gate-line' if name == 'gate' else name})"
            '"/></marker>'
            for name in COLOURS
        )
        size = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}"'
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            f"<title>{escape(self.title, quote=False)}</title>",
            f"<style>{STYLE}</style>",
            f"<defs>{heads}</defs>",
            f'<rect class="paper" width="{self.width}" height="{self.height}" rx="8"/>',
            *self.parts,
            "</svg>",
        ]
        return "\n".join([*lines, ""])


def number(value: float) -> str:
    """As somebody would write it by hand."""
    return f"{value:.3f}".rstrip("0").rstrip(".")
