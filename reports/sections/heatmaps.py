"""Shows the token heat-maps of the runs, from the rows of the callback that measured them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import zip_longest
from typing import Any

from reports.runs import Run
from run_folder.heatmap_figure import PairHeat, SideHeat, pairs_html

MEANING = (
    "The gradient of the loss at every token of a few fixed pairs, at the first and at the last reading: blue tokens are pushed "
    "up, orange ones down, as hard as they are dark."
)

CALLBACK = "callbacks.output.token_heatmap.TokenHeatmap"


def pair_of(row: Mapping[str, Any]) -> PairHeat:
    """A row as the pair it was drawn from."""
    sides = {label: side for label, side in row.items() if isinstance(side, Mapping)}
    parting = _first_difference([side["tokens"] for side in sides.values()])
    return PairHeat(
        row["prompt"],
        tuple(
            SideHeat(
                label,
                tuple(side["tokens"]),
                tuple(side["pushes"]),
                tuple(side["probs"]),
                parting if parting is not None and parting < len(side["tokens"]) else None,
            )
            for label, side in sides.items()
        ),
    )


def heatmaps_html(runs: Sequence[Run]) -> str:
    """First and last reading of every run, folded away after the first run; empty where none has any."""
    blocks = [_run_html(run, is_open=number == 0) for number, run in enumerate(run for run in runs if run.heatmaps)]
    return "\n".join(blocks)


def _run_html(run: Run, *, is_open: bool) -> str:
    steps = sorted({row["step"] for row in run.heatmaps})
    parts = "\n".join(
        f"<h3>step {escape(str(step))}</h3>\n{pairs_html([pair_of(row) for row in run.heatmaps if row['step'] == step])}"
        for step in dict.fromkeys((steps[0], steps[-1]))
    )
    return f"<details{' open' if is_open else ''}><summary>{escape(run.name)}</summary>\n{parts}</details>"


def _first_difference(sides: Sequence[Sequence[str]]) -> int | None:
    return next((number for number, tokens in enumerate(zip_longest(*sides)) if len(set(tokens)) > 1), None)
