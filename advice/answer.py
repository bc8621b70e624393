"""The answer: a table, one sentence, and the command that follows from it; the same as a file that the report reads."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from rich.table import Table

from advice.comparison import Difference, Key, recommended
from advice.measures import MEASURES
from advice.origin import Origin
from advice.remedies import NO_SENSE, NOT_ASKED, Remedy, applied
from advice.settings import Config, with_values
from advice.trial import Outcome, names_of

FILE = "advice.json"
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Answer:
    """What is told."""

    sentence: str
    command: str | None
    """To be pasted; None where there is nothing to do."""
    recommended: str | None
    table: Table


def answered(origin: Origin, steps: int, outcome: Outcome, known: Mapping[str, Remedy], facts: Config, folder: Path) -> Answer:
    """Make the answer of a trial, and write it and the recommended config into the advice's folder."""
    best = recommended(outcome.final())
    sentence = _sentence(origin, steps, outcome, known, best)
    command = _command(origin, steps, known[best.remedy] if best else None, facts, folder)
    table = table_of(origin, outcome, known)
    answer = Answer(sentence, command, best.remedy if best else None, table)
    (folder / FILE).write_text(json.dumps(_content(origin, steps, outcome, known, answer), indent=1), encoding="utf-8")
    return answer


def table_of(origin: Origin, outcome: Outcome, known: Mapping[str, Remedy]) -> Table:
    """A row for each remedy, the best first, then those that were not tried."""
    table = Table(title=f"From step {origin.step}, beside going on unchanged", title_justify="left", caption_justify="left")
    table.add_column("remedy")
    table.add_column("steps", justify="right")
    for name in outcome.measures:
        table.add_column(MEASURES[name].words)
    table.add_column("verdict")
    for name in names_of(outcome):
        of = outcome.differences[Key(name, outcome.last[name])]
        cells = [_cell(of.get(measure), measure) for measure in outcome.measures]
        table.add_row(known[name].title, str(outcome.last[name]), *cells, _verdict(of, outcome))
    untried = {name: reason for name, reason in outcome.untried.items() if name not in outcome.last}
    for name, reason in untried.items():
        if not _is_left_out(reason):
            table.add_row(known[name].title, "-", *([""] * len(outcome.measures)), f"not tried: {reason}", style="dim")
    left = [_named(reason, untried) for reason in dict.fromkeys(untried.values()) if _is_left_out(reason)]
    table.caption = (
        "Difference to going on: above 0 is better. 95% intervals over the same prompts, which hold for all rows and columns at "
        f"once: the best of many is not taken for better than it is. {' '.join(left)}"
    ).rstrip()
    return table


def _is_left_out(reason: str) -> bool:
    return reason.startswith((NO_SENSE, NOT_ASKED))


def _named(reason: str, untried: Mapping[str, str]) -> str:
    return f"{reason[:1].upper()}{reason[1:]}: {', '.join(name for name, own in untried.items() if own == reason)}."


def _verdict(of: Mapping[str, Difference], outcome: Outcome) -> str:
    read = [of[name] for name in outcome.measures if name in of]
    if any(one.harms for one in read):
        return "trades one for another" if any(one.helps for one in read) else "worse"
    return "better" if any(one.helps for one in read) else "within noise"


def _cell(difference: Difference | None, measure: str) -> str:
    if difference is None:
        return "not measured"
    return f"{shown(difference.value, measure, is_change=False)}, {interval(difference, measure)}"


def interval(difference: Difference, measure: str) -> str:
    """`+9 [5, 13]` in the unit of the measure."""
    low, high = (shown(end, measure, is_change=False) for end in (difference.low, difference.high))
    return f"{shown(difference.better, measure)} [{low}, {high}]"


def shown(value: float, measure: str, *, is_change: bool = True) -> str:
    """A number as people read it: shares in points."""
    sign = "+" if is_change else ""
    if MEASURES[measure].is_share:
        return f"{100 * value:{sign}.1f}"
    return f"{value:{sign}.3f}"


def _sentence(origin: Origin, steps: int, outcome: Outcome, known: Mapping[str, Remedy], best: Key | None) -> str:
    final = outcome.final()
    helping = sum(_verdict(of, outcome) == "better" for of in final.values())
    counted = f"{_number(helping)} of {_number(len(outcome.last))} remedies helped beyond noise"
    weaker = "" if origin.is_exact else " Forked from weights alone, without optimizer state or the data's order: weaker evidence."
    if best is None:
        near = max(final, key=lambda key: sum(one.better for one in final[key].values()), default=None)
        closest = f"; nearest came {known[near.remedy].title}: {_said(final[near], outcome)}" if near else ""
        taken = f"{steps} step{'s' * (steps != 1)}"
        return f"None helped beyond noise over {taken} from step {origin.step}{closest}.{_own_way(outcome)}{weaker}"
    return f"{known[best.remedy].title}: {_said(final[best], outcome)} over going on; {counted}.{_own_way(outcome)}{weaker}"


