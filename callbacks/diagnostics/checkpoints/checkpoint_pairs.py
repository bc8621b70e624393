"""The objective's values and the pairs' movements at a checkpoint, with intervals over pairs."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch import Trainer
from torch import Tensor

from callbacks.diagnostics.degradation import MIN_FALL
from callbacks.mathematics.bootstrap import bootstrap_interval
from callbacks.readings import Readings
from lightning_modules.step_output import StepOutput
from run_folder.files import append_row

INTERVALS = ("pairs/chosen/change", "pairs/rejected/change", "pairs/chosen/fell", "val/rewards/accuracies")
"""Metrics that get `/low` and `/high`: a 95% interval over the pairs, by the bootstrap."""


class CheckpointPairs:
    """Gathers the values of all pairs under one checkpoint; `flush` writes them at its step, to loggers and `checkpoints.jsonl`."""

    def __init__(self) -> None:
        self._readings = Readings(lambda name: name in INTERVALS)

    def read(self, output: StepOutput, objective: Mapping[str, Tensor]) -> None:
        """Add a batch.

        Args:
            output: of the pairs under the checkpoint.
            objective: `{name: [pairs] values}` of the loss; written as `val/<name>`.
        """
        self._readings.update({f"val/{name}": values for name, values in objective.items()})
        if output.pairs is None:
            return
        sequences = output.pairs.sequences
        sides = (
            ("chosen", sequences.policy_chosen, sequences.reference_chosen),
            ("rejected", sequences.policy_rejected, sequences.reference_rejected),
        )
        for side, policy, reference in sides:
            if reference is not None:
                change = policy.detach() - reference
                self._readings.update({f"pairs/{side}/change": change, f"pairs/{side}/fell": change < -MIN_FALL})

    def flush(self, trainer: Trainer) -> None:
        """Write what has been gathered since the last time. Call it on every rank."""
        reading = self._readings.take()
        values = dict(reading.means)
        for name, kept in reading.kept.items():
            values[f"{name}/low"], values[f"{name}/high"] = bootstrap_interval([kept.numpy()])
        if trainer.is_global_zero and values:
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step)
            number = len(next(iter(reading.kept.values()), ()))
            append_row(trainer, "checkpoints", {"step": trainer.global_step, "pairs/number": number, **values})
