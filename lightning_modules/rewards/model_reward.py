"""Rewards from a trained reward model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor
from typing_extensions import override

from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.stores import PromptStore, ReferenceStore, require
from lightning_modules.models.scalars.reward_model import RewardModel, RewardModelSpec
from lightning_modules.optimization.precision import converted
from lightning_modules.rewards.base import Rewards, RewardSource
from lightning_modules.rewards.checks import require_same_tokens
from lightning_modules.rewards.samples import Samples

NUM_BATCHES = 4
"""Batches of the data's frozen pairs, for the mean and the spread of the rewards."""


class ModelReward(RewardSource):
    """The reward model's number, less the mean and over the standard deviation of those of the data's frozen completions.

    So a nat of KL costs the same whatever the reward model's scale is (as in arXiv 1909.08593, Sec. 2.1).

    Args:
        path: folder of the reward model.
        weight: factor on its rewards.
        per_token: of a log-likelihood: whether to take its mean over the tokens, not the sum, which makes responses brief; null
            takes what it was trained with.
        trust_remote_code: run the Python files that come with its weights, with all your rights: read them first.
    """

    name = "model"

    def __init__(self, path: str, weight: float = 1.0, per_token: bool | None = None, trust_remote_code: bool = False) -> None:
        super().__init__(weight)
        self._path = path
        self._spec = RewardModelSpec(path, per_token=per_token, trust_remote_code=trust_remote_code)
        self._model: RewardModel | None = None
        self._precision = Precision()
        self._mean, self._std = 0.0, 1.0

    @override
    def use(self, precision: Precision) -> None:
        self._precision = precision

    @override
    def prepare(self, store: PromptStore, device: torch.device) -> None:
        require_same_tokens("reward model", self._path, store)
        self._model = converted(self._spec.build(), self._precision).to(device).eval().requires_grad_(False)
        demands = getattr(store, "demands", None)
        if demands is not None:
            self._model.limits.require(demands())
        batches = islice(require(store, ReferenceStore).scoring_dataloader("train"), NUM_BATCHES)
        scores = torch.cat([self._raw(batch.to(device)) for batch in batches])
        self._mean, self._std = float(scores.mean()), max(float(scores.std()), 1e-6)

    @override
    def rewards(self, samples: Samples, batches: Sequence[CompletionBatch]) -> Rewards:
        if samples.has_other_ends():
            # It was trained on completions that end with the end of sequence, and is read there.
            device, longest = batches[0].input_ids.device, max(len(batch.input_ids) for batch in batches)
            batches = [batch.to(device) for batch in samples.batches(longest, as_data=True)]
        return Rewards(torch.cat([self._standardised(batch) for batch in batches]))

    @override
    def pair_scores(self, batch: CompletionBatch) -> Tensor:
        return self._standardised(batch)

    def _standardised(self, batch: CompletionBatch) -> Tensor:
        return (self._raw(batch) - self._mean) / self._std

    @torch.no_grad()
    def _raw(self, batch: CompletionBatch) -> Tensor:
        assert self._model is not None, "prepare comes first"
        rewards: Tensor = self._model(batch)
        return rewards.cpu()
