"""The base of modules that train a policy on batches of completions: the step, and its logged metrics."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor
from typing_extensions import override

from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.prompts import PromptBatch
from lightning_modules.policy_module import PolicyModule
from lightning_modules.step_output import AnswersOutput, EvalStepOutput, StepOutput, TrainingStepOutput
from lightning_modules.token_stats import TokenStats


class ObjectiveModule(PolicyModule):
    """A policy trained on CompletionBatches; subclasses say what the loss is and which metrics it has."""

    @abstractmethod
    def objective(self, batch: CompletionBatch, stats: TokenStats) -> StepOutput:
        """The loss of one microbatch as a differentiable sum over its units, with what the callbacks read."""

    @abstractmethod
    def metrics(self, output: StepOutput, batch: CompletionBatch) -> dict[str, Tensor]:
        """`{name: [n] per-unit values}`, detached; their means over steps, microbatches and ranks are logged."""

    @override
    def training_step(self, batch: CompletionBatch, batch_idx: int) -> TrainingStepOutput:
        output = self.objective(batch, self.policy(batch))
        output.retain_gradients()
        counts = not batch.share.idle
        self._train_means.update(self._prefixed("train", output, batch), counts=counts)
        loss = output.loss_sum * output.gradient_scale
        balance_loss = output.stats.balance_loss
        if balance_loss is not None:
            self._train_means.update({"train/balance_loss": balance_loss.detach().reshape(1)}, counts=counts)
            loss = loss + balance_loss * counts
        return {"loss": loss, "step": output}

    @override
    def validation_step(self, batch: CompletionBatch, batch_idx: int) -> EvalStepOutput:
        return {"step": self._eval_step("val", batch)}

    @override
    def test_step(self, batch: CompletionBatch | PromptBatch, batch_idx: int) -> AnswersOutput | EvalStepOutput:
        """Scores completions, or answers prompts."""
        if isinstance(batch, PromptBatch):
            return super().test_step(batch, batch_idx)
        return {"step": self._eval_step("test", batch)}

    def _eval_step(self, stage: str, batch: CompletionBatch) -> StepOutput:
        output = self.objective(batch, self.policy(batch))
        self._eval_means.update(self._prefixed(stage, output, batch))
        return output

    def _prefixed(self, stage: str, output: StepOutput, batch: CompletionBatch) -> dict[str, Tensor]:
        return {f"{stage}/{name}": values for name, values in self.metrics(output, batch).items()}
