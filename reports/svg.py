"""Figures as part of a page: inline SVG whose colours follow the page's, light or dark."""

from __future__ import annotations

import io
import re
from html import escape

from matplotlib.figure import Figure

from reports.style import DARK_TWINS, styled

_PIXELS_PER_INCH, _SMALLEST = 108, 0.75


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an `<svg>` element that links nothing and whose ids begin with `name`.

    Args:
        figure: what is drawn.
        name: unique within the page.
        label: read out instead of the picture.
    """
    buffer = io.StringIO()
    with styled():
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'\s(width|height|version|xmlns(:xlink)?)="[^"]*"', "", text, count=5)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    for colour in DARK_TWINS:
        text = re.sub(colour, f"var(--{variable(colour)})", text, flags=re.IGNORECASE)
    width = round(figure.get_figwidth() * _PIXELS_PER_INCH)
    # Narrower than this the type is too small to read: the page scrolls sideways there.
    size = f"max-width:{width}px;min-width:{round(_SMALLEST * width)}px"
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(label, quote=True)}" style="{size}"', 1).strip()


def variable(colour: str) -> str:
    """Name of the CSS variable of a colour."""
    return f"c{colour.removeprefix('#')}"
