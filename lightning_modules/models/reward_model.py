"""A reward model and the recipe for one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from typing_extensions import override

from datamodules.batches import CompletionBatch
from lightning_modules.models.scalar import ScalarModel, load_scalar


class RewardModel(ScalarModel):
    """The scalar of each completion's last token."""

    @override
    def forward(self, batch: CompletionBatch, rows: Tensor | None = None) -> Tensor:
        """`[Q]` rewards of the completions; at other packed rows if `rows` are given."""
        return super().forward(batch, batch.last_row if rows is None else rows)


@dataclass(frozen=True)
class RewardModelSpec:
    """A recipe for a reward model."""

    path: str
    """Folder or hub name: a causal LM (an SFT run's policy), whose body goes on under a new head of zeros, or a reward model."""
    freeze_body: bool = False
    """Train the head alone."""

    def build(self) -> RewardModel:
        """Load it; building twice gives the same weights."""
        scalar = load_scalar(self.path)
        model = RewardModel(scalar.model, scalar.attention)
        if self.freeze_body:
            model.requires_grad_(False)
            head: nn.Linear = model.head
            head.requires_grad_(True)
        return model
