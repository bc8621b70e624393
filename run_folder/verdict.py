"""Sums up a run in a few sentences: what was judged, how the margin grew, and how certain that is."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from run_folder.properties import shown_properties
from run_folder.rows import Track

_BANK = "likelihood/bank"
_FELL = 0.01
"""Nats per completion: less than this is no change, as for `degradation/displaced`."""
_TWO_SIDED = 1.96
"""Standard errors of a 95% interval."""

Outcome = Literal["better", "worse", "same", "not judged"]

_JUDGED = (
    ("task/accuracy", "accuracy"),
    ("val/accuracy", "accuracy on held-out pairs"),
    ("val/rewards/accuracies", "reward accuracy on held-out pairs"),
)
"""Metric -> its name in a sentence, the best judge first. The last one is of the loss's own rewards: it says nothing of answers."""

_PAIRS = "pairs/number"
"""What a diagnosis alone writes."""

_NOT_JUDGED = "not judged, so whether answers got better is not known."

HARM = "harm"
"""Key of the warning's verdict in `judged.jsonl`, beside those of the properties."""

VALIDATION = frozenset(metric for metric, _ in _JUDGED if metric.startswith("val/"))
"""Metrics of the verdict that validation logs and no rows hold."""


@dataclass(frozen=True)
class Verdict:
    """The sentences, and which way it went."""

    outcome: Outcome
    """Outcome by the best available judge. `same`: the change is within chance."""
    headline: str
    """What became of it, with numbers."""
    cause: str
    """How the margin grew; empty where it was not measured."""
    certainty: str
    """How sure the headline is, or what was not judged."""
    is_of_answers: bool = False
    """Whether what the policy writes was judged, and not only its ranking of pairs."""

    def sentences(self) -> str:
        """One line."""
        return " ".join(filter(None, (self.headline, self.cause, self.certainty)))


def method_of(config: Mapping[str, Any]) -> str:
    """How a run was trained, as sentences name it: DPO, On-policy DPO, RLOO, SFT, The reward model.

    Args:
        config: what the run's `config.yaml` holds.
    """
    model = config.get("model") or {}
    arguments = model.get("init_args") or {}
    module = _class_name(model)
    if module.startswith("Diagnosis"):
        # Its loss is what the diagnosis reads gradients of: nobody knows how the checkpoints were trained.
        return "The policy"
    if module.startswith("Reward"):
        return "The reward model"
    # A preference run is named for its loss, a reinforcement run for how it gets advantages where that is not PPO's way.
    own = arguments.get("loss") or arguments.get("advantages") or {}
    name = _class_name(own) if isinstance(own, Mapping) else ""
    name = (module if name in ("", "GAE") else name).removesuffix("Loss").removesuffix("Module") or "The run"
    name = re.sub(r"(?<=\w)DPO$", "-DPO", name)
    return f"On-policy {name}" if module.startswith("OnPolicy") else name


def verdict_of(tracks: Mapping[str, Track], method: str) -> Verdict:
    """What the readings of a run say, from the first to the last.

    Args:
        tracks: its metrics.
        method: how it was trained, as sentences name it.
    """
    found = next(((tracks[metric], metric, words) for metric, words in _JUDGED if tracks.get(metric)), None)
    cause = _cause(tracks)
    if _PAIRS in tracks and (found is None or found[1] in VALIDATION):
        # A diagnosis: its pairs may be those that were trained on, and its first reading is no start.
        return Verdict("not judged", f"{method}: {_NOT_JUDGED}", cause, _movement(tracks))
    if found is None:
        return Verdict("not judged", f"{method}: {_NOT_JUDGED}", cause, "")
    track, metric, words = found
    (first, start), (last, end) = track[0], track[-1]
    if first == last:
        return Verdict("not judged", f"{method} ends with {words} {end:.3f}, read once: the change was not judged.", cause, "")
    problems = tracks["task/problems"][-1][1] if metric == "task/accuracy" and "task/problems" in tracks else None
    margin = None if problems is None else 100 * _TWO_SIDED * math.sqrt((start * (1 - start) + end * (1 - end)) / problems)
    points = 100 * (end - start)
    is_noise = abs(points) <= margin if margin is not None else round(points, 1) == 0
    outcome: Outcome = "same" if is_noise else "better" if points > 0 else "worse"
    since = f" since step {first}" if first else ""
    headline = f"{method} {_change(points, words)}: {start:.3f} -> {end:.3f}{since}."
    return Verdict(outcome, headline, cause, _certainty(points, margin, problems, metric), metric == "task/accuracy")


