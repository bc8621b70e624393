"""Reward models and the recipe for one."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedConfig, PreTrainedModel
from typing_extensions import override

from datamodules.contracts.batches import CompletionBatch, sum_by_sequence
from lightning_modules.models.adapters.lora import LoraSpec
from lightning_modules.models.attention_backends.selection import BackendSelector
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.checks.limits import ModelLimits
from lightning_modules.models.files.pretrained import config_at, folder_of, weights_at
from lightning_modules.models.layers.layer_options import LayerOptions
from lightning_modules.models.layers.router import asks_for_balance
from lightning_modules.models.scalars.scalar_model import POOLING_ENTRY, ScalarModel, load_scalar
from lightning_modules.models.sharding import AS_HELD, Gathering, Shardable
from lightning_modules.models.specs import PretrainedPolicy
from lightning_modules.token_stats import TokenStats

SCALE_ENTRY, PER_TOKEN_ENTRY = "likelihood_scale", "likelihood_per_token"
"""Configuration entries of a saved causal LM that is a reward model."""

Pooling = Literal["last", "sum"]
"""The tokens at which a scalar head is read: at a completion's last token, or at each of its tokens, the numbers added up."""


class RewardModel(Shardable):
    """One number for a prompt and a completion."""

    limits: ModelLimits
    """What it can read."""
    asks_for_balance: bool
    """Whether its configuration wants a load-balancing loss, which reward models are trained without."""

    @abstractmethod
    def forward(self, batch: CompletionBatch) -> Tensor:
        """`[Q]` rewards of the completions, float32."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hex digest of weights and configuration."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what `RewardModelSpec` loads. Call it on every rank: the first one writes.

        Raises:
            FileExistsError: if the folder holds something already.
        """

    @abstractmethod
    def try_save(self, folder: Path) -> None:
        """Raise now what would make `save` fail when the work is done (see `Policy.try_save`)."""


class LastTokenReward(ScalarModel, RewardModel):
    """The scalar of each completion's last token."""

    @override
    def forward(self, batch: CompletionBatch, rows: Tensor | None = None) -> Tensor:
        """`[Q]` rewards of the completions; at other packed rows if `rows` are given."""
        return super().forward(batch, batch.last_row if rows is None else rows)


class TokenSumReward(ScalarModel, RewardModel):
    """r(x, y) = sum_t w h_t: the scalars of all tokens of a completion, end of sequence included, added up.

    What holds for the whole answer (its length, its tone, that it goes wrong somewhere) is a sum over its tokens, which the head of
    a last token can use only where the body has put it there; a frozen or hardly trained one has not. Unbounded, and large where
    answers are long; of our own, measured in docs/results/rlhf/alpaca.md.

    Args:
        model: with one linear layer `score` over its body.
        attention: chooses the backend; the fastest that works by default.
    """

    def __init__(self, model: PreTrainedModel, attention: BackendSelector | None = None) -> None:
        super().__init__(model, attention)
        setattr(model.config, POOLING_ENTRY, "sum")

    @override
    def forward(self, batch: CompletionBatch, rows: Tensor | None = None) -> Tensor:
        """`[Q]` rewards of the completions; `[n]` scalars of packed rows if `rows` are given."""
        if rows is not None:
            return super().forward(batch, rows)
        return sum_by_sequence(super().forward(batch, completion_rows(batch)), batch.target_sequence, batch.num_sequences)


def completion_rows(batch: CompletionBatch) -> Tensor:
    """`[K]` int64: the row that each completion token is fed in at, in the order of the targets."""
    ends = batch.lengths.cumsum(0)
    shift = batch.last_row - (ends - 1)
    return torch.arange(batch.num_targets, device=batch.last_row.device) + shift[batch.target_sequence]


class LikelihoodReward(RewardModel):
    """r(x, y) = scale * sum_t log pi(y_t | x, y_<t), end of sequence included, or the mean: a causal LM that is no policy any more.

    The implicit reward of arXiv 2305.18290 (Eq. 5) with a uniform reference. What the model thinks of a token is compared with the
    token by its output layer, which is there before training; a scalar head has to find it out in the layers below. Of two
    responses with equally likely tokens the sum likes the shorter one better, so that what is trained on it grows brief; the mean
    (SimPO's reward, arXiv 2405.14734, Eq. 4) does not.

    Args:
        policy: the causal LM.
        scale: reward per nat, > 0; with `per_token` per nat of the mean.
        per_token: the mean over the tokens instead of the sum.
    """

    def __init__(self, policy: CausalLMPolicy, scale: float, per_token: bool = False) -> None:
        super().__init__()
        self.policy = policy
        self.limits = policy.limits
        self.asks_for_balance = asks_for_balance(policy.model)
        self.scale = scale
        self.per_token = per_token
        setattr(policy.model.config, SCALE_ENTRY, scale)
        setattr(policy.model.config, PER_TOKEN_ENTRY, per_token)

    @override
    def forward(self, batch: CompletionBatch) -> Tensor:
        stats: TokenStats = self.policy(batch)
        sums = stats.sum_by_sequence()
        return self.scale * (sums / batch.lengths if self.per_token else sums)

    @override
    def fingerprint(self) -> str:
        return self.policy.fingerprint()

    @override
    def shard(self, mesh: DeviceMesh, gathering: Gathering = AS_HELD) -> None:
        self.policy.shard(mesh, gathering)

    @override
    def save(self, folder: Path) -> None:
        self.policy.save(folder)

    @override
    def try_save(self, folder: Path) -> None:
        self.policy.try_save(folder)


