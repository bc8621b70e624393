"""The page of the warnings: held-out families, baselines, old rules, and the calibration that is shipped."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np

from callbacks.alarms.calibration import FILE
from studies.study import ROOT, Study
from studies.verdict import figures, further, noticed
from studies.verdict.evaluation import (
    BASELINES,
    baseline,
    warned,
    warned_without,
)
from studies.verdict.families import APART, LabelledRun, load_runs
from studies.verdict.fit import (
    Scored,
    chosen,
    held_out,
    probability_of,
    threshold_of,
)
from studies.verdict.shipping import write_calibration
from studies.verdict.tables import (
    afterwards,
    by_family,
    by_property,
    compared,
    counts,
    every_run,
    fitted,
    grouped,
    weights,
    where_judged,
)


def write(study: Study) -> None:
    """Write tables.md, the figures, and the shipped calibration (a quick page: into its own folder)."""
    runs = load_runs()
    scored = held_out(runs, chosen)
    threshold = threshold_of(scored)
    model = write_calibration(study.out / "calibration.json" if study.is_quick else FILE, runs)
    sections = [
        "# Warnings in numbers",
        f"Made by `python -m studies page verdict` from {len(runs)} runs. Shares have 95% Wilson intervals, areas 95% bootstrap "
        "intervals over cells. Definitions: [README.md](README.md).",
        "## The runs",
        counts(runs),
        "## Held-out families, at the shipped threshold",
        f"Score {threshold:.2f}, probability {probability(scored, threshold):.2f}. Every run is scored by a model that has not "
        "seen its family.",
        by_family(scored, warned(scored, threshold)),
        "The same, each family at the threshold that the *other* families' held-out runs chose: what to expect on a new model.",
        by_family(scored, warned_without(scored)),
        "The shipped model on its own runs, which is no test: whether its scores lie where the held-out ones do.",
        fitted(model, runs, threshold),
        "## Where answers are judged",
        "The model for runs with judged answers (50 that are in no label), at its own threshold; families with a judge alone.",
        where_judged(runs),
        "## Runs made after the features were chosen",
        "Models and thresholds from the runs that were there before (`studies/verdict/development.txt`), each family held out.",
        afterwards(runs),
        "## By method, at the shipped threshold",
        grouped(warned(scored, threshold), [one.run.method for one in scored]),
        "## By the property that the warning names",
        by_property(runs, scored, threshold),
        "## Beside baselines and the old rules",
        "Each at a threshold chosen as the warning's, on the same runs (toy left out).",
        compared(runs, scored, threshold),
        "## Notices",
        "How often each shows, the toy left out. They claim no harm, and are calibrated on nothing. The last two: runs with "
        "rewards from outside (PPO, RLOO, and RLOO on a reward that can be hacked).",
        noticed.table(runs),
        "## What further information would give",
        further.table(runs),
        "## The model that is shipped",
        weights(model, runs),
        "## Every run",
        every_run(scored, threshold),
    ]
    (study.out / "tables.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    draw(study, runs, scored, threshold)


def probability(scored: Sequence[Scored], score: float) -> float:
    """Of a score, as held-out runs have it."""
    slope, intercept = probability_of(scored)
    return float(1 / (1 + np.exp(-(slope * score + intercept))))


def draw(study: Study, runs: Sequence[LabelledRun], scored: Sequence[Scored], threshold: float) -> None:
    """Reliability, ROC, and the runs' ends."""
    slope, intercept = probability_of(scored)
    own = [one for one in scored if one.run.family != APART]
    groups = {"all": own} | {
        name: [one for one in own if one.run.family == name] for name in dict.fromkeys(one.run.family for one in own)
    }
    said = {
        name: 1 / (1 + np.exp(-(slope * np.array([one.highest for one in members]) + intercept)))
        for name, members in groups.items()
    }
    labels = {name: np.array([one.run.outcome.is_wrong for one in members]) for name, members in groups.items()}
    curves = {"warning": own} | {name: baseline([one.run for one in own], track) for name, track in BASELINES.items()}
    drawn = {
        "reliability": figures.reliability(said, labels),
        "roc": figures.roc(curves, "warning"),
        "ends": figures.ends(scored, threshold),
    }
    for name, figure in drawn.items():
        figure.savefig(study.out / f"{name}.png", dpi=80)
        plt.close(figure)
    print(f"{study.out.relative_to(ROOT)}: {len(runs)} runs")
