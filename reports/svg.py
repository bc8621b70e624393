"""Inlines figures as SVG whose colours follow the page's light or dark scheme."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from html import escape
from typing import TypeVar

from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reports.hover import hover_svg
from reports.style import DARK_TWINS, styled

_SCALE, _MARGIN = 1.5, 3.0
"""Pixels a point where there is room; points around a panel."""

_Box = tuple[float, float, float, float]
"""left, top, width, height, in points."""
_Drawn = TypeVar("_Drawn", bound=Artist)


def panels_svg(figure: Figure, name: str, label: str) -> str:
    """The figure as a part of a page: one picture per panel, side by side, or below one another on a narrow screen.

    It links nothing, and its ids begin with `name`. The drawing is there once; the pictures are views of it.

    Args:
        figure: what is drawn.
        name: unique within the page.
        label: read out instead of the pictures.
    """
    buffer = io.StringIO()
    with styled():
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'\s(width|height|version|xmlns(:xlink)?|viewBox)="[^"]*"', "", text, count=6)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    for colour in DARK_TWINS:
        text = re.sub(colour, f"var(--{variable(colour)})", text, flags=re.IGNORECASE)
    inner = text[text.index(">") + 1 :].strip().removesuffix("</svg>")
    whole = f'<svg class="whole" aria-hidden="true"><g id="{name}-whole">{inner}</g></svg>'
    height = 72 * figure.get_figheight()
    views = [_view(name, box, "", hover_svg(axes, height)) for axes, box in _boxes(figure, figure.axes)]
    views += [_view(name, box, ' class="legend"') for _, box in _boxes(figure, figure.legends)]
    spoken = escape(label, quote=True)
    return f'{whole}\n<div class="panels" role="img" aria-label="{spoken}">\n{"".join(views)}</div>'


def _boxes(figure: Figure, artists: Iterable[_Drawn]) -> list[tuple[_Drawn, _Box]]:
    """Each with where it lies in the drawing, its labels included."""
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    height, points = 72 * figure.get_figheight(), 72 / figure.dpi
    boxes = []
    for artist in artists:
        box = artist.get_tightbbox(renderer)
        if box is not None:
            left, right, low, high = (points * edge for edge in (box.x0, box.x1, box.y0, box.y1))
            size = (right - left + 2 * _MARGIN, high - low + 2 * _MARGIN)
            boxes.append((artist, (left - _MARGIN, height - high - _MARGIN, *size)))
    return boxes


def _view(name: str, box: _Box, attributes: str, over: str = "") -> str:
    corners = " ".join(f"{edge:.1f}" for edge in box)
    width = round(_SCALE * box[2])
    return f'<svg{attributes} viewBox="{corners}" style="max-width:{width}px"><use href="#{name}-whole"/>{over}</svg>\n'


def variable(colour: str) -> str:
    """Name of the CSS variable of a colour."""
    return f"c{colour.removeprefix('#')}"
