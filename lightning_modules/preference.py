"""The DPO family: one module, the loss injected."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from torch import Tensor
from typing_extensions import override

from datamodules.batches import CompletionBatch, ReferenceStore
from lightning_modules.frozen import frozen
from lightning_modules.losses.base import PreferenceLoss, SequenceLogps
from lightning_modules.models.policy import Policy, PolicySpec
from lightning_modules.objective_module import ObjectiveModule
from lightning_modules.reference import ReferenceScorer
from lightning_modules.step_output import PairOutput, StepOutput
from lightning_modules.token_stats import TokenStats
from lightning_modules.trained import LRSchedulerCallable, OptimizerCallable


class PreferenceModule(ObjectiveModule):
    """Train a policy on pairs with any PreferenceLoss; the loss is the mean over the pairs of the whole optimizer step.

    Args:
        policy: recipe of the model to train.
        loss: the objective, by class_path.
        optimizer: builds the optimizer from the parameters that require a gradient.
        lr_scheduler: builds a schedule that is stepped once per optimizer step; constant by default.
        reference: recipe of the frozen reference; the policy as it starts by default.
        cache_dir: folder of cached reference log-probs.
    """

    def __init__(
        self,
        policy: PolicySpec,
        loss: PreferenceLoss,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None = None,
        reference: PolicySpec | None = None,
        cache_dir: str = ".cache/prefscope",
    ) -> None:
        super().__init__(policy, optimizer, lr_scheduler)
        self.loss = loss
        self._reference_spec = reference or policy
        self._scorer = ReferenceScorer(self._reference_spec, Path(cache_dir))
        self._policy_is_reference = reference is None

    @override
    def on_policy_built(self) -> None:
        # The policy starts as the reference: spare building a second one to know its key.
        if self._policy_is_reference and self.loss.needs_reference:
            self._scorer.fingerprint = self.policy.fingerprint()

    @override
    def reference_policy(self) -> Policy:
        return frozen(self._reference_spec, self.trainer.precision_plugin)

    @override
    def on_fit_start(self) -> None:
        super().on_fit_start()
        self._ensure_reference()

    @override
    def made_with(self) -> dict[str, str]:
        known = self._scorer.fingerprint
        return super().made_with() | ({"reference": known} if self.loss.needs_reference and known else {})

    @override
    def on_validation_start(self) -> None:
        self._ensure_reference()

    @override
    def on_test_start(self) -> None:
        self._ensure_reference()

    @override
    def objective(self, batch: CompletionBatch, stats: TokenStats) -> StepOutput:
        sequences = self._sequences(batch, stats)
        losses, chosen_rewards, rejected_rewards = self.loss(sequences)
        return StepOutput(
            stats=stats,
            loss_sum=losses.sum(),
            num_units=losses.shape[0],
            gradient_scale=batch.share.prompt_scale(),
            accumulation=self.trainer.accumulate_grad_batches,
            pairs=PairOutput(sequences, losses.detach(), chosen_rewards, rejected_rewards, self.loss.is_logistic),
        )

    @override
    def metrics(self, output: StepOutput, batch: CompletionBatch) -> dict[str, Tensor]:
        pairs = output.pairs
        assert pairs is not None, "objective fills the pairs"
        chosen, rejected = pairs.sequences.policy_chosen.detach(), pairs.sequences.policy_rejected.detach()
        return {
            "loss": pairs.losses,
            "rewards/chosen": pairs.chosen_rewards,
            "rewards/rejected": pairs.rejected_rewards,
            "rewards/margins": pairs.chosen_rewards - pairs.rejected_rewards,
            "rewards/accuracies": pairs.chosen_rewards > pairs.rejected_rewards,
            "logps/chosen": chosen,
            "logps/rejected": rejected,
            "logps_per_token/chosen": chosen / pairs.sequences.chosen_lengths,
            "logps_per_token/rejected": rejected / pairs.sequences.rejected_lengths,
            "entropy": output.stats.entropy,
        }

    def _sequences(self, batch: CompletionBatch, stats: TokenStats) -> SequenceLogps:
        if batch.pairs.shape[0] != batch.num_prompts:
            raise ValueError(
                f"expected a chosen and a rejected completion for each of {batch.num_prompts} prompts, "
                f"got {batch.pairs.shape[0]} pairs. Use a preference data module, or train with SFTModule."
            )
        self.loss.require_score_gaps(batch.pair_score_gaps)
        if self.loss.needs_reference and batch.reference_logps is None:
            raise ValueError(
                f"expected reference log-probs of step {self.trainer.global_step}, got none: the run reads other pairs "
                "than its max_steps, max_epochs and limits planned. Set them for the whole run before it starts."
            )
        chosen, rejected = batch.pairs.unbind(1)
        logps, reference, scores = stats.sum_by_sequence(), batch.reference_logps, batch.scores
        return SequenceLogps(
            policy_chosen=logps[chosen],
            policy_rejected=logps[rejected],
            chosen_lengths=batch.lengths[chosen],
            rejected_lengths=batch.lengths[rejected],
            reference_chosen=None if reference is None else reference[chosen],
            reference_rejected=None if reference is None else reference[rejected],
            chosen_scores=None if scores is None else scores[chosen],
            rejected_scores=None if scores is None else scores[rejected],
        )

    def _ensure_reference(self) -> None:
        if not self.loss.needs_reference:
            return
        datamodule = cast("ReferenceStore | None", self.trainer.datamodule)  # type: ignore[attr-defined]
        if datamodule is None:
            raise ValueError(
                f"expected a data module, got bare data loaders: {type(self.loss).__name__} needs reference log-probs, which are "
                "computed from the data module and cached. Pass one of datamodules/ to the trainer."
            )
        self._scorer.attach(datamodule, device=self.device, precision=self.trainer.precision_plugin)
