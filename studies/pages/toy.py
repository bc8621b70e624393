"""The page of the toy: its curves beside what was read off the paper's, where the probability goes, gradients, all settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_modules.models.toy.policy import ToyPolicy
from reports.figures import ledger
from reports.groups import Curve, Group
from reports.panels import plot_curve
from reports.style import BLUE, COLOURS, DASHES, FAINT, GREEN, SKY, VERMILION, level_line, new_figure, styled
from studies.pages.table import preface, readings_table
from studies.pages.toy_paper import NEARLY_ZERO, PAPER, PAPER_GRADIENTS, PAPER_MATRIX, PAPER_S1_CHOSEN, UNDERFLOW, PaperCurves
from studies.readings import Floats, Reading, groups_of, markdown_table, spread
from studies.study import Study

Runs = Mapping[str, Group]
"""Cell -> its run, ten seeds side by side."""
LAST = 2000
CLASSES = ("own_chosen", "own_rejected", "other_chosen", "other_rejected", "unseen")
FAMILIES: Mapping[str, Sequence[str]] = {
    "beta": ("dpo", "beta0.1", "beta0.5"),
    "network": ("dpo", "tanh", "width256", "width128", "width64", "width16"),
    "data": ("dpo", "random", "minibatch"),
    "Flex-DPO, beta- / beta+": ("dpo", "flex0.8", "flex0.5", "flex0.1"),
    "likelihood term": ("dpo", "sft0.01", "sft0.1", "dpop"),
    "other losses": ("dpo", "ipo", "slic", "simpo", "rm"),
}
"""Panel of the figure of settings -> what it lays over one another."""


def write(study: Study) -> None:
    """Write tables.md and the figures; scenarios that have not been run are left out."""
    groups = groups_of(study, over=())
    runs = {group.runs[0].folder.parent.name: group for group in groups}
    scenarios = [scenario for scenario in PAPER if f"scenario{scenario}_dpo" in runs]
    sections = {
        "Landmarks of the four scenarios": landmarks(runs, scenarios),
        "Scenario 1 along the run": along(runs["scenario1_dpo"]),
        "Probability mass by class": masses(runs, scenarios),
        "Gradients in three coordinates, chosen / rejected": gradients(runs, scenarios),
        "The matrix of the paper's Figure 1": matrix(runs),
        "All runs": readings_table(study, groups, study.settings["tables"][0], ()),
    }
    text = "\n\n".join(f"## {title}\n\n{table}" for title, table in sections.items() if table)
    head = preface(study).replace("over seed;", "over the ten seeds of a run;")
    (study.out / "tables.md").write_text(f"# The toy in numbers\n\n{head}\n\n{text}\n", encoding="utf-8")
    figures = {
        "scenarios": figure_3(runs, scenarios),
        "ledger": ledger.draw([runs[f"scenario{scenario}_dpo"] for scenario in scenarios]),
        "gradients": figure_gradients(runs, [scenario for scenario in (1, 4) if scenario in scenarios]),
        "variants": figure_settings(runs),
    }
    for name, figure in figures.items():
        if figure is not None:
            figure.savefig(study.out / f"{name}.png", dpi=100, facecolor="white")


def curve_of(group: Group, name: str) -> Curve:
    """A reading of the ledger.

    Raises:
        ValueError: if the run has none.
    """
    curve = group.curve(f"toy/{name}")
    if curve is None:
        raise ValueError(f"expected rows of a toy run with {name} in {group.runs[0].folder}, got none.")
    return curve


def at(group: Group, name: str, step: int) -> Floats:
    """`[seeds]` a reading at a step."""
    curve = curve_of(group, name)
    return np.asarray(curve.values[int(np.flatnonzero(curve.steps == step)[0])])


def landmarks(runs: Runs, scenarios: Sequence[int]) -> str:
    """Landmarks of Fig. 3, ours and the paper's, for each scenario."""
    own, worst, gone, unseen = (f"toy/{name}" for name in ("own_chosen", "own_chosen_min", "own_rejected", "papers_unseen"))
    readings: list[tuple[Reading, Callable[[PaperCurves], str]]] = [
        (Reading("chosen, peak", own, "highest"), lambda p: f"{p.chosen_peak:.3f}"),
        (Reading("... at step", own, "highest_at", digits=0), lambda p: f"{p.chosen_peak_at}"),
        (Reading(f"chosen, step {LAST}", own), lambda p: f"{p.chosen_end:.3f}"),
        (Reading("worst prompt's chosen, peak", worst, "highest"), lambda p: f"{p.min_peak:.3f}"),
        (Reading(f"... step {LAST}", worst), lambda p: f"{p.min_end:.3f}"),
        (
            Reading(f"rejected below {NEARLY_ZERO}", gone, "first_below", level=NEARLY_ZERO, digits=0),
            lambda p: f"~{p.rejected_gone_by}",
        ),
        (Reading("rejected 0 in float32", gone, "first_below", level=UNDERFLOW, digits=0), lambda _: "-"),
        (Reading("paper's unseen, start", unseen, "first", digits=4), lambda p: f"{p.unseen[0]:.4f}"),
        (Reading("... minimum", unseen, "lowest", digits=4), lambda p: f"{p.unseen[1]:.4f}"),
        (Reading(f"... step {LAST}", unseen, digits=4), lambda p: f"{p.unseen[2]:.4f}"),
    ]
    header = ["", *(f"scenario {scenario}: {who}" for scenario in scenarios for who in ("here", "paper"))]
    rows = [
        [
            reading.heading,
            *(cell for s in scenarios for cell in (reading.cell(runs[f"scenario{s}_dpo"]), paper(PAPER[s]))),
        ]
        for reading, paper in readings
    ]
    return markdown_table(header, rows)