def alarm_sentence(alarms: Sequence[Mapping[str, Any]], judged: Mapping[str, str], verdict: Verdict) -> str:
    """Whether the run was warned of, which properties show and since when, and what was not judged.

    Args:
        alarms: rows of `alarms.jsonl`; one without a level is a notice.
        judged: what became of each property and of `harm`, by the last row of `judged.jsonl`; empty where nobody listened to the
            end.
        verdict: of the run. Only answers that were judged can say that a warning was wrong.
    """
    if not alarms and all(found.startswith("not judged") for found in judged.values()):
        return "Warnings and notices: not judged."
    warnings = [row for row in alarms if row.get("level") == "warning"]
    shown = shown_properties(alarms, judged)
    said = [_warning(row) for row in warnings] or [_no_warning(judged.get(HARM, ""))]
    named = ", ".join(f"{name.replace('_', ' ')} ({one.said()})" for name, one in shown.items())
    properties = {name.replace("_", " "): found for name, found in judged.items() if name != HARM}
    # Of a run none of whose properties was judged nobody knows whether one shows.
    is_known = any(not found.startswith("not judged") for found in properties.values())
    said += [f"Shows: {named}."] if shown else ["No property shows."] * is_known
    unknown = [name for name, found in properties.items() if found.startswith("not judged")]
    partly = [name for name, found in properties.items() if "the rest not judged" in found]
    said += [f"Not judged: {', '.join(unknown)}."] if unknown else []
    said += [f"Judged in part alone: {', '.join(partly)}."] if partly else []
    calm = {"better": "accuracy rose", "same": "accuracy did not change beyond chance"}.get(verdict.outcome)
    said += [f"The warning was wrong: {calm}."] if warnings and calm and verdict.is_of_answers else []
    return " ".join(filter(None, said))


def _warning(row: Mapping[str, Any]) -> str:
    probability = row.get("probability")
    how = "by a rule of your own" if probability is None else f"{probability:.0%} likely to end worse than it began"
    return f"Warned at step {row['step']}: {how} ({str(row.get('property')).replace('_', ' ')})."


def _no_warning(found: str) -> str:
    if found.startswith("not judged"):
        return "Whether harm is likely was not judged."
    return f"{found[:1].upper()}{found[1:]}." if found else ""


def _change(points: float, words: str) -> str:
    size = f"{abs(points):.1f}".removesuffix(".0")
    if size == "0":
        return f"kept its {words}"
    return f"{'gained' if points > 0 else 'lost'} {size} {'point' if size == '1' else 'points'} of {words}"


def _certainty(points: float, margin: float | None, problems: float | None, metric: str) -> str:
    if metric == "val/rewards/accuracies":
        return "What it writes was not judged."
    if margin is None:
        return "How certain: not known, because the number of judged answers is missing."
    interval = f"95% interval of the change [{points - margin:+.0f}, {points + margin:+.0f}] points on {problems:.0f} problems"
    return f"Beyond chance: {interval}." if abs(points) > margin else f"Within chance: {interval}."


def _movement(tracks: Mapping[str, Track]) -> str:
    """How far the chosen answers of a diagnosis moved, and how sure that is."""
    name = "pairs/chosen/change"
    if not all(tracks.get(metric) for metric in (name, f"{name}/low", f"{name}/high")):
        return ""
    mean, low, high = (tracks[metric][-1][1] for metric in (name, f"{name}/low", f"{name}/high"))
    return f"Chosen answers: {mean:+.2f} nats, 95% interval [{low:+.2f}, {high:+.2f}] over {tracks[_PAIRS][-1][1]:.0f} pairs."


def _cause(tracks: Mapping[str, Track]) -> str:
    """How the difference of the log-likelihoods grew on the probe bank, whose changes count from step 0 even in a resumed run."""
    names = [f"{_BANK}/{side}/change" for side in ("chosen", "rejected")]
    if not all(tracks.get(name) for name in names):
        return ""
    chosen, rejected = (tracks[name][-1][1] for name in names)
    growth = chosen - rejected
    if growth <= _FELL:
        return f"The margin did not grow ({growth:+.2f} nats)."
    share = -rejected / growth
    how = (
        "by suppression"
        if share > 1
        else "mostly because rejected fell"
        if share > 0.5
        else "mostly because chosen rose"
        if share >= 0
        else "although both sides rose"
    )
    return f"The margin grew {how} (drop share {share:.2f})."


def _class_name(part: Mapping[str, Any]) -> str:
    return str(part.get("class_path", "")).rsplit(".", 1)[-1]
