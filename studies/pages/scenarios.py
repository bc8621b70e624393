"""The page of the four scenarios: each loss at the rate that half of the held-out problems chose, read on the other half."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from reports.groups import Group
from reports.runs import load_run
from studies.files import load_study
from studies.readings import Reading, markdown_table, spread
from studies.study import ROOT, Cell, Study
from studies.verdict.outcome import accuracies

SCENARIOS = ("1", "2", "3", "4")
RATE = "rate"
CLASSES = {"shared": "shared prefix", "divergent": "first that differs", "overlap": "overlap", "novel": "novel"}
"""Of chosen's tokens, by where they stand and whether rejected holds them too (docs/derivations.md 5.7)."""
ON_POLICY = ("1", "3")
"""Scenarios whose chosen responses are the policy's own, and so can be pulled down."""


@dataclass(frozen=True)
class Tuned:
    """The run of a loss in a scenario whose rate was chosen."""

    cell: Cell
    before: float
    """Accuracy on the problems that chose nothing, before training, in [0, 1]."""
    after: float
    """And after the last step."""

    @property
    def gain(self) -> float:
        """Points of accuracy."""
        return 100 * (self.after - self.before)


def write(study: Study) -> None:
    """Write table.md: DPO at every rate, the losses at their chosen rates, and what each did to the likelihoods.

    Raises:
        ValueError: if no loss has all its rates in any scenario.
    """
    readings = [Reading.of(given) for given in study.settings["readings"]]
    split = int(study.settings["tuning_problems"])
    sections = [f"# {study.title}", _preface(study, split)]
    found = {model: tuned_runs(load_study(name), split) for model, name in study.settings["models"].items()}
    if not any(found.values()):
        raise ValueError(
            f"expected runs of {', '.join(study.settings['models'].values())} at every rate, got none. Make them first."
        )
    for model, runs in found.items():
        if runs:
            sections += [f"## {model.capitalize()}", *_of_model(load_study(study.settings["models"][model]), runs)]
            sections += ["DPO, change of the log-probability of frozen chosen tokens at the last step, nats a token:"]
            sections += [_by_class(load_study(study.settings["models"][model]))]
            sections += ["What the chosen setting does, mean ± standard deviation over the scenarios:", _ledger(runs, readings)]
    (study.out / "table.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def tuned_runs(study: Study, split: int) -> dict[tuple[str, str], Tuned]:
    """(method, scenario) -> the run at the best rate, the lowest of those that tie; without what was not tried at every rate.

    Args:
        study: its factors are method, scenario and rate; its runs keep every problem's outcome.
        split: problems that choose; the others are read.
    """
    found = {}
    for method in study.grid["method"]:
        for scenario in SCENARIOS:
            tried = study.select({"method": [method], "scenario": [scenario]})
            if all(cell.is_complete for cell in tried):
                best = max(tried, key=lambda cell: accuracies(cell, slice(split))[-1])
                rest = accuracies(best, slice(split, None))
                found[method, scenario] = Tuned(best, rest[0], rest[-1])
    return found


def _preface(study: Study, split: int) -> str:
    runs = " and ".join(f"`{name}`" for name in study.settings["models"].values())
    return (
        f"From the runs of {runs}: 24 steps of 16 pairs, AdamW, one order of the data for each loss. A cell is the accuracy on the "
        f"held-out problems from {split + 1} on, at the rate that did best on the first {split}; in brackets the change in points "
        "and the rate in 1e-5. One reading has a standard error of about 4.5 points. "
        f"Written by `python -m studies page {study.name}`."
    )


def _of_model(study: Study, found: Mapping[tuple[str, str], Tuned]) -> list[str]:
    header = [*(f"scenario {scenario}" for scenario in SCENARIOS), "mean change, points"]
    return [
        f"DPO, accuracy on all problems after the last step (before it {_start(study):.3f}):",
        markdown_table(["learning rate", *header[:-1]], _dpo_rows(study)),
        "Every loss at its chosen rate:",
        markdown_table(["", *header], [*_loss_rows(study, found), _mean_row(found)]),
    ]


def _start(study: Study) -> float:
    return next(accuracies(cell, slice(None))[0] for cell in study.cells if cell.is_complete)


def _dpo_rows(study: Study) -> Iterable[list[str]]:
    for rate in study.grid[RATE]:
        cells = [study.select({"method": ["dpo"], "scenario": [scenario], RATE: [rate]})[0] for scenario in SCENARIOS]
        yield [f"{float(rate):g}", *(f"{accuracies(cell, slice(None))[-1]:.3f}" if cell.is_complete else "" for cell in cells)]


def _loss_rows(study: Study, found: Mapping[tuple[str, str], Tuned]) -> Iterable[list[str]]:
    for method in study.grid["method"]:
        own = [found.get((method, scenario)) for scenario in SCENARIOS]
        made = [run for run in own if run is not None]
        if made:
            cells = [f"{run.after:.2f} ({run.gain:+.0f}; {float(run.cell.levels[RATE]) * 1e5:g})" if run else "" for run in own]
            yield [method, *cells, f"{mean(run.gain for run in made):+.1f}" if len(made) == len(own) else ""]


def _mean_row(found: Mapping[tuple[str, str], Tuned]) -> list[str]:
    """Over the losses, whose spread says how much a scenario's place depends on the loss."""
    gains = [[run.gain for (_, own), run in found.items() if own == scenario] for scenario in SCENARIOS]
    return ["mean change, points", *(spread(own, 1, is_signed=True) for own in gains), ""]


def _by_class(study: Study) -> str:
    """Whether what falls is what both sides of a pair hold (Corollary 3), at every rate."""
    readings = [
        Reading(title, f"degradation/bank/chosen/{name}/change_per_token", is_signed=True) for name, title in CLASSES.items()
    ]
    rows = []
    for cell in study.select({"method": ["dpo"], "scenario": ON_POLICY}):
        if cell.is_complete:
            group = Group("", (load_run(ROOT / cell.folder),))
            rows.append([cell.levels["scenario"], f"{float(cell.levels[RATE]):g}", *(reading.cell(group) for reading in readings)])
    return markdown_table(["scenario", "learning rate", *CLASSES.values()], rows)


def _ledger(found: Mapping[tuple[str, str], Tuned], readings: Sequence[Reading]) -> str:
    rows = []
    for method in dict.fromkeys(method for method, _ in found):
        own = [run for (name, _), run in found.items() if name == method]
        group = Group(method, tuple(load_run(ROOT / run.cell.folder) for run in own))
        gains = spread([run.gain for run in own], 1, is_signed=True)
        rows.append([method, str(len(own)), gains, *(reading.cell(group) for reading in readings)])
    return markdown_table(["", "scenarios", "change of accuracy, points", *(reading.heading for reading in readings)], rows)