def along(group: Group) -> str:
    """The chosen probability of scenario 1 along the run."""
    rows = [[str(step), spread(at(group, "own_chosen", step)), f"{paper:.3f}"] for step, paper in PAPER_S1_CHOSEN.items()]
    return markdown_table(["step", "here", "paper"], rows)


def masses(runs: Runs, scenarios: Sequence[int]) -> str:
    """Probability mass by class at the start, at the chosen peak, and at the end."""
    rows = []
    for scenario in scenarios:
        group = runs[f"scenario{scenario}_dpo"]
        chosen = curve_of(group, "own_chosen")
        for moment in (0, int(chosen.steps[chosen.mean.argmax()]), int(chosen.steps[-1])):
            rows.append([str(scenario), str(moment), *(_small(at(group, name, moment)) for name in CLASSES)])
    return markdown_table(["scenario", "step", *(name.replace("_", " ") for name in CLASSES)], rows)


def _small(values: Floats) -> str:
    return spread(values) if values.mean() >= 5e-4 or not values.any() else f"{values.mean():.0e}"


def gradients(runs: Runs, scenarios: Sequence[int], steps: Sequence[int] = (1, 100, 200, 300, 400, 500, 1000, LAST)) -> str:
    """The gradient of the loss in three coordinates, mean over seeds, chosen / rejected."""
    forms = {"log10_pi": ".1f", "log_pi": ".1e", "logit": ".1e"}
    rows = []
    for scenario in sorted({1, 4} & set(scenarios)):
        group = runs[f"scenario{scenario}_dpo"]
        for step in steps:
            sides = {
                coordinate: [at(group, f"gradient/{coordinate}/{side}", step).mean() for side in ("chosen", "rejected")]
                for coordinate in forms
            }
            rows.append([str(scenario), str(step), *(f"{a:{forms[name]}} / {b:{forms[name]}}" for name, (a, b) in sides.items())])
    return markdown_table(["scenario", "step", "log10 of that in pi", "in log pi", "at the logits (L2)"], rows)


def matrix(runs: Runs) -> str:
    """Probability of every chosen response for every prompt after 500 steps, and of all else."""
    if "scenario1_steps500" not in runs:
        return ""
    probabilities = probabilities_of(runs["scenario1_steps500"].runs[0].folder / "policy")
    rows = [
        [
            f"prompt {prompt}",
            *(f"{spread(probabilities[:, prompt, response], 2)} ({PAPER_MATRIX[prompt][response]:.2f})" for response in range(4)),
            f"{probabilities[:, prompt, 4:].sum(-1).max():.0e}",
        ]
        for prompt in range(4)
    ]
    return "Here (paper):\n\n" + markdown_table(["", *(f"response {n}" for n in range(4)), "all others together, most"], rows)


def probabilities_of(policy: Path) -> Floats:
    """`[seeds, prompts, responses]` of a saved toy policy."""
    return np.asarray(ToyPolicy.load(policy).logits().detach().double().softmax(-1).numpy())


