"""The module that trains a reward model on pairs (paper Sec. 2.1, Eq. 3)."""

from __future__ import annotations

from typing import TypedDict

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryCalibrationError
from typing_extensions import override

from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.prompts import PromptBatch
from lightning_modules.losses.bradley_terry import BradleyTerry
from lightning_modules.models.scalars.reward_model import RewardModel, RewardModelSpec
from lightning_modules.reward_output import RewardOutput
from lightning_modules.steps.comparisons import comparisons
from lightning_modules.trained import LRSchedulerCallable, OptimizerCallable, TrainedModule

_NO_ANSWERS = "A reward model answers nothing: `validate` measures it on pairs, judges.reward_model.RewardModelJudge scores text."


class RewardStepOutput(TypedDict):
    """What `training_step` gives Lightning, and the callbacks after it."""

    loss: Tensor
    reward: RewardOutput


class RewardModule(TrainedModule):
    """Train a reward model; the loss is the mean over the prompts of the whole optimizer step.

    A prompt's loss is that of its pair, or the mean over all comparisons that its scored responses allow (`comparisons`). The
    accuracy and the calibration that are reported are of the pairs.

    Args:
        reward_model: recipe of the reward model.
        optimizer: builds the optimizer from the parameters that require a gradient.
        lr_scheduler: builds a schedule that is stepped once per optimizer step; constant by default.
        loss: Bradley-Terry, with margin and centring.
    """

    def __init__(
        self,
        reward_model: RewardModelSpec,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None = None,
        loss: BradleyTerry | None = None,
    ) -> None:
        super().__init__(optimizer, lr_scheduler)
        self.spec = reward_model
        self.loss = loss or BradleyTerry()
        self.accuracy = MeanMetric()
        self.calibration = BinaryCalibrationError(n_bins=10, norm="l1")

    remedies = ("lower_rate", "centring_term", "weight_decay", "stop_here")

    @override
    def configure_model(self) -> None:
        if not hasattr(self, "reward_model"):
            # As of a policy (ObjectiveModule): the same weights, whatever the device.
            with torch.device("cpu"):
                self.reward_model: RewardModel = self.spec.build()
            self.spread([self.reward_model])
        self.require_readable(self.reward_model.limits)

    @override
    def on_fit_start(self) -> None:
        self.reward_model.train()
        if self.reward_model.asks_for_balance:
            rank_zero_warn(
                "The reward model's configuration asks for a load-balancing loss (output_router_logits: true), and reward models "
                "are trained without it, as transformers' sequence classifiers are. freeze_body keeps routers as they are."
            )

    @override
    def training_step(self, batch: CompletionBatch, batch_idx: int) -> RewardStepOutput:
        output, loss_sum = self._output(batch)
        output.chosen.retain_grad()
        output.rejected.retain_grad()
        self._train_means.update({f"train/{name}": values for name, values in reward_metrics(output).items()})
        return {"loss": loss_sum * output.gradient_scale, "reward": output}

    @override
    def validation_step(self, batch: CompletionBatch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    @override
    def test_step(self, batch: CompletionBatch | PromptBatch, batch_idx: int) -> None:
        if isinstance(batch, PromptBatch):
            raise ValueError(f"expected pairs to score, got prompts to answer. {_NO_ANSWERS}")
        self._evaluate("test", batch)

    @override
    def predict_step(self, batch: object, batch_idx: int) -> None:
        raise ValueError(f"expected a policy under `predict`, got {type(self).__name__}. {_NO_ANSWERS}")

    @override
    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._log_metrics("val")

    @override
    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self._log_metrics("test")

    def _output(self, batch: CompletionBatch) -> tuple[RewardOutput, Tensor]:
        compared = comparisons(batch)
        if batch.compared is None:
            self.loss.require_scores(batch.pair_score_gaps)
        rewards = self.reward_model(batch)
        better, worse = compared.pairs.unbind(1)
        gaps = None if batch.scores is None else batch.scores[better] - batch.scores[worse]
        chosen, rejected = rewards[better], rewards[worse]
        weighted = compared.weights * self.loss(chosen, rejected, gaps)
        losses = weighted.new_zeros(batch.num_prompts).index_add(0, batch.prompt_number[better], weighted)
        scale, accumulation = batch.share.prompt_scale(), self.trainer.accumulate_grad_batches
        margins = (rewards[batch.pairs[:, 0]] - rewards[batch.pairs[:, 1]]).detach()
        output = RewardOutput(chosen, rejected, losses.detach(), compared.weights, margins, scale, accumulation)
        return output, losses.sum()

    def _evaluate(self, stage: str, batch: CompletionBatch) -> None:
        output, _ = self._output(batch)
        self._eval_means.update({f"{stage}/{name}": values for name, values in reward_metrics(output).items()})
        margins = output.pair_margins
        self.accuracy.update((margins > 0).float())
        # Each pair counts with both its orders: "the first is better", at sigma(r1 - r2).
        self.calibration.update(margins.sigmoid(), margins.new_ones(len(margins)).long())
        self.calibration.update((-margins).sigmoid(), margins.new_zeros(len(margins)).long())

    def _log_metrics(self, stage: str) -> None:
        self.log(f"{stage}/accuracy", self.accuracy.compute())
        self.log(f"{stage}/calibration_error", self.calibration.compute())
        self.accuracy.reset()
        self.calibration.reset()


def reward_metrics(output: RewardOutput) -> dict[str, Tensor]:
    """`{name: [n] values}`, detached, under the names of the preference modules: the loss of prompts, the rest of comparisons."""
    margins = output.margins()
    return {
        "loss": output.losses,
        "rewards/chosen": output.chosen.detach(),
        "rewards/rejected": output.rejected.detach(),
        "rewards/margins": margins,
        "rewards/accuracies": (margins > 0).float(),
    }
