"""Shows the values of all lines at a step where a figure is pointed at or touched, without a script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

_MOST = 48
"""Places of one panel; readings between them are left out, so that the page stays small."""
_RADIUS, _LINE_HEIGHT = 6.0, 10.0
"""Points."""

STYLE = """
.hit rect, .hit circle { fill: var(--ink); fill-opacity: 0 } .hit:hover rect, .hit:hover circle { fill-opacity: .1 }
.hit text { display: none; font: 8.5px system-ui, sans-serif; fill: var(--ink); stroke: var(--ground); stroke-width: 3px }
.hit text { paint-order: stroke; pointer-events: none } .hit:hover text { display: block }
"""


@dataclass(frozen=True)
class _Place:
    """Where values stand, in points of the drawing, and what they are."""

    left: float
    top: float
    words: tuple[str, ...]


def hover_svg(axes: Axes, height: float) -> str:
    """Parts to lay over the view of a panel: a strip for each step, or a disc for each point where lines run to and fro.

    Args:
        axes: drawn, so that its place in the figure is known.
        height: of the figure, in points.
    """
    points = 72 / axes.figure.dpi
    box = axes.get_window_extent()
    left, right = points * box.x0, points * box.x1
    top, bottom = height - points * box.y1, height - points * box.y0
    places = [place for place in _places(axes, height, points) if left - 1 <= place.left <= right + 1]
    if not places:
        return ""
    if not _is_over_steps(axes):
        discs = (f'<circle cx="{place.left:.1f}" cy="{place.top:.1f}" r="{_RADIUS}"/>' for place in places)
        return _hits(places, discs, left, right, top)
    chosen = [places[number] for number in np.unique(np.linspace(0, len(places) - 1, min(_MOST, len(places))).round().astype(int))]
    xs = [place.left for place in chosen]
    edges = [left, *((a + b) / 2 for a, b in pairwise(xs)), right]
    strips = (f'<rect x="{a:.1f}" y="{top:.1f}" width="{b - a:.1f}" height="{bottom - top:.1f}"/>' for a, b in pairwise(edges))
    return _hits(chosen, strips, left, right, top)


def _hits(places: Sequence[_Place], shapes: Iterator[str], left: float, right: float, top: float) -> str:
    return "".join(
        f'<g class="hit">{shape}<title>{escape("; ".join(place.words))}</title>{_text(place, left, right, top)}</g>'
        for place, shape in zip(places, shapes, strict=True)
    )


def _text(place: _Place, left: float, right: float, top: float) -> str:
    """A line for each value, on the side where there is room."""
    is_left = place.left > (left + right) / 2
    x, anchor = (place.left - 4, "end") if is_left else (place.left + 4, "start")
    lines = (f'<tspan x="{x:.1f}" dy="{_LINE_HEIGHT}">{escape(word)}</tspan>' for word in place.words)
    return f'<text y="{top:.1f}" text-anchor="{anchor}">{"".join(lines)}</text>'


def _is_over_steps(axes: Axes) -> bool:
    return bool(axes.get_xlabel() == "step")


def _places(axes: Axes, height: float, points: float) -> list[_Place]:
    """One for every place on the horizontal axis; in order of the readings where that is no step."""
    values: dict[tuple[float, float], list[str]] = {}
    heights: dict[tuple[float, float], float] = {}
    is_over_steps = _is_over_steps(axes)
    for line in axes.lines:
        label = str(line.get_label())
        # matplotlib's own labels of lines that have none, and lines that are drawn from edge to edge.
        if label.startswith("_") or line.get_transform() != axes.transData:
            continue
        for x, y in zip(np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float), strict=True):
            if np.isfinite(x) and np.isfinite(y):
                key = (x, 0.0) if is_over_steps else (x, y)
                said = f"{label} {y:.4g}" if is_over_steps else f"{label} ({x:.3g}, {y:.3g})"
                values.setdefault(key, []).append(said)
                heights.setdefault(key, y)
    found = []
    for (x, _), words in sorted(values.items()) if is_over_steps else values.items():
        across, along = axes.transData.transform((x, heights[x, _]))
        title = (f"step {x:g}",) if is_over_steps else ()
        found.append(_Place(points * across, height - points * along, (*title, *words)))
    return found
