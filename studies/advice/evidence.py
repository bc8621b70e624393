"""What advice is worth: each wrong run is advised, and what it was told is carried to the end beside going on and fixed habits."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from advice.command import advise_origin, facts_of
from advice.forks import Fit, Forks, reading_options
from advice.origin import Origin, find_origin
from advice.remedies import all_remedies, applied
from advice.settings import Config, value_at, with_values
from studies import running
from studies.advice.cases import Case, cells_in_order, wrong_case
from studies.study import ROOT

RUNS = Path("runs") / "studies" / "advice"
ROWS = RUNS / "rows.jsonl"
KEPT = Path("docs") / "results" / "advice" / "rows.jsonl"
"""Rows that `studies.advice.page` has kept. Those of the first 21 were lost, and are read back from the table that they had made:
to two decimals, without seconds."""
FORK, STEPS, LAST = 6, 9, 24
"""Optimizer steps: where the runs are forked, how long a trial is, where the runs end."""
TRIED, JUDGED = 100, 200
"""Held-out problems: the first so many choose a remedy, those from there to the second number judge what became of it."""
FRESH_SEED = 1000
REMEDIES = {
    "DPOLoss": "lower_rate,band_centre,likelihood_term,dpop,reward_calibration,length_normalised,stop_here",
    "FlexDPOLoss": "lower_rate,band_centre,likelihood_term,dpop,reward_calibration,length_normalised,stop_here",
    "SFTDPOLoss": "lower_rate,stronger_term,reward_calibration,stop_here",
}
"""The default ones but for fresh on-policy pairs, whose sampling takes most of the time; others have `_OTHERS`."""
_OTHERS = "lower_rate,sft_dpo_instead,reward_calibration,stop_here"
HABITS = {
    "always a likelihood term": ("likelihood_term", "stronger_term", "sft_dpo_instead"),
    "always a lower rate": ("lower_rate",),
}
"""Habit -> the first of these remedies that the loss has."""


def make(fit: Fit, number: int, say: Callable[[str], object] = print) -> None:
    """Make what is missing of the first so many cases; a case that was cut off goes on where it was.

    Cells are walked in their order, and a run that nobody has made is made when it is come to.
    """
    found = 0
    for family, cell in cells_in_order():
        running.make([cell])
        case = wrong_case(family, cell)
        if case is None:
            continue
        make_case(case, fit, say)
        found += 1
        if found == number:
            return


def make_case(case: Case, fit: Fit, say: Callable[[str], object] = print) -> None:
    """Make one case and write its row, unless it is there."""
    if case.name in {row["case"] for row in rows()}:
        return
    with chdir(ROOT):
        row = evidence_of(case, fit)
        ROWS.parent.mkdir(parents=True, exist_ok=True)
        with ROWS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    say(f"{case.name}: {row['sentence']} {row['ends']}")


def rows() -> list[dict[str, Any]]:
    """The cases that were made, here or before."""
    files = [ROOT / path for path in (KEPT, ROWS) if (ROOT / path).is_file()]
    found = [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    return list({row["case"]: row for row in found}.values())


def evidence_of(case: Case, fit: Fit) -> dict[str, Any]:
    """Advise a run, and carry to its end what was said, going on, and the habits."""
    origin = replace(find_origin(case.run, FORK), warning=None)
    loss = str(value_at(origin.config, "model.loss.class_path")).rsplit(".", 1)[-1]
    asked = Namespace(
        steps=STEPS, budget_minutes=600.0, remedies=REMEDIES.get(loss, _OTHERS), neutral_text=None, problems=TRIED, step=FORK
    )
    folder = RUNS / case.name
    answer = advise_origin(origin, asked, fit, Console(file=StringIO()), folder / "trial")
    told = json.loads((folder / "trial" / "advice.json").read_text(encoding="utf-8"))
    wanted = {"going on": None, "advice": answer.recommended} | dict(_habits(asked.remedies))
    carried = _carried(origin, folder, fit, set(wanted.values()))
    tried = [row for row in told["rows"] if row["remedy"] != "stop_here"]
    return {
        "case": case.name,
        "family": case.family,
        "label": [case.start, case.end],
        "recommended": answer.recommended,
        "sentence": answer.sentence,
        "tried": {row["remedy"]: row["differences"][next(iter(told["measures"]))] for row in told["rows"]},
        "ends": {policy: carried[remedy] for policy, remedy in wanted.items()},
        "trial_steps": FORK + STEPS * (1 + len(tried)),
        "trial_seconds": told["seconds"],
        "run_seconds": Forks(origin, folder / "carried", fit).seconds("control") * LAST / (LAST - FORK),
    }


def _habits(remedies: str) -> Iterator[tuple[str, str]]:
    there = remedies.split(",")
    for habit, names in HABITS.items():
        yield habit, next(name for name in names if name in there)


def _carried(origin: Origin, folder: Path, fit: Fit, remedies: set[str | None]) -> dict[str | None, float]:
    """Remedy (None: going on) -> mean result on the problems that chose nothing, at the run's end, on pairs in a fresh order."""
    options = reading_options(origin.config, None) | {"num_problems": JUDGED}
    facts, known = facts_of(origin, options), all_remedies()
    trial, forks = Forks(origin, folder / "trial", fit), Forks(origin, folder / "carried", fit, options)
    ends = {}
    # Going on first: its beginning is what stopping keeps.
    for name in sorted(remedies, key=lambda name: name is not None):
        if name is None or known[name].trains:
            config = origin.config if name is None else applied(known[name], origin.config, facts)
            _take(forks, name or "control", _freshly(config), _in_fresh_order(trial.start(), folder, origin.config))
            ends[name] = _judged(forks, name or "control", LAST)
        else:
            ends[name] = _judged(forks, "control", FORK)
    return ends


def _take(forks: Forks, name: str, config: Config, begin: Path | None) -> None:
    forks.go(name, config, LAST, [FORK, LAST] if name == "control" else [LAST], begin)
    forks.forget(name)


def _freshly(config: Config) -> Config:
    """The rest of the run in another order of the data."""
    seed = value_at(config, "data.seed")
    return with_values(config, {"data.seed": FRESH_SEED + int(seed), "allow_changed_data": True})


def _in_fresh_order(begin: Path | None, folder: Path, config: Config) -> Path:
    """The checkpoint with the fresh seed for the one that its place in the data belongs to: as far into another order."""
    assert begin is not None, "the fork's step is after the first"
    fresh = folder / "fresh_order.ckpt"
    if not fresh.exists():
        state = torch.load(begin, weights_only=True)
        seed = int(value_at(config, "data.seed"))
        for loader in state["loops"]["fit_loop"]["state_dict"]["combined_loader"]:
            loader["plan"]["seed"] = str(FRESH_SEED + seed)
        torch.save(state, fresh)
    return fresh


def _judged(forks: Forks, name: str, step: int) -> float:
    read = forks.reading(name, step)
    assert read is not None, "a fork is read at its end"
    values = read.measures.get("accuracy") or read.measures["judge_score"]
    return float(np.mean(values[TRIED:JUDGED]))


if __name__ == "__main__":
    from advise import quiet_fit

    make(quiet_fit, int(sys.argv[1]) if len(sys.argv) > 1 else 40)
