"""The module of the DPO family: one training step for every preference loss, which the config chooses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import override

from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.stores import ReferenceStore, SplitStore, data_of, meets, require
from lightning_modules.losses.base import Loss, Reads
from lightning_modules.losses.completions import Completions, Sums, SumsOfStep
from lightning_modules.models.online_reference import OnlineReference, recipe_of
from lightning_modules.models.policy import Policy, PolicySpec
from lightning_modules.objective_module import ObjectiveModule
from lightning_modules.references.frozen import FrozenPolicy, frozen
from lightning_modules.references.log_probs import ReferenceScorer
from lightning_modules.rewards.checks import require_fitting_models
from lightning_modules.step_output import LabelledOutput, PairOutput, StepOutput, TrainingStepOutput
from lightning_modules.steps.microbatches import completions_of, sums_of
from lightning_modules.steps.preference_checks import require_online, require_pairs, require_reference, require_single
from lightning_modules.steps.preference_metrics import labelled_metrics, pair_metrics
from lightning_modules.steps.whole_evaluation import WholeEvaluation
from lightning_modules.steps.whole_step import WholeStep
from lightning_modules.token_stats import TokenStats
from lightning_modules.trained import LRSchedulerCallable, OptimizerCallable


class Stage(Enum):
    """Whose batch the objective is asked of."""

    TRAINING = "a part of an optimizer step"
    EVALUATION = "a batch of validation or test"


class PreferenceModule(ObjectiveModule):
    """Train a policy with any Loss; the loss is the mean over the prompts of the whole optimizer step.

    A prompt has a pair, a pair and further scored completions, or one labelled completion, as the loss asks.

    Args:
        policy: recipe of the model to train.
        loss: the objective, by class_path.
        optimizer: builds the optimizer from the parameters that require a gradient.
        lr_scheduler: builds a schedule that is stepped once per optimizer step; constant by default.
        reference: recipe of the frozen reference; the policy as it starts by default. `online` asks it in every step
            (`OnlineReference`); otherwise it scores the data once, before the first step.
        cache_dir: folder of cached reference log-probs.
    """

    def __init__(
        self,
        policy: PolicySpec,
        loss: Loss,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None = None,
        reference: PolicySpec | None = None,
        cache_dir: str = ".cache/prefscope",
    ) -> None:
        super().__init__(policy, optimizer, lr_scheduler)
        self.loss = loss
        recipe = recipe_of(reference)
        self._reference_spec = recipe or policy
        self._scorer = ReferenceScorer(self._reference_spec, Path(cache_dir))
        self._policy_is_reference = recipe is None
        is_online = isinstance(reference, OnlineReference) and loss.needs_reference
        self.online_reference = FrozenPolicy(self._reference_spec, is_start=recipe is None) if is_online else None
        self._is_prepared = False
        if is_online:
            # Of this one alone: Lightning warns of every class with this hook.
            self.on_after_batch_transfer = self._transferred  # type: ignore[method-assign]
        self._whole_step, self._whole_evaluation = WholeStep(), WholeEvaluation()
        self._stage: Stage | None = None

    @override
    def on_policy_built(self) -> None:
        # The policy starts as the reference: spare building a second one to know its key.
        if self._policy_is_reference and self.loss.needs_reference:
            self._scorer.fingerprint = self.policy.fingerprint()
        if self.online_reference is not None:
            self.online_reference.share(self.policy, is_sharded=self.device_mesh is not None)

    @override
    def reference_policy(self) -> Policy:
        if self._policy_is_reference:
            return super().reference_policy()
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
    def training_step(self, batch: CompletionBatch, batch_idx: int) -> TrainingStepOutput:
        self._require(batch)
        if self.loss.needs_step and batch.share.microbatches > 1:
            self._begin_step(batch, batch_idx)
        with self._at_step(Stage.TRAINING):
            return super().training_step(batch, batch_idx)

    @override
    def objective(self, batch: CompletionBatch, stats: TokenStats) -> StepOutput:
        completions = self._completions(batch, stats)
        if self._is_part_of_evaluation:
            self._whole_evaluation.add(completions)
        losses, chosen_rewards, rejected_rewards = self.loss.of(completions)
        pairs, labelled = None, None
        if self.loss.reads is Reads.COMPLETIONS:
            sides = completions.sums.of_kind("chosen"), completions.sums.of_kind("rejected")
            labelled = LabelledOutput(losses.detach(), *sides, chosen_rewards, rejected_rewards)
        else:
            rewards = chosen_rewards, rejected_rewards
            pairs = PairOutput(completions.pair_sums, losses.detach(), *rewards, self.loss.is_logistic, self.loss.reads)
        return StepOutput(
            stats=stats,
            loss_sum=losses.sum(),
            num_units=losses.shape[0],
            gradient_scale=batch.share.prompt_scale(),
            accumulation=self.trainer.accumulate_grad_batches,
            pairs=pairs,
            labelled=labelled,
        )

    @override
    def metrics(self, output: StepOutput, batch: CompletionBatch) -> dict[str, Tensor]:
        of = pair_metrics(output.pairs) if output.pairs is not None else labelled_metrics(output, batch)
        if self._is_part_of_evaluation:
            del of["loss"]
        return {**of, "entropy": output.stats.entropy}

    def step_batches(self, batch: CompletionBatch) -> Iterator[CompletionBatch]:
        """The microbatches of this rank in the step that `batch` begins.

        Raises:
            ValueError: if they are not known before they come.
        """
        datamodule = data_of(self.trainer)
        if not batch.step_examples or not meets(datamodule, SplitStore):
            raise ValueError(
                f"expected a step whose microbatches are planned, because {type(self.loss).__name__} reads all of it before the "
                f"first backward pass, got batches of {type(datamodule).__name__}. Set trainer.accumulate_grad_batches to 1."
            )
        for examples in batch.step_examples:
            yield self._with_reference(datamodule.packed("train", examples, batch.share).to(self.device))

    @override
    def _eval_step(self, stage: str, batch: CompletionBatch) -> StepOutput:
        self._require(batch)
        with self._at_step(Stage.EVALUATION):
            return super()._eval_step(stage, batch)

    @override
    def _log_eval_means(self, stage: str, *, logger: bool | None = None) -> None:
        if self.loss.needs_step:
            self._eval_means.update({f"{stage}/loss": self._whole_evaluation.losses(self.loss).to(self.device)})
        super()._log_eval_means(stage, logger=logger)

    @property
    def _is_part_of_evaluation(self) -> bool:
        """Whether what is at hand is a batch of an evaluation, over which the loss is computed when it has ended."""
        return self.loss.needs_step and self._stage is Stage.EVALUATION

    def _require(self, batch: CompletionBatch) -> None:
        """Of a batch of a step; what is looked at outside steps, as the probe bank is, may have both sides of a pair."""
        if self.loss.reads is Reads.COMPLETIONS:
            require_single(batch, type(self.loss).__name__)
        self.loss.require_kinds(batch.kinds)

    def _begin_step(self, batch: CompletionBatch, batch_idx: int) -> None:
        accumulation = self.trainer.accumulate_grad_batches
        if accumulation == 1:
            self._whole_step.expect()
        elif batch_idx % accumulation == 0:
            self._whole_step.begin(self.step_batches(batch), lambda part: sums_of(part, self.policy(part)))

    def _completions(self, batch: CompletionBatch, stats: TokenStats) -> Completions:
        if self.loss.reads is not Reads.COMPLETIONS:
            require_pairs(batch)
        self.loss.require_score_gaps(batch.pair_score_gaps)
        if self.loss.needs_reference:
            require_reference(batch, self.trainer.global_step)
        sums = sums_of(batch, stats)
        return completions_of(batch, stats, sums, self._step_of(sums, batch) if self.loss.needs_step else None)

    def _step_of(self, sums: Sums, batch: CompletionBatch) -> SumsOfStep | None:
        """What a microbatch is a part of; None where it stands for a step."""
        if self._stage is Stage.TRAINING:
            return self._whole_step.part(sums, batch.share)
        # Single completions that are looked at (the probe bank's) have nothing mismatched beside them, nor the share of good ones.
        is_looked_at = self._stage is None and self.loss.reads is Reads.COMPLETIONS
        return self._whole_step.last(sums) if is_looked_at else None

    @contextmanager
    def _at_step(self, stage: Stage) -> Iterator[None]:
        self._stage = stage
        try:
            yield
        finally:
            self._stage = None

    def _transferred(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ANN401
        return self._with_reference(batch) if isinstance(batch, CompletionBatch) else batch

    def _with_reference(self, batch: CompletionBatch) -> CompletionBatch:
        if self.online_reference is None:
            return batch
        with self.trainer.precision_plugin.forward_context():
            return self.online_reference.answered(batch, with_states=self.loss.needs_distribution)

    @override
    def as_probe(self, batch: CompletionBatch) -> CompletionBatch:
        return self._with_reference(batch) if self.loss.needs_distribution else batch

    def _ensure_reference(self) -> None:
        if not self.loss.needs_reference:
            return
        require_online(self.loss, is_online=self.online_reference is not None)
        if self.online_reference is not None:
            return self._prepare_online(self.online_reference)
        store = require(data_of(self.trainer), ReferenceStore)
        self._scorer.attach(store, device=self.device, precision=self.trainer.precision_plugin)

    def _prepare_online(self, reference: FrozenPolicy) -> None:
        if not self._is_prepared:
            reference.use(self.trainer.precision_plugin)
            require_fitting_models(self.policy, reference.policy)
            if self.loss.needs_distribution:
                self.policy.compare_with(reference.policy)
            self.require_readable(reference.policy.limits)
            self._scorer.fingerprint = self._scorer.fingerprint or reference.policy.fingerprint()
            self._is_prepared = True
