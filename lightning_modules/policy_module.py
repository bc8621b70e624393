"""The base of modules that train a policy: the policy, its sampling, and its pass over the probe bank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import torch
from typing_extensions import override

from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.prompts import PromptBatch
from datamodules.contracts.stores import ProbeStore, data_of, require
from lightning_modules.models.adapters.adapted_base import base_of_adapted
from lightning_modules.models.policy import OnProgress, Policy, PolicySpec
from lightning_modules.models.sharding import Shardable, gathers
from lightning_modules.optimization.precision import gathering_of
from lightning_modules.references.frozen import frozen
from lightning_modules.step_output import AnswersOutput, EvalStepOutput
from lightning_modules.token_stats import TokenStats
from lightning_modules.trained import LRSchedulerCallable, OptimizerCallable, TrainedModule


class PolicyModule(TrainedModule):
    """A policy that is trained, sampled and watched; a subclass says how a step goes.

    Args:
        policy: recipe of the model to train.
        optimizer: builds the optimizer from the parameters that require a gradient.
        lr_scheduler: builds a schedule that is stepped once per optimizer step; constant by default.
    """

    policy: Policy
    starts_whole = False
    """Whether `on_policy_built` reads whole weights, of which a critic is made."""
    on_sampling_progress: OnProgress | None = None
    """Told how far the batch in hand has come while responses are drawn (`callbacks.answers.sampling_bar`)."""

    def __init__(self, policy: PolicySpec, optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable | None = None) -> None:
        super().__init__(optimizer, lr_scheduler)
        self.policy_spec = policy
        self._sampling = ExitStack()
        self._probe_memo: tuple[int, Policy, list[tuple[CompletionBatch, TokenStats]]] | None = None

    @override
    def configure_model(self) -> None:
        if not hasattr(self, "policy"):
            self._build()
        # Not once: another stage, or another fit, brings other data.
        self.require_readable(self.policy.limits)

    def _build(self) -> None:
        # Lightning makes the accelerator the default device here: seeds draw the same weights on the host, wherever they go then.
        with torch.device("cpu"):
            self.policy = self._sharded_from_the_start() or self.policy_spec.build()
            self.on_policy_built()
        self.spread(model for model in self.trained_models() if not gathers(model))

    def _sharded_from_the_start(self) -> Policy | None:
        """The policy, where the strategy shards, its recipe reads parts of files, and nothing is made of the whole."""
        if self.device_mesh is None or self.starts_whole:
            return None
        return self.policy_spec.build_sharded(self.device_mesh["data_parallel"], gathering_of(self.trainer.precision_plugin))

    def trained_models(self) -> Sequence[Shardable]:
        """What the optimizer moves, model by model."""
        return [self.policy]

    def on_policy_built(self) -> None:
        """Called once, when the policy has its starting weights, before a checkpoint is restored; whole, where `starts_whole`."""

    def reference_policy(self) -> Policy:
        """What changes count from, ready to score: the policy as it starts. A second copy of the weights, but under adapters."""
        base = None if gathers(self.policy) else base_of_adapted(self.policy)
        return base or frozen(self.policy_spec, self.trainer.precision_plugin)

    @override
    def on_fit_start(self) -> None:
        # Since 2.2 `fit` leaves modules in the mode they came in; from_pretrained hands them over in eval mode.
        self.policy.train()

    @override
    def test_step(self, batch: PromptBatch, batch_idx: int) -> AnswersOutput | EvalStepOutput:
        """Answers prompts: of a task, what the policy says is examined, not what it thinks likely."""
        return {"completions": self.predict_step(batch, batch_idx)}

    @override
    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[list[list[int]]]:
        """Token ids of `num_samples` completions of each prompt; one that was not cut ends with the end of sequence.

        Raises:
            ValueError: if the data has completions instead of prompts to answer.
        """
        if not isinstance(batch, PromptBatch):
            raise ValueError(
                "expected prompts to answer, got rows that have their responses: `predict` draws new ones. Use SamplingDataModule, "
                "as configs/experiment/arithmetic_sample.yaml does; `validate` measures a model on pairs."
            )
        # Until the end of the loop, for ranks may have different numbers of batches.
        self._sampling.enter_context(self.policy.gathered())
        if not batch.prompts:
            return []
        prompts = [prompt.prompt_ids for prompt in batch.prompts]
        groups = self.policy.generate(
            prompts,
            batch.sampling,
            num_samples=batch.num_samples,
            eos_token_id=batch.eos_token_id,
            seed=batch.seed,
            on_progress=self.on_sampling_progress,
        )
        return [[list(completion.token_ids) for completion in group] for group in groups]

    @override
    def on_predict_end(self) -> None:
        self._sampling.close()

    @override
    def on_test_end(self) -> None:
        self._sampling.close()

    def probe_evaluation(self) -> list[tuple[CompletionBatch, TokenStats]]:
        """The frozen probe bank under the policy as it is now, without gradient; evaluated once per step however many ask."""
        step, memo = self.trainer.global_step, self._probe_memo
        if memo is None or memo[0] != step or memo[1] is not self.policy:
            memo = self._probe_memo = (step, self.policy, list(self._evaluate_probes()))
        return memo[2]

    def as_probe(self, batch: CompletionBatch) -> CompletionBatch:
        """A batch of the probe bank with what the objective reads beside it; itself by default."""
        return batch

    def _evaluate_probes(self) -> Iterator[tuple[CompletionBatch, TokenStats]]:
        datamodule = data_of(self.trainer)
        mode = self.policy.training
        self.policy.eval()
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            for batch in () if datamodule is None else require(datamodule, ProbeStore).probe_batches():
                on_device = self.as_probe(batch.to(self.device))
                yield on_device, self.policy(on_device)
        self.policy.train(mode)
