"""What every stage shares: the policy, the optimizer, the step, and how metrics are averaged and logged."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypedDict, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from datamodules.batches import CompletionBatch, ProbeStore
from datamodules.prompts import PromptBatch
from lightning_modules.means import CountedMeans
from lightning_modules.models.policy import Policy, PolicySpec, SamplingParameters
from lightning_modules.models.sharding import whole
from lightning_modules.resuming import Hyperparameters, apply_changes, hyperparameters
from lightning_modules.step_output import StepOutput
from lightning_modules.token_stats import TokenStats

OptimizerCallable = Callable[[Iterable[Parameter]], Optimizer]
LRSchedulerCallable = Callable[[Optimizer], LRScheduler]


class TrainingStepOutput(TypedDict):
    """What `training_step` gives Lightning, and the callbacks after it."""

    loss: Tensor
    step: StepOutput


class EvalStepOutput(TypedDict):
    """What `validation_step` and `test_step` give Lightning, and the callbacks after it."""

    step: StepOutput


class BaseModule(LightningModule):
    """A policy trained on CompletionBatches; subclasses say what the loss is and which metrics it has.

    `save_hyperparameters` is left out on purpose: a resumed run takes its configuration from the config and the command
    line, never from the checkpoint.

    Args:
        policy: recipe of the model to train.
        optimizer: builds the optimizer from the parameters that require a gradient.
        lr_scheduler: builds a schedule that is stepped once per optimizer step; constant by default.
    """

    policy: Policy

    def __init__(self, policy: PolicySpec, optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable | None = None) -> None:
        super().__init__()
        self.policy_spec = policy
        self._make_optimizer = optimizer
        self._make_scheduler = lr_scheduler
        self._train_means = CountedMeans()
        self._eval_means = CountedMeans()
        self._configured: Hyperparameters = []
        self._configured_then: Hyperparameters = []
        self._probe_memo: tuple[int, list[tuple[CompletionBatch, TokenStats]]] | None = None

    @abstractmethod
    def objective(self, batch: CompletionBatch, stats: TokenStats) -> StepOutput:
        """The loss of one microbatch as a differentiable sum over its units, with what the callbacks read."""

    @abstractmethod
    def metrics(self, output: StepOutput, batch: CompletionBatch) -> dict[str, Tensor]:
        """`{name: [n] per-unit values}`, detached; their means over steps, microbatches and ranks are logged."""

    @override
    def configure_model(self) -> None:
        if hasattr(self, "policy"):
            return
        self.policy = self.policy_spec.build()
        self.on_policy_built()
        # Set by ModelParallelStrategy alone.
        if self.device_mesh is not None:
            self.policy.shard(self.device_mesh["data_parallel"])

    def on_policy_built(self) -> None:
        """Called once, when the policy has its starting weights, whole on every rank, before a checkpoint is restored."""

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self._make_optimizer([p for p in self.parameters() if p.requires_grad])
        self._configured = hyperparameters(optimizer)
        if self._make_scheduler is None:
            return optimizer
        # Lightning's default interval is the epoch; schedules here count optimizer steps.
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._make_scheduler(optimizer), "interval": "step"}}

    @override
    def on_fit_start(self) -> None:
        # Since 2.2 `fit` leaves modules in the mode they came in; from_pretrained hands them over in eval mode.
        self.policy.train()

    @override
    def on_train_start(self) -> None:
        # on_fit_start would be too early: the optimizer is restored between the two.
        if self._configured_then:
            is_scheduled = self._make_scheduler is not None
            apply_changes(self.trainer.optimizers[0], self._configured_then, self._configured, is_scheduled=is_scheduled)

    @override
    def training_step(self, batch: CompletionBatch, batch_idx: int) -> TrainingStepOutput:
        output = self.objective(batch, self.policy(batch))
        _retain_gradients(output)
        self._train_means.update(self._prefixed("train", output, batch))
        return {"loss": output.loss_sum * output.gradient_scale, "step": output}

    @override
    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        # Here and not in on_train_batch_end: Lightning writes checkpoints before it calls that hook of the module, and
        # a run resumed from one would average over other steps. The step is counted after this hook.
        step = self.trainer.global_step + 1
        if step % self._log_every_n_steps() == 0:
            self._log_train_means(step)

    @override
    def validation_step(self, batch: CompletionBatch, batch_idx: int) -> EvalStepOutput:
        return {"step": self._eval_step("val", batch)}

    @override
    def test_step(self, batch: CompletionBatch, batch_idx: int) -> EvalStepOutput:
        return {"step": self._eval_step("test", batch)}

    @override
    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[list[list[int]]]:
        """Token ids of `num_samples` completions of each prompt; one that was not cut ends with the end of sequence."""
        parameters = SamplingParameters(batch.max_new_tokens, batch.temperature, batch.top_p)
        prompts = [prompt.prompt_ids for prompt in batch.prompts]
        groups = self.policy.generate(
            prompts, parameters, num_samples=batch.num_samples, eos_token_id=batch.eos_token_id, seed=batch.seed
        )
        return [[list(completion.token_ids) for completion in group] for group in groups]

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_eval_means()

    @override
    def on_test_epoch_end(self) -> None:
        self._log_eval_means()

    @override
    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning's own clipping refuses fused optimizers under mixed precision (issue 21435).
        if gradient_clip_algorithm not in (None, "norm"):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradient_clip_val:
            norm = torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
        elif (self.trainer.global_step + 1) % self._log_every_n_steps() == 0:
            norm = torch.nn.utils.get_total_norm([cast(Tensor, p.grad) for p in parameters])
        else:
            return
        self._train_means.update({"train/grad_norm": whole(norm).reshape(1)})

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["train_means"] = self._train_means.state_dict()
        checkpoint["optimizer_config"] = self._configured

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._configured_then = checkpoint["optimizer_config"]
        keep = self.trainer.is_global_zero
        self._train_means.load_state_dict(checkpoint["train_means"], device=self.device, keep=keep)

    def probe_evaluation(self) -> list[tuple[CompletionBatch, TokenStats]]:
        """The frozen probe bank under the policy as it is now, without gradient; evaluated once per step however many ask."""
        step = self.trainer.global_step
        if self._probe_memo is None or self._probe_memo[0] != step:
            self._probe_memo = (step, list(self._evaluate_probes()))
        return self._probe_memo[1]

    def _evaluate_probes(self) -> Iterator[tuple[CompletionBatch, TokenStats]]:
        datamodule = cast("ProbeStore | None", self.trainer.datamodule)  # type: ignore[attr-defined]
        mode = self.policy.training
        self.policy.eval()
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            for batch in datamodule.probe_batches() if datamodule is not None else ():
                on_device = batch.to(self.device)
                yield on_device, self.policy(on_device)
        self.policy.train(mode)

    def _log_every_n_steps(self) -> int:
        return int(self.trainer.log_every_n_steps)  # type: ignore[attr-defined]

    def _eval_step(self, stage: str, batch: CompletionBatch) -> StepOutput:
        output = self.objective(batch, self.policy(batch))
        self._eval_means.update(self._prefixed(stage, output, batch))
        return output

    def _prefixed(self, stage: str, output: StepOutput, batch: CompletionBatch) -> dict[str, Tensor]:
        return {f"{stage}/{name}": values for name, values in self.metrics(output, batch).items()}

    def _log_train_means(self, step: int) -> None:
        means = self._train_means.compute()
        self._train_means.reset()
        loss = means["train/loss"]
        if not math.isfinite(loss):
            raise ValueError(
                f"expected a finite training loss, got {loss} around step {step}. "
                "Lower the learning rate, or look at the last rows of the run's diagnostics for where it began."
            )
        # Straight to the loggers, so that a point stands at the step it was measured at (self.log would put it one before).
        for logger in self.trainer.loggers:
            logger.log_metrics(means, step=step)
        self.log_dict(means, logger=False)
        self.log("loss", loss, prog_bar=True, logger=False)

    def _log_eval_means(self) -> None:
        # compute() has already reduced over ranks.
        self.log_dict(self._eval_means.compute())
        self._eval_means.reset()


def _retain_gradients(output: StepOutput) -> None:
    output.stats.logps.retain_grad()
    if output.pairs is not None:
        output.pairs.sequences.policy_chosen.retain_grad()
        output.pairs.sequences.policy_rejected.retain_grad()
