"""Contracts that callbacks may ask of a module, which they never import (`require` of datamodules.contracts.stores checks one)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor, device

from datamodules.contracts.batches import CompletionBatch
from lightning_modules.models.policy import OnProgress, Policy, PolicySpec
from lightning_modules.step_output import StepOutput
from lightning_modules.token_stats import TokenStats

if TYPE_CHECKING:
    from lightning_modules.losses.base import Loss
    from lightning_modules.models.scalars.reward_model import RewardModel


class HasPolicy(Protocol):
    """A module that trains a policy (PreferenceModule, SFTModule, OnPolicyPreferenceModule, PPOModule)."""

    policy: Policy
    on_sampling_progress: OnProgress | None

    @property
    def device(self) -> device:
        """Where the policy is."""

    def require_finite(self) -> None:
        """Refuse weights, or steps, that are not finite."""

    def reference_policy(self) -> Policy:
        """What changes count from, ready to score; a second copy of the weights."""

    def probe_evaluation(self) -> list[tuple[CompletionBatch, TokenStats]]:
        """The frozen probe bank under the policy as it is now; evaluated once per step however many ask."""


class HasObjective(HasPolicy, Protocol):
    """A module with a loss over batches of completions (PreferenceModule, SFTModule, OnPolicyPreferenceModule)."""

    def objective(self, batch: CompletionBatch, stats: TokenStats) -> StepOutput:
        """The loss of one microbatch as a differentiable sum over its units, with what the callbacks read."""

    def metrics(self, output: StepOutput, batch: CompletionBatch) -> dict[str, Tensor]:
        """`{name: [n] per-unit values}` of the objective."""


class HasLoss(HasObjective, Protocol):
    """A module that trains with one of lightning_modules/losses (PreferenceModule, OnPolicyPreferenceModule)."""

    loss: Loss


class HasCheckpoints(HasLoss, Protocol):
    """A module of checkpoints that stand (DiagnosisModule)."""

    reference_spec: PolicySpec
    series: dict[int, PolicySpec]
    """`{step: recipe}` of the checkpoints, the module's own policy last."""

    def stand_in(self, spec: PolicySpec) -> None:
        """Let another policy be the module's own."""


class HasRewardModel(Protocol):
    """A module that trains a reward model (RewardModule)."""

    reward_model: RewardModel

    def require_finite(self) -> None:
        """Refuse weights, or steps, that are not finite."""