def figure_3(runs: Runs, scenarios: Sequence[int]) -> Figure:
    """The paper's Fig. 3 with what was read off it as points; below it the two sides in logs."""
    lines = {
        "own_chosen": ("chosen", BLUE, DASHES[0]),
        "own_chosen_min": ("chosen, worst prompt", SKY, DASHES[3]),
        "own_rejected": ("rejected", VERMILION, DASHES[0]),
        "papers_unseen": ('the paper\'s "unseen" (a mean)', FAINT, DASHES[2]),
        "unseen": ("mass on truly unseen", GREEN, DASHES[1]),
    }
    figure, axes = new_figure(2 * len(scenarios), columns=len(scenarios), height=3.6)
    with styled():
        for place, scenario in enumerate(scenarios):
            top, bottom = axes[place], axes[len(scenarios) + place]
            group = runs[f"scenario{scenario}_dpo"]
            for name, (label, colour, dashes) in lines.items():
                plot_curve(top, curve_of(group, name), colour=colour, dashes=dashes, label=label)
            _mark_paper(top, scenario)
            top.set(title=f"Scenario {scenario}", xlabel="step (full batch)", ylabel="probability", ylim=(-0.02, 0.9))
            for name in ("own_chosen", "own_rejected"):
                curve = curve_of(group, name)
                plot_curve(bottom, Curve(curve.steps, np.log10(curve.values)), colour=lines[name][1], label=lines[name][0])
            level_line(bottom, float(np.log10(UNDERFLOW)))
            bottom.annotate("0 in float32", (30, np.log10(UNDERFLOW)), va="bottom", fontsize=8, color=FAINT)
            bottom.set(xlabel="step (full batch)", ylabel="log10 of the probability")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def _mark_paper(axes: Axes, scenario: int) -> None:
    paper = PAPER[scenario]
    peaks = {paper.chosen_peak_at: paper.chosen_peak, LAST: paper.chosen_end}
    marks = {
        "paper: chosen": (PAPER_S1_CHOSEN if scenario == 1 else peaks, BLUE, "o"),
        "paper: worst prompt": ({paper.min_peak_at: paper.min_peak, LAST: paper.min_end}, SKY, "^"),
        "paper: rejected gone": ({paper.rejected_gone_by: 0.0}, VERMILION, "D"),
        'paper: "unseen"': ({0: paper.unseen[0], LAST: paper.unseen[2]}, FAINT, "s"),
    }
    for label, (readings, colour, marker) in marks.items():
        _points(axes, readings, colour, marker, label)


def _points(axes: Axes, readings: Mapping[int, float], colour: str, marker: str, label: str) -> None:
    axes.scatter([*readings], [*readings.values()], s=36, marker=marker, fc="white", ec=colour, label=label, zorder=5)


def figure_gradients(runs: Runs, scenarios: Sequence[int]) -> Figure:
    """The same gradients in pi, log pi and logits."""
    titles = {"log10_pi": "|dl/dpi|, log10", "log_pi": "|dl/dlog pi|", "logit": "L2 of dl/dlogits"}
    figure, axes = new_figure(3 * len(scenarios), height=3.2)
    places = [(scenario, coordinate) for scenario in scenarios for coordinate in titles]
    with styled():
        for own, (scenario, coordinate) in zip(axes, places, strict=True):
            for side, colour, dashes, marker in (("chosen", BLUE, "-", "o"), ("rejected", VERMILION, "--", "D")):
                curve = curve_of(runs[f"scenario{scenario}_dpo"], f"gradient/{coordinate}/{side}")
                values = curve.values if coordinate == "log10_pi" else np.abs(curve.values)
                # The first row stands before the first step, which has no gradient.
                plot_curve(own, Curve(curve.steps[1:], values[1:]), colour=colour, dashes=dashes, label=side)
                if coordinate == "log10_pi":
                    _points(own, PAPER_GRADIENTS[side], colour, marker, f"{side}, paper's Fig. 2")
            own.set(title=f"Scenario {scenario}: {titles[coordinate]}", xlabel="step")
            own.legend()
    return figure


def figure_settings(runs: Runs) -> Figure | None:
    """The chosen probability of scenario 1 by passes over the prompts (mini-batches take more steps); None without settings."""
    families = {
        title: [(name, runs[cell]) for name in names if (cell := f"scenario1_{name}") in runs] for title, names in FAMILIES.items()
    }
    shown = {title: members for title, members in families.items() if len(members) > 1}
    if not shown:
        return None
    figure, axes = new_figure(len(shown), height=3.2)
    with styled():
        for own, (title, members) in zip(axes, shown.items(), strict=True):
            for number, (name, group) in enumerate(members):
                curve = curve_of(group, "own_chosen")
                passes = Curve(curve.steps * LAST // curve.steps[-1], curve.values)
                colour = BLUE if name == "dpo" else COLOURS[number - 1]
                plot_curve(own, passes, colour=colour, dashes=DASHES[number % len(DASHES)], label=name)
            own.set(title=title, xlabel="passes over the prompts", ylabel="chosen", ylim=(0, 1.02))
            own.legend()
    return figure
