"""Draws pairs of completions with every token coloured by its gradient, as a figure and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from numpy.typing import NDArray

UP, DOWN = "#0072B2", "#D55E00"
"""Okabe and Ito's blue and vermilion: told apart with any colour vision, and in grey by their sign on the scale."""

COLORS = LinearSegmentedColormap.from_list("pushed", [DOWN, "#FFFFFF", UP])

UNIT = "L2 norm of dL/dlogits at the token (loss per unit of logit)"

STYLE = f"""
.prompt {{ opacity: .75; white-space: pre-wrap; overflow-wrap: anywhere; margin: 1.5rem 0 .3rem }}
.side {{ display: flex; flex-wrap: wrap; gap: .1rem .6rem; margin: .2rem 0 }}
.side b {{ flex: 0 0 5rem }} .tokens {{ flex: 1 1 16rem }}
.tokens span {{ font-family: monospace; padding: .1rem 0; border-radius: 2px; overflow-wrap: anywhere }}
.tokens .first {{ outline: 2px solid currentColor }} .tokens .worst {{ border-bottom: 4px double currentColor }}
.bar {{ height: .9rem; width: 18rem; max-width: 100%; border: 1px solid #999 }}
.bar {{ background: linear-gradient(90deg, {DOWN}, #fff, {UP}) }}
""".strip()
"""What `pairs_html` needs of its page."""

_COLUMNS, _LABEL_COLUMNS = 96, 10
_LINE, _GAP = 1.45, 0.8
_DPI, _COLUMN_PIXELS = 110, 10
# Whole pixels, because the advance of a character is rounded to them; it is 0.602 em in this font.
_WIDTH = _COLUMN_PIXELS * (_COLUMNS + _LABEL_COLUMNS) / _DPI / 0.98
_FONT = FontProperties(family="DejaVu Sans Mono", size=72 * _COLUMN_PIXELS / _DPI / 0.60205)


@dataclass(frozen=True)
class SideHeat:
    """One completion of a pair."""

    label: str
    """"chosen" or "rejected"."""
    tokens: tuple[str, ...]
    pushes: tuple[float, ...]
    """Per token, `UNIT`; > 0 where a step against the gradient makes the token likelier, < 0 where less likely."""
    probs: tuple[float, ...]
    """Per token, p_t in [0, 1]."""
    divergent: int | None
    """Number of the first token that differs from the other side; None where none does."""


@dataclass(frozen=True)
class PairHeat:
    """A prompt with the completions that are drawn below it."""

    prompt: str
    sides: tuple[SideHeat, ...]


def scale_of(pairs: Sequence[PairHeat]) -> float:
    """The largest push of any token: the end of the colour scale."""
    return max((abs(push) for pair in pairs for side in pair.sides for push in side.pushes), default=0.0) or 1.0


def draw_pairs(pairs: Sequence[PairHeat], title: str) -> Figure:
    """A figure of all pairs, one below the other, with a legend that has the unit.

    Args:
        pairs: at least one; a long completion takes as many lines as it needs.
        title: says what is shown, and at which step.
    """
    scale = scale_of(pairs)
    normalize = Normalize(-scale, scale)
    height = sum(_pair_lines(pair) for pair in pairs) * _LINE + _GAP
    inches = 0.155 * height + 1.15
    figure = Figure(figsize=(_WIDTH, inches), dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.01, 0.72 / inches, 0.98, 0.155 * height / inches))
    axes.set(xlim=(0, _COLUMNS + _LABEL_COLUMNS), ylim=(height, 0))
    axes.axis("off")
    line = 0.0
    for pair in pairs:
        line = _draw_pair(axes, pair, line + _GAP, normalize)
    figure.text(0.015, 1 - 0.22 / inches, title, fontsize=11, weight="bold", va="center")
    _draw_legend(figure, scale, inches)
    return figure


def page_of(pairs: Sequence[PairHeat], title: str) -> str:
    """The same as a self-contained HTML page; every token tells its numbers when pointed at."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 60rem; padding: 0 1rem }}
body {{ color: #222; background: #fff }}
{STYLE}
</style></head><body>
<h1 style="font-size:1.2rem">{escape(title)}</h1>
{pairs_html(pairs)}
</body></html>
"""


def pairs_html(pairs: Sequence[PairHeat]) -> str:
    """The pairs and the legend as a part of a page that has `STYLE`."""
    scale = scale_of(pairs)
    normalize = Normalize(-scale, scale)
    body = "\n".join(_pair_html(pair, normalize) for pair in pairs)
    return f"""<div class="bar"></div>
<p>-{scale:.3g} (orange: pushed down) to +{scale:.3g} (blue: pushed up). {escape(UNIT)}.
Outlined: the first token at which the two completions differ. Underlined twice: the one that is pushed down hardest.</p>
{body}"""


def _draw_pair(axes: Axes, pair: PairHeat, line: float, normalize: Normalize) -> float:
    _draw_text(axes, _drawable(_shortened(" ".join(pair.prompt.split()), _COLUMNS + _LABEL_COLUMNS)), (0, line), color="#555555")
    line += _LINE
    for side in pair.sides:
        _draw_text(axes, side.label, (0, line), weight="bold")
        _draw_side(axes, side, line, np.asarray(COLORS(normalize(side.pushes))))
        line += _LINE * _lines(side)
    return line


