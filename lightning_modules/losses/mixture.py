"""A weighted sum of losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from lightning_modules.losses.base import Loss, PreferenceLossOutput, Reads
from lightning_modules.losses.checks import require, require_non_negative
from lightning_modules.losses.chosen_sft import ChosenSFTLoss
from lightning_modules.losses.completions import Completions
from lightning_modules.losses.dpo import DPOLoss


def _defaults() -> list[Loss]:
    return [DPOLoss(), ChosenSFTLoss()]


@dataclass(frozen=True, kw_only=True)
class MixtureLoss(Loss):
    """sum_i weights_i l_i over the losses it holds, whatever they read; those of single completions go together alone.

    Source: none; TRL's DPOTrainer mixes its losses so (`loss_weights`; MPO, arXiv 2411.10442, is DPO, BCO and SFT).
    Incentives: the weighted sums of theirs.
    Rewards: the weighted sums of theirs.

    Raises:
        ValueError: if there is no loss, not a weight >= 0 for each, or no weight above 0; or if losses of single completions are
            mixed with others.
    """

    losses: list[Loss] = field(default_factory=_defaults)
    """The losses, at least one."""
    weights: list[float] = field(default_factory=lambda: [1.0, 0.01])
    """Weight of each, >= 0, no unit."""

    def __post_init__(self) -> None:
        require(bool(self.losses) and len(self.weights) == len(self.losses), "one weight for each loss", len(self.weights))
        require_non_negative(**{f"weight {number}": weight for number, weight in enumerate(self.weights)})
        require(any(self.weights), "a weight above 0", 0.0)
        reads = {loss.reads for loss in self.losses}
        if Reads.COMPLETIONS in reads and len(reads) > 1:
            raise ValueError(
                "expected losses of the same data, got losses of pairs and of single completions: "
                f"{', '.join(type(loss).__name__ for loss in self.losses)}."
            )
        # From the simplest to what says most: the gradient of the sum goes through all that the parts read.
        order = [Reads.COMPLETIONS, Reads.PAIRS, Reads.GROUPS, Reads.TOKENS]
        object.__setattr__(self, "reads", max(reads, key=order.index))
        object.__setattr__(self, "needs_reference", any(loss.needs_reference for loss in self.losses))
        object.__setattr__(self, "needs_distribution", any(loss.needs_distribution for loss in self.losses))
        object.__setattr__(self, "needs_step", any(loss.needs_step for loss in self.losses))

    def require_score_gaps(self, gaps: Sequence[float | None]) -> None:
        """See Loss."""
        for loss in self.losses:
            loss.require_score_gaps(gaps)

    def require_kinds(self, kinds: Sequence[str]) -> None:
        """See Loss."""
        for loss in self.losses:
            loss.require_kinds(kinds)

    def of(self, completions: Completions) -> PreferenceLossOutput:
        """See Loss."""
        columns = zip(*(loss.of(completions) for loss in self.losses), strict=True)
        return PreferenceLossOutput(*(self._mixed(column) for column in columns))

    def _mixed(self, parts: Sequence[Tensor]) -> Tensor:
        total = self.weights[0] * parts[0]
        for weight, part in zip(self.weights[1:], parts[1:], strict=True):
            total = total + weight * part
        return total
