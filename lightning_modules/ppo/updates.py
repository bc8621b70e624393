"""One optimizer step of PPO over several microbatches, joined again for the callbacks."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor, nn

from datamodules.contracts.batches import CompletionBatch
from lightning_modules.models.sharding import whole
from lightning_modules.step_output import StepOutput
from lightning_modules.token_stats import TokenStats


@dataclass(frozen=True, eq=False)
class Piece:
    """A microbatch of the step."""

    loss: Tensor
    """`[]` its part of the step's mean, differentiable until backward has run."""
    stats: TokenStats
    """Token statistics, with gradients on `logps` after backward."""
    metrics: dict[str, Tensor]
    """`{name: [K] values}`."""


@dataclass(eq=False)
class Update:
    """Grows microbatch by microbatch, each after its backward pass."""

    pieces: list[Piece] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Take a microbatch whose gradients are there."""
        self.pieces.append(piece)

    def loss(self) -> Tensor:
        """`[]` the step's loss, detached."""
        return torch.stack([piece.loss.detach() for piece in self.pieces]).sum()

    def metrics(self) -> dict[str, Tensor]:
        """Metrics over all tokens of the step."""
        joined = {name: torch.cat([piece.metrics[name] for piece in self.pieces]) for name in self.pieces[0].metrics}
        return joined | {"train/loss": self.loss().reshape(1)}

    def output(self, batch: CompletionBatch) -> StepOutput:
        """The step as the callbacks see it: one batch, one TokenStats, its gradients in place."""
        parts = [piece.stats for piece in self.pieces]
        columns = {
            column.name: _joined([getattr(part, column.name) for part in parts])
            for column in fields(TokenStats)
            if column.name not in ("target_sequence", "num_sequences", "balance_loss", "divergence")
        }
        logps = columns.pop("logps")
        assert logps is not None, "every token has a log-prob"
        leaf = logps.requires_grad_()
        leaf.grad = _joined([part.logps.grad for part in parts])
        stats = TokenStats(logps=leaf, target_sequence=batch.target_sequence, num_sequences=batch.num_sequences, **columns)  # type: ignore[arg-type]
        loss_sum = self.loss() / batch.share.target_scale()
        return StepOutput(stats, loss_sum, num_units=batch.num_targets, gradient_scale=batch.share.target_scale())


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    tensors = [part.detach() for part in parts if part is not None]
    return torch.cat(tensors) if tensors else None


def clip(module: nn.Module, max_norm: float) -> Tensor:
    """Cut the L2 norm of a module's gradient; returns it as it was, `[1]`."""
    parameters = [p for p in module.parameters() if p.grad is not None]
    return whole(torch.nn.utils.clip_grad_norm_(parameters, max_norm)).reshape(1)
