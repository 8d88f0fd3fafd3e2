"""A picture of a layer reading: panels below each other, over the words, as an SVG for light and dark pages."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

import numpy as np

STYLE = """
  svg { --paper: #ffffff; --ink: #17202a; --faint: #4a5763; --rule: #d3dae2; --up: #0b5cad; --down: #b4540a; }
  @media (prefers-color-scheme: dark) {
    svg { --paper: #12171d; --ink: #eef2f6; --faint: #b4c0cc; --rule: #333e4a; --up: #7db8f5; --down: #f0a35e; }
  }
  text { font-family: system-ui, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 12px; fill: var(--ink); }
  .paper { fill: var(--paper); }
  .title { font-weight: bold; }
  .faint { fill: var(--faint); }
  .rule { stroke: var(--rule); }
  .line { fill: none; stroke-width: 2; }
  .up { fill: var(--up); } .line.up { fill: none; stroke: var(--up); }
  .down { fill: var(--down); } .line.down { fill: none; stroke: var(--down); stroke-dasharray: 6 3; }
"""

LEFT, RIGHT, GAP, HEIGHT, ROW = 90, 110, 46, 110, 18
LETTER = 6.6
"""About how wide a letter is."""


@dataclass
class Lines:
    """A panel with at most two lines over the words, all within 0 and 1.

    Attributes:
      title: what it shows.
      lines: ``(K,)`` each, by the name that stands at its end.
      marks: what to write at a word, by its place; beside the first line.
    """

    title: str
    lines: dict[str, np.ndarray]
    marks: dict[int, str] = field(default_factory=dict[int, str])

    @property
    def height(self) -> int:
        """Of the panel without its title."""
        return HEIGHT

    def draw(self, top: float, xs: np.ndarray) -> list[str]:
        """The panel, whose words are at ``xs``."""
        parts: list[str] = []
        for value in (0, 0.5, 1):
            y = top + HEIGHT * (1 - value)
            parts += [_rule(y, xs), _text(LEFT - 12, y + 4, f"{value:g}", "faint", "end")]
        ends: list[float] = []
        for kind, (name, values) in zip(("up", "down"), self.lines.items(), strict=False):
            ys = top + HEIGHT * (1 - values)
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
            parts.append(f'<polyline class="line {kind}" points="{points}"/>')
            end = ys[-1] + 4
            if ends and abs(end - ends[0]) < 15:
                end = ends[0] + (15 if end > ends[0] else -15)
            ends.append(end)
            parts.append(_text(xs[-1] + 10, end, name, kind))
        first = next(iter(self.lines.values()))
        for place, words in self.marks.items():
            y = top + HEIGHT * (1 - first[place])
            parts.append(f'<circle class="up" cx="{xs[place]:.1f}" cy="{y:.1f}" r="4"/>')
            parts.append(self._mark(xs[place], y, top, words))
        return parts

    def _mark(self, x: float, y: float, top: float, words: str) -> str:
        """Words beside a point, where the line does not come from: above a rise, below or left of a fall."""
        if not words.startswith("-"):
            return _text(x, max(y - 9, top - 5), words, "", "middle")
        return _text(x, y + 19, words, "", "middle") if y + 19 < top + HEIGHT else _text(x - 9, y + 5, words, "", "end")


@dataclass
class Heat:
    """A panel with a row of squares for each unit, the stronger the farther from 0, in two colours by sign.

    Attributes:
      title: what it shows.
      rows: ``(K,)`` each, by name.
      most: what has the full colour.
    """

    title: str
    rows: dict[str, np.ndarray]
    most: float

    @property
    def height(self) -> int:
        """Of the panel without its title."""
        return ROW * len(self.rows)

    def draw(self, top: float, xs: np.ndarray) -> list[str]:
        """The panel, whose words are at ``xs``."""
        width = xs[1] - xs[0] if len(xs) > 1 else ROW
        parts: list[str] = []
        for number, (name, values) in enumerate(self.rows.items()):
            y = top + ROW * number
            parts.append(_text(LEFT - 12, y + 13, name, "faint", "end"))
            parts += [
                f'<path class="{"up" if value >= 0 else "down"}" opacity="{min(abs(value) / self.most, 1):.2f}" '
                f'd="M{x - width / 2:.1f},{y:.0f}h{width - 1:.1f}v{ROW - 1}h{1 - width:.1f}z"/>'
                for x, value in zip(xs, values.tolist(), strict=True)
            ]
        return parts


def draw(title: str, subtitle: str, words: Sequence[str], panels: Sequence[Lines | Heat]) -> str:
    """The panels over ``words``, which stand below them."""
    step = max(15.0, min(34.0, 900 / len(words)))
    xs = LEFT + step * (np.arange(len(words)) + 0.5)
    longest = max(map(len, words)) * LETTER
    lines = [subtitle, title + " " * 5, *(panel.title + " " * 12 for panel in panels)]
    width = max(xs[-1] + step / 2 + RIGHT, 30 + LETTER * max(map(len, lines)))
    parts: list[str] = [_text(20, 26, title, "title"), _text(20, 44, subtitle, "faint")]
    top = 74.0
    for panel in panels:
        parts.append(_text(LEFT - 12, top, panel.title))
        parts += panel.draw(top + 16, xs)
        top += panel.height + GAP
    for x, word in zip(xs, words, strict=True):
        turn = f'transform="rotate(-60 {x + 4:.1f} {top - 14:.1f})"'
        parts.append(f'<text x="{x + 4:.1f}" y="{top - 14:.1f}" text-anchor="end" {turn}>{escape(word)}</text>')
    height = top + 0.9 * longest
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
            f'width="{width:.0f}" height="{height:.0f}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="paper" width="{width:.0f}" height="{height:.0f}"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _rule(y: float, xs: np.ndarray) -> str:
    return f'<line class="rule" x1="{LEFT - 6}" y1="{y:.1f}" x2="{xs[-1] + 6:.1f}" y2="{y:.1f}"/>'


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
