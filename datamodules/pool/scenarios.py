"""The four scenarios of the paper (Table 4) as views of one response pool, on the same prompts."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from datamodules.pool.schema import DATASET, POLICY, PoolRow, Response

OTHER = "other"
"""Stands for the sources that are neither `policy` nor `dataset`."""

SCENARIOS: Mapping[int, tuple[str, str]] = {
    1: (POLICY, POLICY),
    2: (DATASET, POLICY),
    3: (POLICY, OTHER),
    4: (DATASET, OTHER),
}
"""Scenario -> (chosen source, rejected source)."""


class Filtered(StrEnum):
    """Why a prompt has no pair."""

    NO_CHOSEN = "no scored response of the chosen source"
    NO_REJECTED = "no scored response of the rejected source"
    ALIKE = "best and worst score alike"
    ALL_BAD = "the best response is not good enough"
    ALL_GOOD = "best and worst are both good enough, and score alike"


@dataclass(frozen=True, slots=True)
class PairRules:
    """Which pairs count."""

    min_gap: float = 1.0
    """Points by which the best must beat the worst at the least, > 0."""
    min_chosen_score: float | None = None
    """Points that the chosen response must have at the least; no bound by default."""
    other_sources: tuple[str, ...] | None = None
    """Names of the models that count as "other"; by default every source that is neither policy nor dataset."""

    def __post_init__(self) -> None:
        if not 0 < self.min_gap < math.inf or (self.min_chosen_score is not None and not math.isfinite(self.min_chosen_score)):
            raise ValueError(
                f"expected a finite min_gap > 0 and a finite min_chosen_score, got {self.min_gap} and {self.min_chosen_score}. "
                "A response can be preferred only to one that scores less."
            )


@dataclass(frozen=True, slots=True)
class ScenarioPair:
    """One prompt as a scenario sees it."""

    row_number: int
    """Row of the pool."""
    chosen: Response
    rejected: Response
    leftovers: tuple[Response, ...]
    """The other responses to the prompt, no text twice: its probes."""


@dataclass(frozen=True)
class ScenarioView:
    """The pairs of one scenario and what was left out."""

    pairs: tuple[ScenarioPair, ...]
    filtered: Mapping[tuple[int, Filtered], int]
    """(scenario, reason) -> prompts that it left out; a prompt that fails in several scenarios counts in each."""
    num_prompts: int
    """Prompts in the pool."""

    def summary(self) -> str:
        """A few lines for people."""
        lines = [f"{len(self.pairs)} of {self.num_prompts} prompts make a pair"]
        lines += [f"  {count} x scenario {scenario}: {reason}" for (scenario, reason), count in sorted(self.filtered.items())]
        return "\n".join(lines)


def view_scenario(
    rows: Mapping[int, PoolRow],
    scenario: int,
    *,
    mix: float = 0.0,
    shared: Sequence[int] = tuple(SCENARIOS),
    rules: PairRules = PairRules(),
) -> ScenarioView:
    """The best-scored response of the chosen source against the worst-scored of the rejected source, for every prompt.

    Args:
        rows: the pool by row number.
        scenario: 1 to 4.
        mix: share of the prompts, in [0, 1], that have their scenario-1 pair instead: partly on-policy data. Which prompts is
            fixed by their text, and those of a smaller share are among those of a larger.
        shared: the scenarios that all must have a pair for a prompt to count, `scenario` itself always among them; all four
            by default, so that they are compared on the same prompts.
        rules: which pairs count.

    Raises:
        ValueError: if there is no such scenario, or `mix` is outside [0, 1].
    """
    if not {scenario, *shared} <= set(SCENARIOS):
        raise ValueError(
            f"expected scenarios among {list(SCENARIOS)}, got {scenario} and shared {list(shared)}. The paper's Table "
            "4 numbers them; `python -m datamodules.pool stats` lists those that a pool has pairs for."
        )
    if not 0 <= mix <= 1:
        raise ValueError(f"expected mix in [0, 1], got {mix}. It is the share of prompts with on-policy pairs.")
    needed = sorted({scenario, *shared} | ({1} if mix else set()))
    filtered: Counter[tuple[int, Filtered]] = Counter()
    pairs = []
    for row_number, row in rows.items():
        found = {number: _pair(row, row_number, number, rules) for number in needed}
        reasons = [(number, pair) for number, pair in found.items() if isinstance(pair, Filtered)]
        filtered.update(reasons)
        pair = found[1 if _draw(row) < mix else scenario]
        if not reasons and isinstance(pair, ScenarioPair):
            pairs.append(pair)
    return ScenarioView(tuple(pairs), filtered, len(rows))


def _pair(row: PoolRow, row_number: int, scenario: int, rules: PairRules) -> ScenarioPair | Filtered:
    chosen_side, rejected_side = (_scored(row, source, rules) for source in SCENARIOS[scenario])
    if not chosen_side:
        return Filtered.NO_CHOSEN
    if not rejected_side:
        return Filtered.NO_REJECTED
    # Of responses with the same score the first in the pool.
    best, chosen = max(chosen_side, key=lambda item: item[0])
    worst, rejected = min(rejected_side, key=lambda item: item[0])
    if rules.min_chosen_score is not None and best < rules.min_chosen_score:
        return Filtered.ALL_BAD
    if best - worst < rules.min_gap or chosen.text == rejected.text:
        # Without a bound there is no telling good from bad.
        is_good = rules.min_chosen_score is not None and worst >= rules.min_chosen_score
        return Filtered.ALL_GOOD if is_good else Filtered.ALIKE
    return ScenarioPair(row_number, chosen, rejected, _leftovers(row.responses, chosen, rejected))


def _scored(row: PoolRow, source: str, rules: PairRules) -> list[tuple[float, Response]]:
    return [
        (response.score, response)
        for response in row.responses
        # A response without text cannot be trained on.
        if response.score is not None and response.text.strip() and _is_of(response.source, source, rules)
    ]


def _is_of(name: str, source: str, rules: PairRules) -> bool:
    if source != OTHER:
        return name == source
    return name not in (POLICY, DATASET) if rules.other_sources is None else name in rules.other_sources


def _leftovers(responses: Iterable[Response], chosen: Response, rejected: Response) -> tuple[Response, ...]:
    by_text = {response.text: response for response in responses if response.text.strip()}
    return tuple(response for text, response in by_text.items() if text not in (chosen.text, rejected.text))


def _draw(row: PoolRow) -> float:
    """Uniform in [0, 1), the same for the same prompt everywhere."""
    digest = hashlib.sha256(repr(row.prompt).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
