"""The contract of a loss: what it reads of a microbatch, and its losses and implicit rewards.

Most read the log-probs of the two completions of a pair, summed over their tokens, and say no more than `__call__`
(`PreferenceLoss`). What others read is in `completions.py`: tokens, all completions of a prompt, single completions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lightning_modules.losses.completions import Completions


class Reads(StrEnum):
    """What of the policy a loss is a function of: what its gradient goes through."""

    PAIRS = "the two log-probs of each pair"
    """Incentives d_w and d_l say all of it."""
    GROUPS = "the log-probs of all completions of a prompt"
    """One incentive for each completion, whose size depends on the others."""
    COMPLETIONS = "the log-probs of single completions"
    """One incentive for each labelled completion; there are no pairs."""
    TOKENS = "the log-probs of single tokens of each pair"
    """One incentive for each token: those of a completion differ."""


class PairsOfStep(NamedTuple):
    """The pairs of a whole optimizer step, over microbatches and ranks, without gradient."""

    pairs: SequenceLogps
    """All of them."""
    first: int
    """Place of this microbatch's first pair among them; its others follow."""


@dataclass(frozen=True, eq=False)
class SequenceLogps:
    """Log-probs of `[pairs]` chosen and rejected completions, summed over completion tokens, in nats.

    Raises:
        ValueError: if the fields that are given do not all have the same 1-D shape.
    """

    policy_chosen: Tensor
    """`[pairs]` log pi(a+|x) under the policy."""
    policy_rejected: Tensor
    """`[pairs]` log pi(a-|x) under the policy."""
    chosen_lengths: Tensor
    """`[pairs]` completion tokens of the chosen side, >= 1."""
    rejected_lengths: Tensor
    """`[pairs]` completion tokens of the rejected side, >= 1."""
    reference_chosen: Tensor | None = None
    """`[pairs]` log pi0(a+|x); None when the loss needs no reference."""
    reference_rejected: Tensor | None = None
    """`[pairs]` log pi0(a-|x); None when the loss needs no reference."""
    chosen_scores: Tensor | None = None
    """`[pairs]` judge scores of the chosen side, if the data has them."""
    rejected_scores: Tensor | None = None
    """`[pairs]` judge scores of the rejected side, if the data has them."""
    step: PairsOfStep | None = None
    """Where a loss reads the whole optimizer step and this is a part of it; None: this is the step."""

    def __post_init__(self) -> None:
        shape = self.policy_chosen.shape
        if len(shape) != 1:
            raise ValueError(
                f"expected policy_chosen of shape [pairs], got {list(shape)}. Sum token log-probs per completion first."
            )
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor) and value.shape != shape:
                raise ValueError(
                    f"expected {f.name} of shape {list(shape)} like policy_chosen, got {list(value.shape)}. "
                    "Pass one value per pair for both sides."
                )

    def reference(self) -> tuple[Tensor, Tensor]:
        """`([pairs], [pairs])` reference log-probs of both sides.

        Raises:
            ValueError: if they are missing.
        """
        if self.reference_chosen is None or self.reference_rejected is None:
            raise ValueError(
                "expected reference log-probs for this loss, got none. "
                "Fit with a data module so that they are computed, or pass reference_chosen and reference_rejected."
            )
        return self.reference_chosen, self.reference_rejected

    def logratios(self) -> tuple[Tensor, Tensor]:
        """`([pairs], [pairs])`: h_w = log(pi+/pi0+) and h_l = log(pi-/pi0-), nats."""
        reference_chosen, reference_rejected = self.reference()
        return self.policy_chosen - reference_chosen, self.policy_rejected - reference_rejected

    def whole_step(self) -> PairsOfStep:
        """The pairs of the optimizer step, without gradient: those at hand where nothing else is known."""
        return self.step or PairsOfStep(self.detached(), 0)

    def detached(self) -> Self:
        """The same values without gradient."""
        return replace(self, policy_chosen=self.policy_chosen.detach(), policy_rejected=self.policy_rejected.detach())


