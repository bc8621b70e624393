"""Toy steps with gradients, in float64, without a trainer."""

from __future__ import annotations

import torch
from torch import Tensor

from datamodules.contracts.batches import CompletionBatch
from datamodules.toy.data import ToyDataModule, ToyPreferenceDataModule
from lightning_modules.losses.base import PreferenceLoss, SequenceLogps
from lightning_modules.models.toy.policy import ToyPolicy
from lightning_modules.step_output import PairOutput, StepOutput


def first_batch(data: ToyDataModule) -> CompletionBatch:
    """The batch of the first step."""
    data.setup("fit")
    return next(iter(data.train_dataloader()))


def pair_batch(num_seeds: int = 2, **options: object) -> CompletionBatch:
    """A batch of pairs whose reference log-probs are -0.5, -1.0, -1.5, ... nats."""
    data = ToyPreferenceDataModule(num_seeds=num_seeds, **options)  # type: ignore[arg-type]
    data.setup("fit")
    data.set_reference_logps("train", -0.5 * torch.arange(1, data.dataset("train").num_targets + 1))
    return first_batch(data)


def sequences_of(batch: CompletionBatch, logps: Tensor) -> SequenceLogps:
    """The pairs of the batch; judge scores 1 and 0."""
    chosen, rejected = batch.pairs.unbind(1)
    reference = batch.reference_logps
    assert reference is not None
    return SequenceLogps(
        policy_chosen=logps[chosen],
        policy_rejected=logps[rejected],
        chosen_lengths=batch.lengths[chosen],
        rejected_lengths=batch.lengths[rejected],
        reference_chosen=reference[chosen].to(logps),
        reference_rejected=reference[rejected].to(logps),
        chosen_scores=torch.ones_like(logps[chosen]),
        rejected_scores=torch.zeros_like(logps[rejected]),
    )


def step(policy: ToyPolicy, batch: CompletionBatch, loss: PreferenceLoss) -> StepOutput:
    """Forward and backward as PreferenceModule does them."""
    policy.zero_grad()
    stats = policy(batch)
    sequences = sequences_of(batch, stats.sum_by_sequence())
    for tensor in (stats.logps, sequences.policy_chosen, sequences.policy_rejected):
        tensor.retain_grad()
    losses, chosen_rewards, rejected_rewards = loss(sequences)
    output = StepOutput(
        stats=stats,
        loss_sum=losses.sum(),
        num_units=len(losses),
        gradient_scale=batch.share.prompt_scale(),
        pairs=PairOutput(sequences, losses.detach(), chosen_rewards, rejected_rewards),
    )
    (output.loss_sum * output.gradient_scale).backward()
    return output
