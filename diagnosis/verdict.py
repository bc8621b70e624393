"""The verdict of a diagnosis in a few lines, and how sure it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from run_folder.properties import shown_properties
from run_folder.rows import read_rows, tracks_of

_OFF_DATA = "dispersion/bank/off_data_mass"
_MIN_GROWTH = 0.01
"""Nats. Below it a share of the margin's growth is a share of rounding."""


def verdict_lines(folder: Path, reference: str) -> list[str]:
    """What became of the likelihoods, which properties show, and what was not judged.

    Args:
        folder: of the diagnosis.
        reference: what changes count from, as the reader knows it.
    """
    rows = read_rows(folder, "checkpoints")
    if not rows:
        return ["Nothing was read: no checkpoint, or no pairs."]
    last = rows[-1]
    steps = " to ".join(dict.fromkeys((str(rows[0]["step"]), str(last["step"]))))
    lines = [
        f"{len(rows)} checkpoint{'s' * (len(rows) > 1)}, step {steps}, beside {reference}, on {last['pairs/number']} pairs. "
        "Changes are nats per answer, with 95% intervals over pairs."
    ]
    lines += [*_likelihoods(last), *_margin(last)]
    off_data = tracks_of(folder).get(_OFF_DATA)
    if off_data:
        ends = f"{off_data[0][1]:.3f} -> {off_data[-1][1]:.3f}"
        lines.append(f"Probability outside all known answers: {ends} per token (a bank of few prompts, no interval).")
    return [*lines, *_properties(folder), "Whether the answers are better or worse: not judged, because no judge read any."]


def _likelihoods(row: Mapping[str, Any]) -> list[str]:
    if "pairs/chosen/change" not in row:
        return []
    said = [f"{side} {_moved(row, f'pairs/{side}/change')}" for side in ("chosen", "rejected")]
    fell = f"Chosen fell in {_share(row, 'pairs/chosen/fell')} of the pairs."
    return [f"{', '.join(said).capitalize()}. {fell}"]


def _margin(row: Mapping[str, Any]) -> list[str]:
    chosen, rejected = row.get("pairs/chosen/change"), row.get("pairs/rejected/change")
    if chosen is None or rejected is None:
        return []
    growth = chosen - rejected
    accuracy = f"Reward accuracy {_share(row, 'val/rewards/accuracies')}."
    if growth < _MIN_GROWTH:
        return [f"The margin did not grow ({growth:+.2f} nats). {accuracy}"]
    share = -rejected / growth
    meaning = "chosen fell too: it grew by suppression alone" if share > 1 else "1 would be: by pushing rejected down alone"
    sure = "" if row["pairs/chosen/change/low"] * row["pairs/chosen/change/high"] > 0 else ", within chance"
    return [f"The margin grew by {growth:.2f} nats; drop share {share:.2f} ({meaning}{sure if share > 1 else ''}). {accuracy}"]


def _properties(folder: Path) -> list[str]:
    judged = read_rows(folder, "judged")
    verdicts = judged[-1]["verdicts"] if judged else {}
    if not verdicts:
        return ["The three properties: not judged (no PropertyAlarm among the callbacks)."]
    said = read_rows(folder, "alarms")
    warned = [f"Warning at step {row['step']}: {row['message']}" for row in said if row.get("level") == "warning"]
    shown = [f"{_words(name)} {one.said()}" for name, one in shown_properties(said, verdicts).items()]
    silent = [_words(name) for name, verdict in verdicts.items() if verdict == "no sign"]
    no_sign = f" No sign of: {', '.join(silent)}." if silent else ""
    lines = [*warned, f"Properties that show: {', '.join(shown) or 'none'}.{no_sign}"]
    open_ones = [f"{_words(name)} ({_short(verdict)})" for name, verdict in verdicts.items() if "not judged" in verdict]
    return lines + ([f"Not judged to the end: {'; '.join(open_ones)}."] if open_ones else [])


def _short(verdict: str) -> str:
    """Why, in fewer words: of readings that are still to come only how many checkpoints they take."""
    judged, _, why = verdict.rpartition("not judged: ")
    counts = [int(number) for number in re.findall(r"was read \d+ of (\d+) times", why)]
    # The reference is the first reading of the bank.
    reason = f"that takes {max(counts) - 1} checkpoints" if counts else why
    return f"{judged.removesuffix('the rest ')}the rest not: {reason}" if judged else reason


def _words(name: str) -> str:
    return name.replace("_", " ")


def _moved(row: Mapping[str, Any], name: str) -> str:
    low, high = row[f"{name}/low"], row[f"{name}/high"]
    verb = "did not move beyond chance:" if low <= 0 <= high else "fell:" if high < 0 else "rose:"
    return f"{verb} {row[name]:+.2f} [{low:+.2f}, {high:+.2f}]"


def _share(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]:.0%} [{row[f'{name}/low']:.0%}, {row[f'{name}/high']:.0%}]"
