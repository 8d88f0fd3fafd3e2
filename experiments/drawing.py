"""A picture of a layer reading: its words from top to bottom and panels beside them, as an SVG for light and dark."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

import numpy as np

STYLE = """
  svg { --paper: #ffffff; --ink: #17202a; --faint: #4a5763; --rule: #d3dae2; --up: #0b5cad; --down: #b4540a; }
  @media (prefers-color-scheme: dark) {
    svg { --paper: #12171d; --ink: #eef2f6; --faint: #b4c0cc; --rule: #333e4a; --up: #7db8f5; --down: #f0a35e; }
  }
  text { font-family: system-ui, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 16px; fill: var(--ink); }
  .paper { fill: var(--paper); }
  .bold { font-weight: bold; }
  .faint { fill: var(--faint); }
  .rule { stroke: var(--rule); }
  .line { fill: none; stroke-width: 2; }
  .up { fill: var(--up); } .line.up { fill: none; stroke: var(--up); }
  .down { fill: var(--down); } .line.down { fill: none; stroke: var(--down); stroke-dasharray: 6 3; }
"""

EDGE, GAP, ROW, COLUMN, LINE = 16, 20, 19, 13, 21
LETTER = 9.2
"""About how wide a letter is."""


@dataclass
class Lines:
    """A panel with at most two lines along the words, all within 0 and 1.

    Attributes:
      title: what stands above it.
      note: what it shows, for below the picture.
      lines: ``(K,)`` each; the first is blue, the second orange and dashed.
      width: in pixels.
    """

    title: str
    note: str
    lines: Sequence[np.ndarray]
    width: int = 90

    def head(self, left: float, top: float) -> Iterator[str]:
        """What stands right above the panel: its scale."""
        yield _text(left - 2, top - 8, "0", "faint")
        yield _text(left + self.width + 2, top - 8, "1", "faint", "end")

    def draw(self, left: float, ys: np.ndarray) -> Iterator[str]:
        """The panel, whose words are at ``ys``."""
        for value in (0, 0.5, 1):
            x = left + self.width * value
            yield _rule(x, ys[0] - ROW / 2, x, ys[-1] + ROW / 2)
        for kind, values in zip(("up", "down"), self.lines, strict=False):
            points = " ".join(f"{left + self.width * x:.1f},{y:.1f}" for x, y in zip(values.tolist(), ys, strict=True))
            yield f'<polyline class="line {kind}" points="{points}"/>'


@dataclass
class Heat:
    """A panel with a column of squares for each unit, the stronger the farther from 0, in two colours by sign.

    Attributes:
      title: what stands above it.
      note: what it shows, for below the picture.
      columns: ``(K, N)``.
      signs: what stands above each column, one letter.
      most: what has the full colour.
    """

    title: str
    note: str
    columns: np.ndarray
    signs: Sequence[str]
    most: float

    @property
    def width(self) -> int:
        """In pixels."""
        return COLUMN * len(self.signs)

    def head(self, left: float, top: float) -> Iterator[str]:
        """What stands right above the panel: the signs of the columns."""
        for number, sign in enumerate(self.signs):
            yield _text(left + COLUMN * (number + 0.5), top - 8, sign, "faint", "middle")

    def draw(self, left: float, ys: np.ndarray) -> Iterator[str]:
        """The panel, whose words are at ``ys``."""
        for number, values in enumerate(self.columns.T):
            for value, y in zip(values.tolist(), ys, strict=True):
                kind, strength = "up" if value >= 0 else "down", min(abs(value) / self.most, 1)
                yield (
                    f'<path class="{kind}" opacity="{strength:.2f}" '
                    f'd="M{left + COLUMN * number:.0f},{y - ROW / 2:.1f}h{COLUMN - 1}v{ROW - 1}h{1 - COLUMN}z"/>'
                )


def draw(
    title: str, subtitle: str, words: Sequence[str], marks: Mapping[int, str], panels: Sequence[Lines | Heat]
) -> str:
    """The panels beside ``words``; ``marks`` is what to write ahead of some of these, by place."""
    lengths = [
        len(word) * 1.1 + len(marks[place]) + 1.5 if place in marks else len(word) for place, word in enumerate(words)
    ]
    right = EDGE + LETTER * max(lengths)
    lefts = right + 2 * GAP + np.cumsum([0, *(panel.width + GAP for panel in panels)])
    least = EDGE + LETTER * max(len(subtitle), len(title) * 1.1)
    width = max(lefts[-1] - GAP, least) + EDGE
    top = 120.0
    ys = top + ROW * (np.arange(len(words)) + 0.5)

    parts = [_text(EDGE, 28, title, "bold"), _text(EDGE, 50, subtitle, "faint")]
    parts += [_rule(right + 6, ys[place], lefts[-1] - GAP, ys[place]) for place in marks]
    for left, panel in zip(lefts.tolist(), panels, strict=False):
        parts.append(_text(left + panel.width / 2, 82, panel.title, "bold", "middle"))
        parts += [*panel.head(left, top), *panel.draw(left, ys)]
    y = ys[-1] + ROW + 6
    for panel in panels:
        for line in textwrap.wrap(f"{panel.title}: {panel.note}", int((width - 2 * EDGE) / LETTER * 1.06)):
            y += LINE
            parts.append(_text(EDGE, y, line, "faint"))
    for place, words_ahead in marks.items():
        x = right - LETTER * (len(words[place]) * 1.1 + 1)
        parts.append(_text(x, ys[place] + 5.5, words_ahead, "up" if words_ahead.startswith("+") else "down", "end"))
    for place, word in enumerate(words):
        parts.append(_text(right, ys[place] + 5.5, word, "bold" if place in marks else "", "end"))
    height = y + EDGE
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


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="rule" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
