"""A rule: its property, its conditions, and its sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from string import Formatter
from typing import Literal

from callbacks.alarms.conditions import Condition, Histories

Level = Literal["notice", "warning"]
"""A notice is a fact; a warning says that harm is likely."""

SINCE = "since"
"""A name for sentences: the step from which the rule's conditions have held."""


@dataclass(frozen=True, kw_only=True)
class AlarmRule:
    """Fires once, when all conditions hold at `patience` judgements in a row; a judgement is a step with new readings of them."""

    property: str
    """What shows: drastic_drop, suppression, dispersion, reward_hacking, kl_blow_up, or another name. Of several rules for
    one property the first that fires speaks for all."""
    conditions: tuple[Condition, ...]
    """At least one."""
    says: tuple[str, ...]
    """Sentences; `{metric:.2f}` stands for the metric's last reading. One whose metrics were not all measured is left out."""
    patience: int = 2
    """Judgements in a row, >= 1."""
    needs: tuple[str, ...] = ()
    """Metrics that only runs of its kind have. A run that has none of them is of another kind, and has no verdict on the property;
    one that has any says that it was not judged, if it was not. Empty: every run."""
    level: Level = "notice"
    """`warning` for a rule of your own that means harm: it has no probability."""

    def __post_init__(self) -> None:
        if not self.conditions or self.patience < 1:
            raise ValueError(
                f"expected conditions and patience >= 1 of the rule for {self.property}, got {len(self.conditions)} conditions "
                f"and patience {self.patience}. Leave the rule out to switch it off."
            )

    def metrics(self) -> frozenset[str]:
        """The metrics that its conditions read."""
        return frozenset(condition.metric for condition in self.conditions)

    def spoken(self) -> frozenset[str]:
        """Metrics of the sentences."""
        return frozenset(name for sentence in self.says for name in _fields(sentence)) - {SINCE}

    def holds(self, histories: Histories) -> bool | None:
        """Whether all conditions hold now; None where that cannot be said. One that does not hold settles it."""
        held = [condition.holds(histories) for condition in self.conditions]
        return False if False in held else None if None in held else True

    def lacks(self, histories: Histories) -> list[str]:
        """Why conditions cannot be judged, in words."""
        return [lack for condition in self.conditions if (lack := condition.lack(histories))]

    def message(self, values: Mapping[str, float | str], since: int) -> str:
        """The sentences, with numbers."""
        known = {**values, SINCE: since}
        return " ".join(sentence.format_map(known) for sentence in self.says if _fields(sentence) <= known.keys())


def over_checkpoints(rules: Sequence[AlarmRule]) -> tuple[AlarmRule, ...]:
    """Rules for a diagnosis, where a reading is a mean over all pairs and not over one step's.

    Windows and patience are there to average over steps: a level or a change is judged on one reading here. A drift or a trend
    reads a stretch of the run, and keeps its window: it needs as many checkpoints as it needs readings.
    """
    return tuple(
        replace(
            rule,
            patience=1,
            conditions=tuple(own if own.of in ("drift", "trend") else replace(own, window=1, share=0.0) for own in rule.conditions),
        )
        for rule in rules
    )


def _fields(sentence: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(sentence) if name}
