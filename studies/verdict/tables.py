"""The tables of docs/results/verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from callbacks.alarms.features import FEATURES
from studies.readings import markdown_table
from studies.verdict.evaluation import (
    BASELINES,
    Warned,
    auc_of,
    baseline,
    property_of,
    rates,
    recall_at,
    warned,
    warned_without,
    wilson,
)
from studies.verdict.families import ANSWERED, APART, LabelledRun
from studies.verdict.fit import (
    Model,
    Scored,
    chosen,
    declared,
    held_out,
    later,
    threshold_of,
    trainable,
    with_judged,
    without_own_family,
)
from studies.verdict.old_rules import first_alarm

HEADINGS = ["precision", "recall", "false-alarm rate", "lead (median)"]


def counts(runs: Sequence[LabelledRun]) -> str:
    """Runs by study."""
    studies = {run.cell.study.name: run.cell.study for run in runs}
    rows = []
    for name, study in studies.items():
        members = [run for run in runs if run.cell.study.name == name]
        wrong = sum(run.outcome.is_wrong for run in members)
        rows.append([name, members[0].family, f"{len(members)} of {len(study.cells)}", str(len(members) - wrong), str(wrong)])
    wrong = sum(run.outcome.is_wrong for run in runs)
    rows.append(["all", "", str(len(runs)), str(len(runs) - wrong), str(wrong)])
    return markdown_table(["study", "family", "runs made", "fine", "wrong"], rows)


def by_family(scored: Sequence[Scored], runs: Sequence[Warned]) -> str:
    """Rates of each family, and of all but the one apart."""
    families = dict.fromkeys(one.run.family for one in scored)
    rows = []
    for name in [*families, "all but toy"]:
        chosen = [
            number for number, one in enumerate(scored) if (one.run.family == name if name in families else one.run.family != APART)
        ]
        rows.append([name, auc_of([scored[number] for number in chosen]), *rates([runs[number] for number in chosen])])
    return markdown_table(["family", "area under ROC", *HEADINGS], rows)


def fitted(model: Model, runs: Sequence[LabelledRun], threshold: float) -> str:
    """Rates of the shipped model on its own runs."""
    own = [Scored(run, run.reading_steps, model.scores(chosen(run))) for run in trainable(runs)]
    return markdown_table(["area under ROC", *HEADINGS], [[auc_of(own), *rates(warned(own, threshold))]])


def where_judged(runs: Sequence[LabelledRun]) -> str:
    """Rates of the model that also reads judged answers, by family and with each family at the others' threshold."""
    scored = held_out([run for run in runs if run.family in ANSWERED], with_judged)
    others = warned_without(scored)
    table = by_family(scored, warned(scored, threshold_of(scored)))
    return "\n\n".join([table, "Each family at the threshold that the others chose:", by_family(scored, others)])


def afterwards(runs: Sequence[LabelledRun]) -> str:
    """Later runs at what the earlier ones fixed: the shipped features by family, the declared ones, the baselines."""
    rows = []
    scored, threshold = later(runs, chosen)
    own = [one for one in scored if one.run.family != APART]
    for family in dict.fromkeys(one.run.family for one in own):
        members = [one for one in own if one.run.family == family]
        rows.append([f"warning, {family}", auc_of(members), *rates(warned(members, threshold))])
    rows.append(["warning, all", auc_of(own), *rates(warned(own, threshold))])
    scored, threshold = later(runs, declared)
    own = [one for one in scored if one.run.family != APART]
    rows.append(["the features as first declared, all", auc_of(own), *rates(warned(own, threshold))])
    earlier = [run for run in trainable(runs) if run.is_development]
    for name, track in BASELINES.items():
        others = baseline([one.run for one in own], track)
        rows.append([name, auc_of(others), *rates(warned(others, threshold_of(baseline(earlier, track))))])
    rows.append(["the old rules, as they were", "-", *rates([Warned(one.run, first_alarm(one.run)) for one in own])])
    return markdown_table(["", "area under ROC", *HEADINGS], rows)


def grouped(runs: Sequence[Warned], names: Sequence[str]) -> str:
    """Rates of the runs of each name; the family apart left out."""
    pairs = [(one, name) for one, name in zip(runs, names, strict=True) if one.run.family != APART]
    rows = [[name, *rates([one for one, own in pairs if own == name])] for name in dict.fromkeys(name for _, name in pairs)]
    return markdown_table(["", *HEADINGS], rows)


def by_property(runs: Sequence[LabelledRun], scored: Sequence[Scored], threshold: float) -> str:
    """How often the warnings that name a property are right."""
    models = without_own_family(runs, chosen)
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    leads: dict[str, list[Warned]] = {}
    for one in scored:
        step = one.warned_at(threshold)
        if step is not None and one.run.family != APART:
            sizes = chosen(one.run)[list(one.steps).index(step)]
            name = property_of(models[one.run.family].weights, sizes)
            total[name] += 1
            right[name] += one.run.outcome.is_wrong
            leads.setdefault(name, []).append(Warned(one.run, step))
    wrong = sum(one.run.outcome.is_wrong for one in scored if one.run.family != APART)
    fine = sum(not one.run.outcome.is_wrong for one in scored if one.run.family != APART)
    rows = [
        [
            name,
            wilson(right[name], total[name]),
            wilson(right[name], wrong),
            wilson(total[name] - right[name], fine),
            rates(leads[name])[-1],
        ]
        for name in total
    ]
    return markdown_table(["property", *HEADINGS], rows)


def compared(runs: Sequence[LabelledRun], scored: Sequence[Scored], threshold: float) -> str:
    """The warning, the baselines, and the old rules."""
    own = [one for one in scored if one.run.family != APART]
    kept = [one.run for one in own]
    rows = [["warning", auc_of(own), recall_at(own), *rates(warned(own, threshold))]]
    first = held_out(kept, declared)
    rows.append(["the features as first declared", auc_of(first), recall_at(first), *rates(warned(first, threshold_of(first)))])
    for name, track in BASELINES.items():
        others = baseline(kept, track)
        rows.append([name, auc_of(others), recall_at(others), *rates(warned(others, threshold_of(others)))])
    rows.append(["the old rules, as they were", "-", "-", *rates([Warned(run, first_alarm(run)) for run in kept])])
    return markdown_table(["", "area under ROC", "recall at 5% false alarms", *HEADINGS], rows)


def weights(model: Model, runs: Sequence[LabelledRun]) -> str:
    """Coefficients of the shipped model and of those without a family; a feature that was left out has none."""
    models = {
        "shipped": model,
        **{f"without {name}": one for name, one in without_own_family(runs, chosen).items() if name != APART},
    }
    rows = [
        [feature.name, feature.property, *(f"{one.weights[number]:.2f}" if one.weights[number] else "" for one in models.values())]
        for number, feature in enumerate(FEATURES)
    ]
    return markdown_table(["feature", "property", *models], rows)


def every_run(scored: Sequence[Scored], threshold: float) -> str:
    """Each held-out run: label, score, warning."""
    rows = []
    for one in scored:
        outcome, step = one.run.outcome, one.warned_at(threshold)
        label = f"wrong from {outcome.harm_step}" if outcome.is_wrong else "fine"
        said = "" if step is None else f"step {step}"
        rows.append([one.run.cell.study.name, one.run.cell.name, f"{outcome.change:+.3f}", label, f"{one.highest:.2f}", said])
    return markdown_table(["study", "run", "change of what is judged", "label", "highest held-out score", "warned"], rows)