def _draw_side(axes: Axes, side: SideHeat, line: float, colors: NDArray[np.float64]) -> None:
    places, inks = _placed(side.tokens), [_ink(color) for color in colors]
    boxes = [_box(column + _LABEL_COLUMNS, line + row * _LINE, len(text)) for row, column, text in places]
    axes.add_collection(PolyCollection(boxes, facecolors=colors, edgecolors="#DDDDDD", linewidths=0.4), autolim=False)
    if side.divergent is not None:
        axes.add_collection(PolyCollection([boxes[side.divergent]], facecolors="none", edgecolors="black", linewidths=1.4))
    # An artist for each token would take most of the time: draw a line at once, in the monospaced font's own grid.
    for row in range(_lines(side)):
        for ink in ("black", "white"):
            characters = [" "] * (2 * _COLUMNS)
            for (own_row, column, text), own_ink in zip(places, inks, strict=True):
                if own_row == row and own_ink == ink:
                    characters[column : column + len(text)] = text
            _draw_text(axes, "".join(characters).rstrip(), (_LABEL_COLUMNS, line + row * _LINE), color=ink)


def _box(column: float, line: float, columns: int) -> list[tuple[float, float]]:
    right, below = column + columns, line + _LINE - 0.15
    return [(column, line), (right, line), (right, below), (column, below)]


def _draw_text(axes: Axes, text: str, corner: tuple[float, float], color: str = "black", weight: str = "normal") -> None:
    font = _FONT.copy()
    font.set_weight(weight)
    axes.text(corner[0], corner[1] + 0.95, text, fontproperties=font, color=color, va="baseline", zorder=4, parse_math=False)


def _draw_legend(figure: Figure, scale: float, inches: float) -> None:
    axes = figure.add_axes((0.045, 0.42 / inches, 0.32, 0.13 / inches))
    bar = figure.colorbar(ScalarMappable(Normalize(-scale, scale), COLORS), cax=axes, orientation="horizontal")
    ticks = [-scale, -scale / 2, 0.0, scale / 2, scale]
    bar.set_ticks(ticks, labels=[f"{tick:+.2g}" if tick else "0" for tick in ticks], fontsize=7)
    bar.ax.tick_params(length=2, pad=1)
    explanation = "blue: pushed up   orange: pushed down   outlined: first token at which the two differ"
    figure.text(0.40, 0.50 / inches, UNIT, fontsize=8, va="center")
    figure.text(0.40, 0.28 / inches, explanation, fontsize=8, va="center")


def _placed(tokens: Sequence[str]) -> list[tuple[int, int, str]]:
    """(line, column, text) of every token, wrapped."""
    places, row, column = [], 0, 0
    for token in tokens:
        text = _shortened(_drawable(token), _COLUMNS)
        if column + len(text) > _COLUMNS:
            row, column = row + 1, 0
        places.append((row, column, text))
        column += len(text)
    return places


def _lines(side: SideHeat) -> int:
    places = _placed(side.tokens)
    return places[-1][0] + 1 if places else 1


def _pair_lines(pair: PairHeat) -> float:
    return 1 + sum(_lines(side) for side in pair.sides) + _GAP / _LINE


def _ink(color: Sequence[float] | NDArray[np.float64]) -> str:
    """Black or white, whichever has the higher contrast (WCAG's relative luminance, whose break-even is 0.179)."""
    red, green, blue = ((part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4) for part in color[:3])
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "white"


def _shortened(text: str, columns: int) -> str:
    return text if len(text) <= columns else "…" + text[1 - columns :]


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(_FONT)).get_charmap())


def _drawable(text: str) -> str:
    """Characters the figure's font lacks as boxes: the page shows them as they are."""
    return "".join(character if ord(character) in _glyphs() else "□" for character in text)


def _pair_html(pair: PairHeat, normalize: Normalize) -> str:
    rows = "\n".join(
        f'<div class="side"><b>{escape(side.label)}</b><div class="tokens">{_side_html(side, normalize)}</div></div>'
        for side in pair.sides
    )
    return f'<p class="prompt">{escape(pair.prompt)}</p>\n{rows}'


def _side_html(side: SideHeat, normalize: Normalize) -> str:
    columns = zip(side.tokens, side.pushes, side.probs, strict=True)
    lowest = min(side.pushes, default=0.0)
    worst = side.pushes.index(lowest) if lowest < 0 else None
    marks = {worst: "worst", side.divergent: "first"} if worst != side.divergent else {worst: "first worst"}
    return "".join(_token_html(*token, normalize, marks.get(number, "")) for number, token in enumerate(columns))


def _token_html(text: str, push: float, prob: float, normalize: Normalize, classes: str) -> str:
    color, mark = COLORS(normalize(push)), f' class="{classes}"' if classes else ""
    ink = ";color:white" if _ink(color) == "white" else ""
    style = f"background:{to_hex(color)}{ink}"
    return f'<span{mark} style="{style}" title="p = {prob:.3g}, push = {push:+.3g}">{escape(text)}</span>'
