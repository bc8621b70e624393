"""Sources of reward: their contract, and the sum of several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor

from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.stores import PromptStore
from lightning_modules.rewards.samples import Samples

MIN_SCORED = 0.5
"""Share of a rollout's completions that a source has to score. Below it, the source is broken."""


@dataclass(frozen=True, eq=False)
class Rewards:
    """Scores of one source for Q completions of K tokens."""

    scores: Tensor
    """`[Q]` float32 for the whole completion; NaN where there is none."""
    tokens: Tensor | None = None
    """`[K]` float32 for each token; None where the source has none."""
    failures: Mapping[int, str] = field(default_factory=dict)
    """Completion -> why it has no score."""


class RewardSource(ABC):
    """Scores what the policy says. Named by `class_path` in a config; several are added up with their weights.

    A source with weight 0 is watched: its scores are logged and count for nothing.

    Args:
        weight: factor on its rewards, finite.
    """

    name: str
    """Its name in metrics."""
    needs_reference: bool = False
    """Whether it reads the reference log-probs of the batches."""

    def __init__(self, weight: float = 1.0) -> None:
        if not abs(weight) < float("inf"):
            raise ValueError(f"expected a finite weight, got {weight}. Use 0 to watch a source that counts for nothing.")
        self.weight = weight

    def use(self, precision: Precision) -> None:
        """Told the run's precision before `prepare`, for sources with a model of their own. Nothing by default."""
        return

    def prepare(self, store: PromptStore, device: torch.device) -> None:
        """Called once before the first rollout, under autocast where the run is; raise here what would be wrong in all of them."""
        return

    @abstractmethod
    def rewards(self, samples: Samples, batches: Sequence[CompletionBatch]) -> Rewards:
        """Rewards of the samples.

        Args:
            samples: what was drawn.
            batches: the same, packed, with reference log-probs if the source needs them.
        """

    def pair_scores(self, batch: CompletionBatch) -> Tensor | None:
        """`[Q]` scores of any completions, for the check before training; None where the source needs more than tokens."""
        return None


@dataclass(frozen=True, eq=False)
class TotalRewards:
    """The weighted sum over sources."""

    scores: Tensor
    """`[Q]`; NaN where a source that counts has none."""
    tokens: Tensor
    """`[K]`."""
    by_source: Mapping[str, Tensor]
    """Source -> `[Q]` its own scores, unweighted; its token rewards summed where it has them."""
    failures: Counter[str]
    """Reason -> completions without a score."""

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """Those of all parts, at least one, in order."""
        found = list(parts)
        return cls(
            torch.cat([part.scores for part in found]),
            torch.cat([part.tokens for part in found]),
            {name: torch.cat([part.by_source[name] for part in found]) for name in found[0].by_source},
            sum((part.failures for part in found), Counter()),
        )

    def require_scores(self) -> None:
        """Refuse the rewards of a rollout that a source does not score.

        Raises:
            ValueError: if fewer than half of the completions have a score.
        """
        scored = int(self.scores.isfinite().sum())
        if scored < MIN_SCORED * len(self.scores):
            common = "; ".join(f"{count} x {reason}" for reason, count in self.failures.most_common(3))
            raise ValueError(
                f"expected rewards for at least half of the {len(self.scores)} completions of a rollout, got {scored}: {common}. "
                "Correct the judge or the reward model; training on the rest would be training on its failures."
            )


def prepare(sources: Sequence[RewardSource], store: PromptStore, device: torch.device, precision: Precision) -> None:
    """Make every source ready for its first rollout, in the precision that it will score in."""
    for source in sources:
        source.use(precision)
        with precision.forward_context():
            source.prepare(store, device)


def total_rewards(sources: Sequence[RewardSource], samples: Samples, batches: Sequence[CompletionBatch]) -> TotalRewards:
    """Ask every source, in order."""
    lengths = samples.lengths()
    scores, tokens = torch.zeros(len(lengths)), torch.zeros(int(lengths.sum()))
    by_source: dict[str, Tensor] = {}
    failures: Counter[str] = Counter()
    sequence = torch.arange(len(lengths)).repeat_interleave(lengths)
    for source in sources:
        found = source.rewards(samples, batches)
        own = found.scores if found.tokens is None else found.scores.index_add(0, sequence, found.tokens)
        by_source[source.name] = own
        failures.update(_reasons(source, own, found.failures))
        if source.weight:
            scores += source.weight * torch.where(own.isfinite(), found.scores, torch.nan)
            tokens += 0 if found.tokens is None else source.weight * found.tokens.nan_to_num(0, 0, 0)
    return TotalRewards(scores, tokens, by_source, failures)


def _reasons(source: RewardSource, own: Tensor, failures: Mapping[int, str]) -> list[str]:
    missing = (~own.isfinite()).nonzero().flatten().tolist()
    return [f"{source.name}: {failures.get(number, f'the score is {own[number].item()}')}" for number in missing]
