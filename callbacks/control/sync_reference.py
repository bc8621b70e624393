"""Moves the reference towards the policy at a cadence (TR-DPO)."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.schedule import Schedule, step_of
from datamodules.contracts.stores import require
from lightning_modules.contracts import HasPolicy
from lightning_modules.models.policy import Policy
from lightning_modules.references.frozen import FrozenPolicy


class SyncReference(Callback):
    """Every `every_n_steps` optimizer steps the reference's weights become share * policy + (1 - share) * reference.

    Needs `model.reference: online`: log-probs that were scored before the first step would be those of the reference that was.
    Log-ratios, implicit rewards and changes on training batches (`likelihood/...`) count from the reference as it is; those of the
    probe bank from the start. Checkpoints have the reference's weights, so that a resumed run goes on to the same bits.

    Source: Gorbatovski et al., arXiv 2404.09656 (TR-DPO): hard with share 1, soft below; TRL's `sync_ref_model` has 0.6 and 512.

    Args:
        every_n_steps: cadence in optimizer steps, >= 1.
        share: of the policy, in (0, 1].

    Raises:
        ValueError: if an argument is out of its range; or, when a fit starts, if the module has no reference of its own to move.
    """

    def __init__(self, every_n_steps: int = 512, share: float = 0.6) -> None:
        self.schedule = Schedule(every_n_steps)
        if not 0 < share <= 1:
            raise ValueError(f"expected share in (0, 1], got {share}. 1 makes the reference the policy.")
        self.share = share
        self._restored: dict[str, Tensor] | None = None
        self._reference: Policy | None = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        reference = getattr(pl_module, "online_reference", None)
        if not isinstance(reference, FrozenPolicy):
            raise ValueError(
                "expected a reference that is evaluated at every step, so that it can move, got log-probs that are scored once, "
                "before the first step. Set --model.reference online, with a loss that reads a reference."
            )
        require_own_weights(reference.policy, require(pl_module, HasPolicy).policy)
        self._reference = reference.policy
        if self._restored is not None:
            self._reference.load_state_dict(self._restored)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        step, completes = step_of(trainer, batch_idx)
        if completes and self.schedule.is_due(step):
            assert self._reference is not None, "on_train_start has found it"
            mix(self._reference, require(pl_module, HasPolicy).policy, self.share)

    @override
    def state_dict(self) -> dict[str, Any]:
        weights = {} if self._reference is None else self._reference.state_dict()
        return {"reference": {name: weight.detach().cpu().clone() for name, weight in weights.items()}}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict["reference"] or None


@torch.no_grad()
def mix(reference: Policy, policy: Policy, share: float) -> None:
    """Move every weight of the reference towards the policy's by `share` of the way, in place."""
    for own, other in zip(reference.parameters(), policy.parameters(), strict=True):
        own.lerp_(other.detach().to(own.device, own.dtype), share)


def require_own_weights(reference: Policy, policy: Policy) -> None:
    """Refuse a reference that is not a whole copy of the policy's kind.

    Raises:
        ValueError: if the two have other parameters, are sharded, or share them.
    """
    shapes = [[(name, tuple(p.shape)) for name, p in model.named_parameters()] for model in (reference, policy)]
    own = {p.data_ptr() for p in reference.parameters()}
    if shapes[0] != shapes[1] or any(p.data_ptr() in own for p in policy.parameters()):
        raise ValueError(
            f"expected a reference with weights like the policy's and of its own, got {len(shapes[0])} parameters beside "
            f"{len(shapes[1])}: adapters and FSDP2 share or split them. Train all weights on one process or under ddp."
        )
