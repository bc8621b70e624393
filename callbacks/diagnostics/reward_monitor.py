"""Monitor of a reward model on the pairs it trains on: margins, and the gradient at both rewards (paper Sec. 3.4)."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch import Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.base import BatchDiagnostic
from callbacks.readings import Values
from datamodules.contracts.batches import CompletionBatch
from lightning_modules.reward_output import RewardOutput
from run_folder.shown import show_values


def reward_readings(output: RewardOutput) -> dict[str, Tensor]:
    """Margins and gradients of a microbatch's pairs, `[pairs]` each.

    `reward/margin` r+ - r-; `reward/chosen/gradient` dl/dr+ and `reward/rejected/gradient` dl/dr-, which for plain Bradley-Terry
    are -sigma(r- - r+) and its opposite: the incentives that `softmax_grad/<side>/incentive` shows of DPO, in units of reward.
    """
    gradients = output.gradients()
    assert gradients is not None, "diagnostics are read after backward"
    return {
        "reward/margin": output.margins(),
        "reward/chosen/gradient": gradients[0],
        "reward/rejected/gradient": gradients[1],
        "reward/gradient_sum": gradients[0] + gradients[1],
    }


class RewardMonitor(BatchDiagnostic[RewardOutput]):
    """Margins of the training pairs with their spread, and dl/dr of both sides."""

    name = "reward"
    reads = "reward"

    @override
    def keeps(self, name: str) -> bool:
        return name == "reward/margin"

    @override
    def measure(self, output: RewardOutput, batch: CompletionBatch) -> Values:
        return reward_readings(output)

    @override
    def draw(self, trainer: Trainer, kept: Mapping[str, Tensor]) -> None:
        for name, values in kept.items():
            show_values(trainer, name, values.numpy(), trainer.global_step)
