"""The logged metrics of a preference step, under the field's usual names."""

from __future__ import annotations

from torch import Tensor

from datamodules.contracts.batches import CompletionBatch
from lightning_modules.step_output import PairOutput, StepOutput


def pair_metrics(pairs: PairOutput) -> dict[str, Tensor]:
    """`{name: [pairs]}` values."""
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
    }


def labelled_metrics(output: StepOutput, batch: CompletionBatch) -> dict[str, Tensor]:
    """`{name: [completions of a label]}` values, without margins and accuracies: nothing is compared."""
    labelled = output.labelled
    assert labelled is not None, "the objective fills one of the two"
    logps = output.stats.sum_by_sequence().detach()
    sides = {"chosen": labelled.chosen, "rejected": labelled.rejected}
    return {
        "loss": labelled.losses,
        "rewards/chosen": labelled.chosen_rewards,
        "rewards/rejected": labelled.rejected_rewards,
        **{f"logps/{side}": logps[members] for side, members in sides.items()},
        **{f"logps_per_token/{side}": logps[members] / batch.lengths[members] for side, members in sides.items()},
    }