def _said(of: Mapping[str, Difference], outcome: Outcome) -> str:
    """The measures that moved beyond noise, or else the first one."""
    read = {name: of[name] for name in outcome.measures if name in of}
    moved = {name: one for name, one in read.items() if one.helps or one.harms} or dict(list(read.items())[:1])
    return ", ".join(f"{interval(one, name)}{_unit(name)}" for name, one in moved.items())


def _unit(measure: str) -> str:
    """What the number is of; of a measure that should fall it is how much better, and said so."""
    how = MEASURES[measure]
    words, points = how.words.split(",")[0], "points " if how.is_share else ""
    if how.is_better_high:
        return f" {points}{'of ' if points else ''}{words}"
    return f" {points}less {words}"


def _own_way(outcome: Outcome) -> str:
    """How going on compares with stopping, where that was tried."""
    stopped = next((of for key, of in outcome.differences.items() if key.remedy == "stop_here"), None)
    if not stopped:
        return ""
    read = {name: stopped[name] for name in outcome.measures if name in stopped}
    lost = [_moved(-one.better, name) for name, one in read.items() if one.helps]
    won = [_moved(-one.better, name) for name, one in read.items() if one.harms]
    if lost:
        return f" Going on unchanged {', '.join(lost)}."
    return f" Going on unchanged {', '.join(won)}." if won else " Going on unchanged changes nothing beyond noise."


def _moved(better: float, measure: str) -> str:
    """`loses 17.5 points of held-out problems solved`, `adds 0.3 points to mass off everything known`."""
    how = MEASURES[measure]
    size, words = shown(abs(better), measure, is_change=False), how.words.split(",")[0]
    if how.is_better_high:
        return f"{'gains' if better > 0 else 'loses'} {size} {'points of ' if how.is_share else ''}{words}"
    return f"{'takes' if better > 0 else 'adds'} {size} {'points ' if how.is_share else ''}{'off' if better > 0 else 'to'} {words}"


def _command(origin: Origin, steps: int, remedy: Remedy | None, facts: Config, folder: Path) -> str | None:
    """The next command; the config that it names is written here."""
    if remedy is None:
        last = origin.run / "checkpoints" / "last.ckpt"
        if origin.has_ended or not last.exists():
            return None
        return shlex.join(["python", "train.py", "fit", "--config", str(origin.run / "config.yaml"), "--ckpt_path", str(last)])
    if not remedy.trains and origin.step == 0:
        return None
    config = applied(remedy, origin.config, facts) if remedy.trains else origin.config
    # Where passes over the data end a run, they end it with the remedy too.
    end = max(origin.planned_steps, origin.step + steps) if origin.planned_steps else -1
    path = folder / f"{remedy.name}.yaml"
    changed = with_values(config, {"trainer.max_steps": end if remedy.trains else origin.step, "ckpt_path": None})
    path.write_text(yaml.safe_dump(changed, sort_keys=False), encoding="utf-8")
    begin = folder / f"from_step_{origin.step}.ckpt"
    start = begin if begin.exists() else origin.checkpoint
    resumed = ["--ckpt_path", str(start)] if start is not None else []
    return shlex.join(["python", "train.py", "fit", "--config", str(path), *resumed])


def _content(origin: Origin, steps: int, outcome: Outcome, known: Mapping[str, Remedy], answer: Answer) -> Config:
    rows = [
        {
            "remedy": name,
            "title": known[name].title,
            "steps": outcome.last[name],
            "cells": {
                measure: interval(one, measure)
                for measure, one in outcome.differences[Key(name, outcome.last[name])].items()
                if measure in outcome.measures
            },
            "verdict": _verdict(outcome.differences[Key(name, outcome.last[name])], outcome),
            "differences": {measure: asdict(one) for measure, one in outcome.differences[Key(name, outcome.last[name])].items()},
        }
        for name in names_of(outcome)
    ]
    reasons = {name: reason for name, reason in outcome.untried.items() if name not in outcome.last and not _is_left_out(reason)}
    return {
        "run": str(origin.run),
        "from_step": origin.step,
        "steps": steps,
        "warning": origin.warning,
        "is_exact": origin.is_exact,
        "sentence": answer.sentence,
        "command": answer.command,
        "recommended": answer.recommended,
        "measures": {name: MEASURES[name].words for name in outcome.measures},
        "rows": rows,
        "untried": [{"title": known[name].title, "reason": reason} for name, reason in reasons.items()],
        "seconds": outcome.seconds,
    }


def _number(count: int) -> str:
    return _WORDS[count] if count < len(_WORDS) else str(count)
