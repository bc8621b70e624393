"""What a training or validation step hands to the callbacks, the same for SFT, RM, the DPO family and PPO."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from lightning_modules.losses.base import SequenceLogps
from lightning_modules.token_stats import TokenStats


@dataclass(frozen=True, eq=False)
class StepOutput:
    """One microbatch, as the callbacks see it (the item `outputs["step"]` of `on_train_batch_end`)."""

    stats: TokenStats
    """Statistics at the scored positions; after backward `stats.logps.grad` holds dL_step/dlogp_t."""
    loss_sum: Tensor
    """`[]` sum of the unit losses of this microbatch; differentiable until backward has run."""
    num_units: int
    """Units the sum runs over (pairs for preference losses, completion tokens for SFT)."""
    gradient_scale: float
    """dL_step / d loss_sum as autograd saw it (before the trainer's division by accumulate_grad_batches)."""
    accumulation: int = 1
    """The trainer's accumulate_grad_batches, by which Lightning divides the loss before backward."""
    sequences: SequenceLogps | None = None
    """Per-pair log-probs; after backward the policy sides hold their gradients. None where there are no pairs."""
    pair_losses: Tensor | None = None
    """`[pairs]` detached."""
    chosen_rewards: Tensor | None = None
    """`[pairs]` detached, implicit reward of the loss."""
    rejected_rewards: Tensor | None = None
    """`[pairs]` detached."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """Further per-unit values the module wants averaged and logged under their own names, 1-D, detached."""

    def token_gradients(self) -> Tensor | None:
        """`[K]` g_t = d(unit loss)/dlogp_t, free of batch size, ranks and accumulation; None before backward."""
        grad = self.stats.logps.grad
        return None if grad is None else grad * (self.accumulation / self.gradient_scale)

    def incentives(self) -> tuple[Tensor, Tensor] | None:
        """`([pairs], [pairs])`: d_w = -dl/dlog pi+ and d_l = dl/dlog pi- of each pair's own loss; None before backward."""
        if self.sequences is None or self.sequences.policy_chosen.grad is None:
            return None
        factor = self.accumulation / self.gradient_scale
        rejected = self.sequences.policy_rejected.grad
        assert rejected is not None, "both sides of a pair are leaves of the same loss"
        return -self.sequences.policy_chosen.grad * factor, rejected * factor
