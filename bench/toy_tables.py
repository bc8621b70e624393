"""The numbers of docs/results/toy as Markdown tables: mean +- standard deviation over seeds, beside the paper's readings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from bench.toy_curves import NEARLY_ZERO, PAPER, PAPER_S1_CHOSEN, UNDERFLOW, Curves, Floats
from callbacks.diagnostics.toy_ledger import CLASS_OF_KIND

Runs = Mapping[str, Curves]


def spread(values: Floats, digits: int = 3) -> str:
    """Mean and standard deviation over the seeds that have a value; says so where some have none."""
    known = values[~np.isnan(values)]
    if not len(known):
        return "never"
    text = f"{known.mean():.{digits}f} ± {known.std(ddof=1):.{digits}f}" if len(known) > 1 else f"{known[0]:.{digits}f}"
    return text if len(known) == len(values) else f"{text} ({len(known)} of {len(values)} seeds)"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(header), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def milestones(runs: Runs) -> str:
    """Landmarks of Fig. 3, ours and the paper's, for each scenario."""
    last = int(runs["s1"].steps[-1])
    rows: list[tuple[str, Callable[[Curves], str], Callable[[int], str]]] = [
        ("chosen, peak", lambda c: spread(c.peak("own_chosen")[0]), lambda s: f"{PAPER[s].chosen_peak:.3f}"),
        ("... at step", lambda c: spread(c.peak("own_chosen")[1], 0), lambda s: f"{PAPER[s].chosen_peak_at}"),
        (f"chosen, step {last}", lambda c: spread(c.at("own_chosen", last)), lambda s: f"{PAPER[s].chosen_end:.3f}"),
        ("worst prompt's chosen, peak", lambda c: spread(c.peak("own_chosen_min")[0]), lambda s: f"{PAPER[s].min_peak:.3f}"),
        (f"... step {last}", lambda c: spread(c.at("own_chosen_min", last)), lambda s: f"{PAPER[s].min_end:.3f}"),
        (f"rejected below {NEARLY_ZERO}", lambda c: spread(c.first_below("own_rejected", NEARLY_ZERO), 0), _gone),
        ("rejected 0 in float32", lambda c: spread(c.first_below("own_rejected", UNDERFLOW), 0), lambda _: "-"),
        ("paper's unseen, start", lambda c: spread(c.at("papers_unseen", 0), 4), lambda s: f"{PAPER[s].unseen[0]:.4f}"),
        ("... minimum", lambda c: spread(c.values["papers_unseen"].min(0), 4), lambda s: f"{PAPER[s].unseen[1]:.4f}"),
        (f"... step {last}", lambda c: spread(c.at("papers_unseen", last), 4), lambda s: f"{PAPER[s].unseen[2]:.4f}"),
    ]
    header = ["", *(f"scenario {s}: {who}" for s in PAPER for who in ("here", "paper"))]
    return table(header, [[name, *(cell for s in PAPER for cell in (ours(runs[f"s{s}"]), paper(s)))] for name, ours, paper in rows])


def _gone(scenario: int) -> str:
    return f"~{PAPER[scenario].rejected_gone_by}"


def scenario_one_by_epoch(runs: Runs) -> str:
    """The chosen probability of scenario 1 along the run."""
    rows = [[str(step), spread(runs["s1"].at("own_chosen", step)), f"{paper:.3f}"] for step, paper in PAPER_S1_CHOSEN.items()]
    return table(["step", "here", "paper"], rows)


def ledgers(runs: Runs) -> str:
    """Probability mass by class at the start, at the chosen peak, and at the end."""
    rows = []
    for scenario in PAPER:
        curves = runs[f"s{scenario}"]
        for moment in (0, int(curves.steps[curves.values["own_chosen"].mean(1).argmax()]), int(curves.steps[-1])):
            cells = [_small(curves.at(name, moment)) for name in CLASS_OF_KIND.values()]
            rows.append([str(scenario), str(moment), *cells])
    return table(["scenario", "step", *(name.replace("_", " ") for name in CLASS_OF_KIND.values())], rows)


def _small(values: Floats) -> str:
    return spread(values) if values.mean() >= 5e-4 or not values.any() else f"{values.mean():.0e}"


def gradients(runs: Runs, steps: Iterable[int] = (1, 100, 200, 300, 400, 500, 1000, 2000)) -> str:
    """The gradient of the loss in three coordinates, chosen | rejected."""
    rows = []
    for scenario in (1, 4):
        curves = runs[f"s{scenario}"]
        for step in steps:
            cells = [_sides(curves, coordinate, step) for coordinate in ("log10_pi", "log_pi", "logit")]
            rows.append([str(scenario), str(step), *cells])
    return table(["scenario", "step", "log10 of that in pi", "in log pi", "at the logits (L2)"], rows)


def _sides(curves: Curves, coordinate: str, step: int) -> str:
    form = ".1f" if coordinate == "log10_pi" else ".1e"
    return " / ".join(f"{curves.at(f'gradient/{coordinate}/{side}', step).mean():{form}}" for side in ("chosen", "rejected"))


def variants(runs: Runs) -> str:
    """Rise and fall of the chosen probability in every run, and where the mass is at the end."""
    rows = []
    for name, curves in runs.items():
        peak, at = curves.peak("own_chosen")
        last = int(curves.steps[-1])
        end = curves.at("own_chosen", last)
        falls = f"{int((peak - end > 0.02).sum())} of {len(end)}"
        others = [spread(curves.at(kind, last), 2) for kind in ("other_chosen", "unseen")]
        gone = spread(curves.first_below("own_rejected", NEARLY_ZERO), 0)
        rows.append([name, str(len(end)), spread(peak), spread(at, 0), spread(end), falls, spread(peak - end), gone, *others])
    header = ["run", "seeds", "chosen peak", "at step", "chosen end", "seeds that fall > 0.02", "fall", "rejected < 0.005 at step"]
    return table([*header, "other prompts' chosen, end", "unseen, end"], rows)
