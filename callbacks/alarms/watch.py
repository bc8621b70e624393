"""Applies rules to the readings of a run, live or from its rows, and reports each rule once, with its step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from callbacks.alarms.conditions import Histories
from callbacks.alarms.rules import AlarmRule, Level
from run_folder.properties import Shown, verdict_on

Derived = Callable[[Mapping[str, float]], Mapping[str, float | str]]
"""Further numbers and words for sentences, from the latest readings."""


@dataclass(frozen=True)
class Alarm:
    """What is said, once."""

    step: int
    property: str
    message: str
    numbers: dict[str, float]
    """Last readings of the rule's metrics."""
    since: int
    """Step from which the conditions have held."""
    level: Level = "notice"


class AlarmWatch:
    """Hears readings, judges them step by step, and gives every property's alarm once.

    Args:
        rules: in the order in which they may speak.
        extra: names to keep beside those of the rules, for `derived`.
    """

    def __init__(self, rules: Sequence[AlarmRule], extra: frozenset[str] = frozenset()) -> None:
        self._rules = tuple(rules)
        self.names = extra.union(*(rule.metrics() | rule.spoken() | set(rule.needs) for rule in rules))
        self._histories = Histories(self.names)
        self._fresh: frozenset[str] = frozenset()
        self._streaks: dict[int, tuple[int, int]] = {}
        self._fired: dict[str, int] = {}
        self._since: dict[str, int] = {}
        self._judged: set[int] = set()

    @property
    def fired(self) -> Mapping[str, int]:
        """Property -> the step it fired at."""
        return self._fired

    def hear(self, readings: Mapping[str, float]) -> None:
        """Take readings of the step that is judged next."""
        self._fresh |= self._histories.add(readings)

    def judge(self, step: int, derived: Derived | None = None) -> list[Alarm]:
        """The alarms that fire now.

        Args:
            step: of the readings heard since the last call.
            derived: further numbers and words for the sentences.
        """
        alarms: list[Alarm] = []
        for number, rule in enumerate(self._rules):
            if not rule.metrics() & self._fresh:
                continue
            if rule.holds(self._histories) is None:
                # The condition that settled it has changed, and the others were not measured: it cannot be judged any more.
                self._judged.discard(number)
            else:
                self._judged.add(number)
            # Also of what was said: whether it still shows at the end is told then.
            if self._streak(number, rule, step) >= rule.patience and rule.property not in self._fired:
                self._fired[rule.property], self._since[rule.property] = step, self._streaks[number][1]
                alarms.append(self._alarm(rule, step, self._streaks[number][1], derived))
        self._fresh = frozenset()
        return alarms

    def _streak(self, number: int, rule: AlarmRule, step: int) -> int:
        """Judgements in a row at which the rule has held, this one included."""
        if not rule.holds(self._histories):
            self._streaks.pop(number, None)
            return 0
        length, since = self._streaks.get(number, (0, step))
        self._streaks[number] = (length + 1, since)
        return length + 1

    def verdicts(self, logged: Collection[str] = ()) -> dict[str, str]:
        """What became of each property: it shows, there was no sign of it, or it was not judged, and why.

        Left out are rules for runs of another kind (`AlarmRule.needs`).

        Args:
            logged: metrics that the run has beside those heard, as a run that ends before its first reading has.
        """
        rules: dict[str, list[int]] = {}
        for number, rule in enumerate(self._rules):
            if not rule.needs or any(name in logged or self._histories.get(name) for name in rule.needs):
                rules.setdefault(rule.property, []).append(number)
        return {name: self._verdict(name, numbers) for name, numbers in rules.items()}

    def _verdict(self, name: str, numbers: Sequence[int]) -> str:
        if name in self._fired:
            return verdict_on(Shown(self._since[name], is_over=not any(number in self._streaks for number in numbers)))
        open_ones = [self._lack(number) for number in numbers if number not in self._judged or number in self._streaks]
        if not open_ones:
            return "no sign"
        left = f"not judged: {'; '.join(dict.fromkeys(open_ones))}"
        judged = len(numbers) - len(open_ones)
        return f"no sign by {judged} of {len(numbers)} rules; the rest {left}" if judged else left

    def _lack(self, number: int) -> str:
        """Why a rule has not been judged to its end."""
        rule = self._rules[number]
        if number in self._streaks:
            return f"it shows at the last {self._streaks[number][0]} of {rule.patience} readings that are needed"
        return ", ".join(rule.lacks(self._histories)) or "no reading came after the first"

    def _alarm(self, rule: AlarmRule, step: int, since: int, derived: Derived | None) -> Alarm:
        latest = self._histories.latest()
        numbers = {name: latest[name] for name in sorted(rule.metrics())}
        values = {**latest, **(derived(latest) if derived else {})}
        return Alarm(step, rule.property, rule.message(values, since), numbers, since, rule.level)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes; taken between judgements."""
        streaks = {self._key(number): list(streak) for number, streak in self._streaks.items()}
        judged = sorted(self._key(number) for number in self._judged)
        said = {"fired": dict(self._fired), "since": dict(self._since)}
        return {"histories": self._histories.state_dict(), "streaks": streaks, **said, "judged": judged}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave. A rule whose conditions have changed since starts its count anew."""
        self._histories.load_state_dict(state["histories"])
        keys = {self._key(number): number for number in range(len(self._rules))}
        self._streaks = {keys[key]: (count, since) for key, (count, since) in state["streaks"].items() if key in keys}
        self._fired = dict(state["fired"])
        # Checkpoints of earlier versions do not say since when, nor what had been judged.
        self._since = dict(state.get("since", self._fired))
        self._judged = {keys[key] for key in state.get("judged", ()) if key in keys}

    def _key(self, number: int) -> str:
        rule = self._rules[number]
        return f"{rule.property}: {'; '.join(map(str, rule.conditions))}"
