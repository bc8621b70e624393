"""The contract of a preference loss: per-pair sequence log-probs in, per-pair losses and implicit rewards out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor


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

    def __post_init__(self) -> None:
        shape = self.policy_chosen.shape
        if len(shape) != 1:
            raise ValueError(
                f"expected policy_chosen of shape [pairs], got {list(shape)}. Sum token log-probs per completion first."
            )
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None and value.shape != shape:
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


class PreferenceLossOutput(NamedTuple):
    """What a preference loss returns."""

    losses: Tensor
    """`[pairs]`, differentiable, unreduced."""
    chosen_rewards: Tensor
    """`[pairs]`, detached: the implicit reward the loss gives the chosen completion."""
    rejected_rewards: Tensor
    """`[pairs]`, detached."""


class PreferenceLoss(ABC):
    """A loss over pairs. Subclasses are frozen dataclasses, one a file. CONTRIBUTING.md says what a new one needs."""

    # Not annotated as ClassVar: jsonargparse resolves a subclass's hints in the subclass's module, and where that does not import
    # ClassVar it would silently accept any value for any field.
    needs_reference: bool = True
    """Class attribute: whether reference log-probs are read; when False they are never computed."""

    @abstractmethod
    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and implicit rewards."""

    def require_score_gaps(self, gaps: Sequence[float | None]) -> None:  # noqa: B027  # most losses ask nothing
        """Refuse pairs by their judge scores, where they are known on the host; by default nothing is asked of them.

        Args:
            gaps: score of chosen minus that of rejected for every pair, None where one is missing.

        Raises:
            ValueError: if the loss cannot be computed for such pairs.
        """

    @property
    def is_logistic(self) -> bool:
        """Whether each pair is pushed by sigma(-margin) of the rewards that the loss gives, times a constant; False by default."""
        return False

    def likelihood_remedy(self) -> str:
        """First clause of an alarm's advice where likelihoods fall; a loss with a term that holds chosen names its weight."""
        return "Add a likelihood term (SFTDPOLoss)"


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
