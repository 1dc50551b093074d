"""A picture of what went on over time: panels below one another, one time axis, as SVG text. Knows nothing of what it shows.

The picture brings its own ground and follows the reader's light or dark scheme, so that it can stand in any page.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LEFT, RIGHT = 880, 64, 28
TOP, TITLE, GAP, BOTTOM = 46, 30, 18, 48

STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #57606a }
.ground { fill: #ffffff } .title { font-weight: 600; fill: #1f2328; stroke: #ffffff; stroke-width: 4px; paint-order: stroke }
.event { fill: #1f2328 }
.grid { stroke: #d8dee4 } .mark { stroke: #8c959f; stroke-dasharray: 2 4 }
.line { fill: none; stroke-width: 2.2; stroke-linejoin: round } .dashed { stroke-dasharray: 7 4 }
.c0 { stroke: #0b6e4f } .c1 { stroke: #1f5fbf } .c2 { stroke: #b3470b } .c3 { stroke: #6f42c1 }
.area { opacity: 0.16; stroke: none }
.c0.area { fill: #0b6e4f } .c3.area { fill: #6f42c1 }
@media (prefers-color-scheme: dark) {
  text { fill: #9ea7b3 } .ground { fill: #0d1117 } .title, .event { fill: #e6edf3 } .title { stroke: #0d1117 }
  .grid { stroke: #2b323b } .mark { stroke: #6e7681 }
  .c0 { stroke: #4cc79a } .c1 { stroke: #79b8ff } .c2 { stroke: #ffa657 } .c3 { stroke: #c4a5f7 }
  .c0.area { fill: #4cc79a } .c3.area { fill: #c4a5f7 }
}
"""


@dataclass(frozen=True)
class Line:
    """One series, a value for each time of the picture."""

    values: Sequence[float]
    colour: int
    """0 to 3."""
    name: str = ""
    """Said beside the panel's title, where a panel has several."""
    dashed: bool = False
    steps: bool = True
    """A count holds until the next; otherwise points are joined."""
    filled: bool = False


@dataclass(frozen=True)
class Panel:
    """One plot, from zero upwards."""

    title: str
    lines: Sequence[Line]
    height: int


def picture(times: Sequence[float], panels: Sequence[Panel], *, events: Sequence[tuple[float, str]], said: str) -> str:
    """The SVG. `times`: seconds, increasing; `events`: what happened when, marked in all panels; `said`: for who cannot see."""
    height = TOP + sum(TITLE + panel.height + GAP for panel in panels) + BOTTOM - GAP
    last = times[-1]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(said)}">',
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{height}" rx="6"/>',
    ]
    foot = height - BOTTOM
    for at, what in events:
        x = across(at, last)
        anchor = "end" if x > WIDTH - 150 else "start"
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 12}" y2="{foot}"/>')
        parts.append(f'<text class="event" x="{x:.1f}" y="{TOP - 20}" text-anchor="{anchor}">{escape(what)}</text>')
    top = TOP
    for panel in panels:
        parts += plot(panel, times, top + TITLE)
        top += TITLE + panel.height + GAP
    for tick in (tick for tick in ticks(last, 8) if tick <= last):
        x = across(tick, last)
        parts.append(f'<text x="{x:.1f}" y="{foot + 18}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{foot + 37}" text-anchor="middle">seconds</text>')
    return "\n".join([*parts, "</svg>", ""])


def plot(panel: Panel, times: Sequence[float], top: float) -> Iterator[str]:
    """A panel: title, grid, lines; `top` of its plot."""
    scale = ticks(max(max(line.values) for line in panel.lines), 4)
    foot, most = top + panel.height, scale[-1]
    yield f'<text class="title" x="{LEFT}" y="{top - 11}">{escape(panel.title)}</text>'
    x = LEFT + 8.0 * len(panel.title) + 20
    for line in (line for line in panel.lines if line.name):
        dashed = " dashed" if line.dashed else ""
        yield f'<line class="line c{line.colour}{dashed}" x1="{x:.0f}" x2="{x + 26:.0f}" y1="{top - 15}" y2="{top - 15}"/>'
        yield f'<text x="{x + 33:.0f}" y="{top - 11}">{escape(line.name)}</text>'
        x += 33 + 7.5 * len(line.name) + 22
    for tick in scale:
        y = foot - panel.height * tick / most
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 9}" y="{y + 4.5:.1f}" text-anchor="end">{tick:g}</text>'
    for line in panel.lines:
        points = list(corners(line, times, foot, panel.height / most))
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        if line.filled:
            yield f'<polygon class="area c{line.colour}" points="{points[0][0]:.1f},{foot} {path} {points[-1][0]:.1f},{foot}"/>'
        yield f'<polyline class="line c{line.colour}{" dashed" if line.dashed else ""}" points="{path}"/>'


def corners(line: Line, times: Sequence[float], foot: float, scale: float) -> Iterator[tuple[float, float]]:
    """The points of a line, in the picture's units."""
    before = None
    for at, value in zip(times, line.values, strict=True):
        x, y = across(at, times[-1]), foot - scale * value
        if line.steps and before is not None and before != y:
            yield x, before
        if not line.steps or before != y or at == times[-1]:
            yield x, y
        before = y


def across(at: float, last: float) -> float:
    """Where a time is, in the picture's units."""
    return LEFT + (WIDTH - LEFT - RIGHT) * at / last


def ticks(most: float, count: int) -> list[float]:
    """About so many round numbers from 0, the last of them not below `most`; whole ones up from `count`."""
    rough = max(most, 1e-9) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    step = max(step, 1.0) if most >= 2 else step
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]
