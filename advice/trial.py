"""The trial: the control and every remedy, from the fork on, within the time that there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from advice.comparison import Difference, Key, best_first, deciding, differences
from advice.forks import REPLAY, Forks, Reading
from advice.measures import Values
from advice.plan import Cost, least_budget, planned_rungs, rungs_of, survivors
from advice.remedies import CannotApply, Remedy, applied
from advice.settings import Config

CONTROL = "control"


@dataclass(frozen=True)
class Task:
    """A stretch of a fork that is to be taken, as a progress bar shows it."""

    name: str
    until: int


OnTask = Callable[[Task], None]


@dataclass(frozen=True)
class Outcome:
    """What a trial has shown."""

    differences: dict[Key, dict[str, Difference]]
    """Of every comparison that was made."""
    last: dict[str, int]
    """Remedy -> the steps after which it was compared last."""
    untried: dict[str, str]
    """Remedy -> why it was not tried."""
    seconds: float
    """Of all forks together."""
    measures: list[str]
    """Those that decide."""

    def final(self) -> dict[Key, dict[str, Difference]]:
        """The comparisons after the longest forks, which alone can recommend."""
        return {key: of for key, of in self.differences.items() if key.steps == max(self.last.values())}


@dataclass
class Trial:
    """Forks a run into remedies.

    Args:
        forks: where they go.
        steps: of a fork.
        budget: seconds for all of them together, those of earlier calls included.
        on_task: told what comes next.
    """

    forks: Forks
    steps: int
    budget: float
    on_task: OnTask = field(default=lambda _: None)

    def run(self, remedies: list[Remedy], untried: Mapping[str, str], facts: Config) -> Outcome:
        """Try them.

        Raises:
            ValueError: if nothing can be judged, or the time does not do for a first comparison.
        """
        configs, reasons = self._configs(remedies, facts)
        # No farther than the first comparison: then it is known what a step costs.
        first = rungs_of(self.steps)[0]
        self._control([first])
        self._require_judgement()
        cost, spent = self._cost(), self.forks.seconds(CONTROL) + self.forks.seconds(REPLAY)
        rungs = planned_rungs(len(configs), self.steps, cost, self.budget - spent, first)
        if rungs is None:
            least = spent + least_budget(len(configs), self.steps, cost)
            raise ValueError(self._too_small(len(configs), least))
        self._control(rungs)
        tried, late = self._rungs(configs, rungs, cost)
        tried |= {Key(remedy.name, rungs[-1]): self._read(CONTROL, 0).measures for remedy in remedies if not remedy.trains}
        found = differences(tried, {steps: self._read(CONTROL, steps).measures for steps in {key.steps for key in tried}})
        last: dict[str, int] = {}
        for key in tried:
            last[key.remedy] = max(key.steps, last.get(key.remedy, 0))
        seconds = sum(map(self.forks.seconds, (CONTROL, REPLAY, *configs)))
        return Outcome(found, last, {**untried, **reasons, **late}, seconds, deciding(self._read(CONTROL, 0).measures))

    def _configs(self, remedies: list[Remedy], facts: Config) -> tuple[dict[str, Config], dict[str, str]]:
        configs, reasons = {}, {}
        for remedy in remedies:
            try:
                if remedy.trains:
                    configs[remedy.name] = applied(remedy, self.forks.origin.config, facts)
            except CannotApply as error:
                reasons[remedy.name] = str(error)
        return configs, reasons

    def _control(self, rungs: list[int]) -> None:
        """Take the run's own steps to the last of the rungs.

        Raises:
            ValueError: if the run cannot be taken up again; in words.
        """
        origin, at = self.forks.origin, [self.forks.origin.step + steps for steps in (0, *rungs)]
        self.on_task(Task(CONTROL, at[-1]))
        try:
            self.forks.go(CONTROL, origin.config, at[-1], at, self.forks.start())
        except (ValueError, OSError) as error:
            raise ValueError(
                f"expected the run to go on from step {origin.step} as it was, got: {error}\nWhat has moved can be named as in "
                f"{origin.run}/config.yaml: --data.train.path FILE, --model.policy.path FOLDER."
            ) from error

    def _rungs(self, configs: dict[str, Config], rungs: list[int], cost: Cost) -> tuple[dict[Key, Values], dict[str, str]]:
        """What was read, and of those that time did not do for the reason."""
        tried: dict[Key, Values] = {}
        late: dict[str, str] = {}
        names, before = list(configs), 0
        for rung in rungs:
            for name in names:
                if not self._has_time(name, rung, cost.of(rung - before), configs):
                    late[name] = f"the time was spent before its step {self.forks.origin.step + rung}"
                    continue
                try:
                    tried[Key(name, rung)] = self._go(name, configs[name], rung).measures
                # Whatever a remedy breaks, the others are worth trying.
                except Exception as error:
                    late[name] = f"it failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            compared = [name for name in names if Key(name, rung) in tried]
            names, before = self._better_half(compared, rung, tried), rung
        return tried, late

    def _better_half(self, names: list[str], rung: int, tried: Mapping[Key, Values]) -> list[str]:
        found = differences({Key(name, rung): tried[Key(name, rung)] for name in names}, {rung: self._read(CONTROL, rung).measures})
        return best_first(names, found, rung)[: survivors(len(names))]

    def _has_time(self, name: str, rung: int, seconds: float, configs: Mapping[str, Config]) -> bool:
        if self.forks.reading(name, self.forks.origin.step + rung) is not None:
            return True
        return sum(map(self.forks.seconds, (CONTROL, REPLAY, *configs))) + 0.5 * seconds <= self.budget

    def _go(self, name: str, config: Config, steps: int) -> Reading:
        until = self.forks.origin.step + steps
        self.on_task(Task(name, until))
        self.forks.go(name, config, until, [until], self.forks.start())
        return self._read(name, steps)

    def _read(self, name: str, steps: int) -> Reading:
        read = self.forks.reading(name, self.forks.origin.step + steps)
        assert read is not None, "a fork is read at its end"
        return read

    def _cost(self) -> Cost:
        """What the control has taken."""
        at = [self.forks.origin.step + steps for steps in (0, *rungs_of(self.steps))]
        reads = [read for step in at if (read := self.forks.reading(CONTROL, step)) is not None]
        reading = sum(read.seconds["reading"] for read in reads) / len(reads)
        stepping = sum(read.seconds["steps"] for read in reads[1:])
        setup = self.forks.seconds(CONTROL) - stepping - reading * len(reads)
        return Cost(max(setup, 0.0), stepping / (reads[-1].step - self.forks.origin.step), reading)

    def _require_judgement(self) -> None:
        read = self._read(CONTROL, 0).measures
        if not deciding(read):
            raise ValueError(
                "expected something to judge the forks by, got none: no judge with held-out problems (an AccuracyMonitor and a "
                "task), no held-out pairs (data.val_fraction), no probe bank (data.num_probe_prompts), no --neutral-text. Give one."
            )

    def _too_small(self, number: int, least: float) -> str:
        minutes = -(-least // 60)
        return (
            f"expected time for {number} remedies, got --budget-minutes {self.budget / 60:g}: a first comparison of all takes "
            f"about {least / 60:.1f} minutes here. The nearest that does: --budget-minutes {minutes:g}; or fewer remedies "
            "(--remedies), or shorter forks (--steps). What has been trained is kept."
        )


def names_of(outcome: Outcome) -> Iterator[str]:
    """Remedies that were compared, the best first."""
    keys = [Key(name, steps) for name, steps in outcome.last.items()]
    ordered = best_first([key.remedy for key in keys], {Key(key.remedy, 0): outcome.differences[key] for key in keys}, 0)
    yield from sorted(ordered, key=lambda name: -outcome.last[name])
