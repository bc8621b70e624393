"""Tables of every run's first and last readings, as rows, in Markdown and in HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from reports.figures.trajectories import BANK, probe_kinds
from reports.groups import Curve, Group
from reports.missing import is_reinforced
from reports.style import SIDES

_PLAIN = {
    "task/accuracy": ("accuracy of the task", 3),
    "objective/scores": ("score of sampled answers", 3),
    "objective/kl": ("KL to the reference, nats per completion", 2),
    "train/loss": ("loss, training (nats)", 3),
    "val/loss": ("loss, validation (nats)", 3),
    "train/rewards/margins": ("reward margin, training", 3),
    "val/rewards/margins": ("reward margin, validation", 3),
    "train/rewards/accuracies": ("reward accuracy, training", 3),
    "val/rewards/accuracies": ("reward accuracy, validation", 3),
    "likelihood/bank/drop_share": ("drop share (above 1: chosen fell too)", 2),
    "degradation/displaced": ("training pairs whose chosen fell", 2),
    "dispersion/bank/probes/index_per_token": ("dispersion index, nats per token", 3),
    "dispersion/bank/off_pair_mass": ("mass off the pair where it parts", 3),
    "dispersion/bank/chosen/entropy": ("entropy along chosen, nats", 3),
    "toy/own_chosen": ("own chosen, probability", 3),
    "toy/own_rejected": ("own rejected, probability", 4),
    "toy/other_chosen": ("other prompts' chosen, mass", 3),
    "toy/unseen": ("unseen, mass", 4),
}


_BETTER = {
    "task/accuracy": 1,
    "objective/scores": 1,
    "val/rewards/accuracies": 1,
    "likelihood/bank/drop_share": -1,
    "degradation/displaced": -1,
    "dispersion/bank/probes/index_per_token": -1,
    "dispersion/bank/off_pair_mass": -1,
}
"""Metric -> 1 where more is better, -1 where less is; of others neither is."""


@dataclass(frozen=True)
class Row:
    """One number of every group."""

    name: str
    cells: tuple[str, ...]
    """A group each; empty where it was not measured."""
    worst: int | None = None
    """The group that ends worst, where several differ and one end is worse than another."""


def start_end_rows(groups: Sequence[Group]) -> list[Row]:
    """First and last reading of what matters, mean over a group's members, with their range at the end where there are several."""
    rows = [_row(name, groups, metric, digits) for metric, (name, digits) in _PLAIN.items()]
    for kind in (*SIDES, *probe_kinds(groups)):
        words = kind.replace("_", " ")
        rows.append(_row(f"log-likelihood, {words} (nats)", groups, f"{BANK}{kind}/logp", 1))
        rows.append(_row(f"log-likelihood per token, {words}", groups, f"{BANK}{kind}/logp_per_token", 3))
    return [row for row in rows if any(row.cells)]


def markdown_table(groups: Sequence[Group]) -> str:
    """The rows as a Markdown table."""
    header = ["first -> last reading", *(group.label for group in groups)]
    lines = [header, ["---"] + ["---:"] * len(groups), *([row.name, *row.cells] for row in start_end_rows(groups))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def html_table(groups: Sequence[Group]) -> str:
    """The rows as an HTML table."""
    rows = start_end_rows(groups)
    worst = {(number, row.worst) for number, row in enumerate(rows) if row.worst is not None}
    return table(["", *(group.label for group in groups)], [[row.name, *row.cells] for row in rows], worst=frozenset(worst))


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    render: Callable[[str], str] = escape,
    worst: frozenset[tuple[int, int]] = frozenset(),
) -> str:
    """An HTML table that scrolls by itself where it is too wide; the first column names the rows.

    Args:
        header: a cell a column.
        rows: as many cells each.
        render: a cell as HTML.
        worst: (row, column after the first) of the cells that are marked.
    """
    mark = ' class="worst"'
    head = "".join(f"<th>{render(cell)}</th>" for cell in header)
    lines = [
        "".join(f"<td{mark if (number, place) in worst else ''}>{render(cell)}</td>" for place, cell in enumerate(row[1:]))
        for number, row in enumerate(rows)
    ]
    body = "".join(f"<tr><th>{render(row[0])}</th>{cells}</tr>" for row, cells in zip(rows, lines, strict=True))
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _row(name: str, groups: Sequence[Group], metric: str, digits: int) -> Row:
    # A loss of rewards is in their unit, and no measure of progress.
    has_none = [metric.endswith("/loss") and is_reinforced(group) for group in groups]
    curves = [None if none else group.curve(metric) for group, none in zip(groups, has_none, strict=True)]
    ends = {number: float(curve.mean[-1]) for number, curve in enumerate(curves) if curve is not None}
    return Row(name, tuple("" if curve is None else _cell(curve, digits) for curve in curves), _worst(ends, _BETTER.get(metric, 0)))


def _worst(ends: dict[int, float], better: int) -> int | None:
    if not better or len(set(ends.values())) < 2:
        return None
    return min(ends, key=lambda number: better * ends[number])


def _cell(curve: Curve, digits: int) -> str:
    ends = f"{curve.mean[-1]:.{digits}f}"
    if curve.has_band:
        ends += f" [{curve.low[-1]:.{digits}f}, {curve.high[-1]:.{digits}f}]"
    return f"{curve.mean[0]:.{digits}f} -> {ends}" if len(curve.steps) > 1 else ends