class PreferenceLossOutput(NamedTuple):
    """What a loss returns. Units are pairs; of losses that read single completions, completions."""

    losses: Tensor
    """`[units]`, differentiable, unreduced."""
    chosen_rewards: Tensor
    """`[pairs]`, or `[desirable completions]`, detached: the implicit reward the loss gives the chosen completion."""
    rejected_rewards: Tensor
    """`[pairs]`, or `[undesirable completions]`, detached."""


CONTRAST_REMEDIES = (
    "lower_rate",
    "band_centre",
    "likelihood_term",
    "dpop",
    "reward_calibration",
    "length_normalised",
    "on_policy",
    "stop_here",
)
"""What makes sense for a loss that pulls and pushes log-ratios with a `beta` as DPO's."""


class Loss(ABC):
    """A loss that a config names. Subclasses are frozen dataclasses, one a file. CONTRIBUTING.md says what a new one needs."""

    # Not annotated as ClassVar, nor by a class of ours: jsonargparse resolves a subclass's hints in the subclass's module, and
    # where that does not import a hint's name it would silently accept any value for any field.
    needs_reference: bool = True
    """Class attribute: whether reference log-probs are read; when False they are never computed."""
    needs_step: bool = False
    """Class attribute: whether a mean or an order over all of the optimizer step is read; else a unit's loss is its own."""
    needs_distribution: bool = False
    """Class attribute: whether the KL of the reference's whole distribution at each token is read, for which it is asked online."""
    reads = Reads.PAIRS
    """Class attribute: what the gradient goes through."""

    remedies: tuple[str, ...] = ("lower_rate", "sft_dpo_instead", "reward_calibration", "on_policy", "stop_here")
    """Class attribute: what `advise.py` tries when a run with this loss goes wrong, by file of configs/remedies."""

    @abstractmethod
    def of(self, completions: Completions) -> PreferenceLossOutput:
        """Losses and implicit rewards of a microbatch."""

    def require_score_gaps(self, gaps: Sequence[float | None]) -> None:  # noqa: B027  # most losses ask nothing
        """Refuse pairs by their judge scores, where they are known on the host; by default nothing is asked of them.

        Args:
            gaps: score of chosen minus that of rejected for every pair, None where one is missing.

        Raises:
            ValueError: if the loss cannot be computed for such pairs.
        """

    def require_kinds(self, kinds: Sequence[str]) -> None:  # noqa: B027  # most losses ask nothing
        """Refuse a batch of a step by the kinds of its completions; by default nothing is asked of them.

        Raises:
            ValueError: if a kind is missing that the loss reads.
        """

    @property
    def is_logistic(self) -> bool:
        """Whether each pair is pushed by sigma(-margin) of the rewards that the loss gives, times a constant; False by default."""
        return False


class PreferenceLoss(Loss):
    """A loss of the two log-probs of each pair, summed over tokens."""

    @abstractmethod
    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and implicit rewards."""

    def of(self, completions: Completions) -> PreferenceLossOutput:
        """See Loss."""
        return self(completions.pair_sums)


def incentives(loss: PreferenceLoss, logps: SequenceLogps) -> tuple[Tensor, Tensor]:
    """d_w = -dl/dlog pi+ and d_l = +dl/dlog pi- of every pair's own loss, `([pairs], [pairs])`, by autograd on the tiny graph.

    Every closed-form diagnostic takes only these two numbers and TokenStats (docs/derivations.md 3.5).
    """
    chosen = logps.policy_chosen.detach().requires_grad_()
    rejected = logps.policy_rejected.detach().requires_grad_()
    with torch.enable_grad():
        losses = loss(replace(logps, policy_chosen=chosen, policy_rejected=rejected)).losses
    grads = torch.autograd.grad(losses.sum(), [chosen, rejected], allow_unused=True, materialize_grads=True)
    return -grads[0], grads[1]
