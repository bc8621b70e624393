"""Gradients of the loss at the token log-probs of a pass without autograd, since the loss reads the model through them alone."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from datamodules.contracts.batches import CompletionBatch
from lightning_modules.contracts import HasObjective
from lightning_modules.step_output import StepOutput
from lightning_modules.token_stats import TokenStats


def with_gradients(module: HasObjective, batch: CompletionBatch, stats: TokenStats) -> StepOutput:
    """The step as a training would have left it: `token_gradients()` and `incentives()` are there, exact for any loss.

    The graph begins at the log-probs and ends at the loss; nothing runs through the model.

    Args:
        module: has the objective.
        batch: what was evaluated.
        stats: of its scored positions, with or without a graph of their own. Not made in inference mode.
    """
    with torch.enable_grad():
        apart = stats.divergence
        leaves = replace(
            stats,
            logps=_leaf(stats.logps),
            divergence=None if apart is None else apart._replace(kl=_leaf(apart.kl)),
        )
        output = module.objective(batch, leaves)
        output.retain_gradients()
        torch.autograd.backward(output.loss_sum * (output.gradient_scale / output.accumulation))
    return output


def _leaf(values: Tensor) -> Tensor:
    return values.detach().clone().requires_grad_()
