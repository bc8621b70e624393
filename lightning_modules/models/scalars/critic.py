"""Critics: the expected reward from each token on, with a body of their own or on the policy's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from typing_extensions import override

from datamodules.contracts.batches import CompletionBatch
from lightning_modules.models.adapters.lora import LoraSpec
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.checks.limits import ModelLimits
from lightning_modules.models.layers.layer_options import LayerOptions
from lightning_modules.models.policy import Policy
from lightning_modules.models.scalars.scalar_model import POOLING_ENTRY, ScalarModel, in_float32, load_scalar, scalar_over
from lightning_modules.models.sharding import AS_HELD, Gathering, Shardable, shard
from lightning_modules.token_stats import TokenStats


class Critic(Shardable):
    """V_t: what is still to come before token t is chosen."""

    limits: ModelLimits | None = None
    """What its body can read, where it has one of its own."""

    @abstractmethod
    def forward(self, batch: CompletionBatch, stats: TokenStats | None) -> Tensor:
        """`[K]` values in units of reward, from the same context that predicts each token."""

    @override
    def shard(self, mesh: DeviceMesh, gathering: Gathering = AS_HELD) -> None:
        """Spread parameters, gradients and optimizer states over the ranks of `mesh` (FSDP2), in place."""
        shard(self, mesh, (), gathering)


class CriticSpec(ABC):
    """A recipe for a critic. Subclasses are frozen dataclasses, so that a config names them by `class_path`."""

    @abstractmethod
    def build(self, policy: Policy) -> Critic:
        """A critic of the policy; every value is 0 where nothing was trained before."""


class OwnBodyCritic(Critic):
    """A transformer of its own.

    Args:
        model: one number a row.
    """

    def __init__(self, model: ScalarModel) -> None:
        super().__init__()
        self.model = model
        self.limits = model.limits

    @override
    def forward(self, batch: CompletionBatch, stats: TokenStats | None) -> Tensor:
        values: Tensor = self.model(batch, batch.target_index)
        return values

    @override
    def shard(self, mesh: DeviceMesh, gathering: Gathering = AS_HELD) -> None:
        self.model.shard(mesh, gathering)


class SharedBodyCritic(Critic):
    """A perceptron over the policy's last hidden states; its gradient stops there, so that it does not move the policy.

    Args:
        hidden_size: H of the policy.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body = nn.Linear(hidden_size, hidden_size)
        self.head = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @override
    def forward(self, batch: CompletionBatch, stats: TokenStats | None) -> Tensor:
        assert stats is not None, "the module hands over what the policy computed"
        assert stats.hidden is not None, "checked when it was built"
        return in_float32(self.head, in_float32(self.body, stats.hidden).tanh()).squeeze(1).float().clone()


@dataclass(frozen=True)
class OwnBody(LayerOptions, CriticSpec):
    """A critic with a body of its own."""

    path: str | None = None
    """Where its weights start: a reward model (with its head, unless that is read at every token) or a causal LM; a copy of the
    policy by default."""
    trust_remote_code: bool = False
    """Run the Python files that come with those weights, with all your rights (see `PretrainedPolicy`): read them first."""
    lora: LoraSpec | None = None
    """Train low-rank adapters and the head, and leave the body as it is."""

    @override
    def build(self, policy: Policy) -> OwnBodyCritic:
        """Load or copy the body.

        Raises:
            ValueError: if its vocabulary is not the policy's.
        """
        attention = self.backend_selector()
        if self.path is not None:
            model = load_scalar(self.path, trust_remote_code=self.trust_remote_code)
            if getattr(model.model.config, POOLING_ENTRY, "last") != "last":
                # A head whose outputs are added up to a reward does not predict the reward that is still to come.
                nn.init.zeros_(model.head.weight)
        elif isinstance(policy, CausalLMPolicy):
            model = scalar_over(policy.model.get_decoder())
        else:
            raise ValueError(f"expected a path for the critic's body, got null: {type(policy).__name__} has none to copy.")
        size = model.model.get_input_embeddings().num_embeddings
        if size != policy.vocab_size:
            raise ValueError(
                f"expected a critic over the policy's {policy.vocab_size} tokens, got one over {size} ({self.path}). Both read "
                "the same token ids: choose a critic with the policy's tokenizer."
            )
        if self.lora is not None:
            model.add_adapters(self.lora)
        model.attention = attention
        self.prepare_layers(model.model)
        return OwnBodyCritic(model)


@dataclass(frozen=True)
class SharedBody(CriticSpec):
    """A critic on the policy's body."""

    @override
    def build(self, policy: Policy) -> SharedBodyCritic:
        """A new head.

        Raises:
            ValueError: if the policy shows no hidden states.
        """
        if not isinstance(policy, CausalLMPolicy):
            raise ValueError(
                f"expected a causal LM under a shared critic, got {type(policy).__name__}. Give the critic an OwnBody."
            )
        return SharedBodyCritic(int(policy.model.config.get_text_config().hidden_size))
