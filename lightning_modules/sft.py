"""The module of supervised fine-tuning: next-token cross-entropy on completion tokens."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.stores import data_of
from lightning_modules.losses.token_gates import TokenGate
from lightning_modules.models.policy import PolicySpec
from lightning_modules.objective_module import ObjectiveModule
from lightning_modules.step_output import StepOutput
from lightning_modules.token_stats import TokenStats
from lightning_modules.trained import LRSchedulerCallable, OptimizerCallable


class SFTModule(ObjectiveModule):
    """Maximise the likelihood of every completion of the batch.

    L = -(1/T) sum_t log pi(y_t | x, y_<t), T = completion tokens of the whole optimizer step (nats per token).

    Args:
        policy: recipe of the model to train.
        optimizer: builds the optimizer from the parameters that require a gradient.
        lr_scheduler: builds a schedule that is stepped once per optimizer step; constant by default.
        gate: the loss of a token in place of -log pi, such as Renyi2Gate; `train/nll` is -log pi then.

    Raises:
        ValueError: at the start of a fit, if the data module holds pairs: the rejected side would be learned like the chosen one.
    """

    def __init__(
        self,
        policy: PolicySpec,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None = None,
        gate: TokenGate | None = None,
    ) -> None:
        super().__init__(policy, optimizer, lr_scheduler)
        self._gate = gate

    remedies = ("lower_rate", "weight_decay", "stop_here")

    @override
    def setup(self, stage: str) -> None:
        datamodule = data_of(self.trainer)
        if stage == "fit" and getattr(datamodule, "holds_rejected", False):
            raise ValueError(
                f"expected completions to learn, got the pairs of {type(datamodule).__name__}, whose rejected side would be "
                "learned too. Use datamodules.sft.SFTDataModule, which takes the chosen side, or train with PreferenceModule."
            )
        super().setup(stage)

    @override
    def objective(self, batch: CompletionBatch, stats: TokenStats) -> StepOutput:
        return StepOutput(
            stats=stats,
            loss_sum=self._losses(stats).sum(),
            num_units=batch.num_targets,
            gradient_scale=batch.share.target_scale(),
            accumulation=self.trainer.accumulate_grad_batches,
        )

    @override
    def metrics(self, output: StepOutput, batch: CompletionBatch) -> dict[str, Tensor]:
        gated = {} if self._gate is None else {"nll": -output.stats.logps}
        return {
            "loss": self._losses(output.stats),
            **gated,
            "entropy": output.stats.entropy,
            "mean_token_accuracy": output.stats.is_top1,
        }

    def _losses(self, stats: TokenStats) -> Tensor:
        return -stats.logps if self._gate is None else self._gate(stats.logps, stats.sum_sq_probs)