def _trained_pooling(config: PreTrainedConfig) -> Pooling | None:
    """Where the head of a saved model is read; None of a causal LM, which has none."""
    classifier = any("SequenceClassification" in name for name in config.architectures or [])
    pooling: Pooling | None = getattr(config, POOLING_ENTRY, "last" if classifier else None)
    return pooling


HEADS: Mapping[Pooling, type[LastTokenReward | TokenSumReward]] = {"last": LastTokenReward, "sum": TokenSumReward}


@dataclass(frozen=True)
class RewardModelSpec(LayerOptions):
    """A recipe for a reward model.

    Raises:
        ValueError: if the scale is not positive; at `build`, if there is no such model, the body of a likelihood is to be frozen,
            which has no other part, or that of adapters, a scalar head is to be read per token or otherwise than it was trained, or
            a likelihood is to be pooled or cut.
    """

    path: str
    """Folder, hub name or `.gguf` file: a causal LM (an SFT run's policy), whose body goes on under a new head of zeros, or a
    reward model."""
    freeze_body: bool = False
    """Train the head alone."""
    likelihood_scale: float | None = None
    """Causal LM without a head: the reward is the completion's log-likelihood times this (reward per nat, > 0). A folder of such a
    reward model knows its own."""
    per_token: bool | None = None
    """For a likelihood: its mean over the tokens, so that length does not count, or the sum; the scale is then of the mean.
    null takes what a saved one was trained with, or else the sum."""
    pooling: Pooling | None = None
    """Where a scalar head is read. null takes what a saved one was trained with, or else its last token."""
    num_layers: int | None = None
    """Keep the body's first layers under a scalar head, and drop the rest; null keeps all."""
    trust_remote_code: bool = False
    """Run the Python files that come with the weights, with all your rights (see `PretrainedPolicy`): read them first."""
    lora: LoraSpec | None = None
    """Train low-rank adapters (and the scalar head, as a whole), and leave the body as it is."""

    def __post_init__(self) -> None:
        if self.lora is not None and self.freeze_body:
            raise ValueError("expected freeze_body: false with lora, got true: adapters are how a frozen body is trained.")
        if self.likelihood_scale is not None and not 0 < self.likelihood_scale < math.inf:
            raise ValueError(f"expected a finite likelihood_scale > 0, got {self.likelihood_scale}. Use null for a scalar head.")
        if self.num_layers is not None and self.num_layers < 1:
            raise ValueError(f"expected num_layers >= 1, got {self.num_layers}. Use null for all layers.")

    def build(self) -> RewardModel:
        """Load it; building twice gives the same weights."""
        saved = config_at(weights_at(self.path), trust_remote_code=self.trust_remote_code)
        scale = self.likelihood_scale or getattr(saved, SCALE_ENTRY, None)
        if scale is not None:
            per_token = getattr(saved, PER_TOKEN_ENTRY, False) if self.per_token is None else self.per_token
            return self._likelihood(scale, per_token)
        if self.per_token:
            raise ValueError(f"expected a likelihood to take per token, got a scalar head in {self.path}. Set per_token: null.")
        return self._head(_trained_pooling(saved))

    def _head(self, trained: Pooling | None) -> LastTokenReward | TokenSumReward:
        if trained is not None and self.pooling not in (None, trained):
            raise ValueError(f"expected pooling: {trained}, as {self.path} was trained, got {self.pooling}. Use null.")
        pooling: Pooling = trained or self.pooling or "last"
        attention = self.backend_selector()
        scalar = load_scalar(self.path, self.num_layers, trust_remote_code=self.trust_remote_code)
        model = HEADS[pooling](scalar.model, attention)
        if self.freeze_body:
            model.requires_grad_(False)
            head: nn.Linear = model.head
            head.requires_grad_(True)
        if self.lora is not None:
            model.add_adapters(self.lora, folder_of(self.path) if self.num_layers is None else None)
        self.prepare_layers(model.model)
        return model

    def _likelihood(self, scale: float, per_token: bool) -> LikelihoodReward:
        if self.freeze_body:
            raise ValueError("expected freeze_body: false with a likelihood as reward, got true: it has no head to train alone.")
        if self.pooling is not None or self.num_layers is not None:
            raise ValueError(
                f"expected pooling: null and num_layers: null with a likelihood as reward, got {self.pooling} and "
                f"{self.num_layers}: it is read by the output layer, over all layers. Leave them out, or take a scalar head."
            )
        options = {option.name: getattr(self, option.name) for option in fields(LayerOptions)}
        recipe = PretrainedPolicy(path=self.path, trust_remote_code=self.trust_remote_code, lora=self.lora, **options)
        return LikelihoodReward(recipe.build(), scale, per_token)
