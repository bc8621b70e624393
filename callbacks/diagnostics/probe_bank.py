"""Scores the frozen probe bank before training and keeps these values, so that diagnostics can follow the same completions."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.base import BatchDiagnostic, PolicyDiagnostic
from callbacks.readings import Values
from datamodules.contracts.batches import CompletionBatch, sum_by_sequence
from datamodules.contracts.stores import require
from lightning_modules.contracts import HasPolicy
from lightning_modules.step_output import StepOutput
from lightning_modules.token_stats import TokenStats

DEFAULT_CADENCE = 50
"""Optimizer steps between readings of the bank, where nothing else is said."""


@dataclass(frozen=True, eq=False)
class BankBatch:
    """One batch of the probe bank, now and at the baseline."""

    batch: CompletionBatch
    stats: TokenStats
    """Under the policy as it is now."""
    baseline_token_logps: Tensor
    """`[K]` log-probs of the same tokens when training started, nats."""

    def token_changes(self) -> Tensor:
        """`[K]` log pi - log pi0 of every token, nats; pi0 is the policy at the baseline."""
        return self.stats.logps.detach() - self.baseline_token_logps

    def changes(self) -> Tensor:
        """`[Q]` the same, summed over each completion."""
        return sum_by_sequence(self.token_changes(), self.batch.target_sequence, self.batch.num_sequences)


class ProbeBaseline:
    """The probe bank's token log-probs when training started; taken at the first evaluation, kept in the checkpoint."""

    def __init__(self) -> None:
        self._token_logps: Tensor | None = None

    @property
    def is_taken(self) -> bool:
        """Whether there has been an evaluation, in this process or in the run it resumes."""
        return self._token_logps is not None

    def evaluate(self, pl_module: LightningModule) -> list[BankBatch]:
        """The probe bank under the policy as it is now, beside its baseline; empty where the data has no probes.

        Raises:
            ValueError: if the bank is not the one the baseline was taken of.
        """
        evaluation = require(pl_module, HasPolicy).probe_evaluation()
        if self._token_logps is None:
            self._token_logps = torch.cat([stats.logps.cpu() for _, stats in evaluation] or [torch.empty(0)])
        counts = [batch.num_targets for batch, _ in evaluation]
        if sum(counts) != len(self._token_logps):
            raise ValueError(
                f"expected the probe bank of the checkpoint with {len(self._token_logps)} scored tokens, got {sum(counts)}. "
                "Resume with the data and the tokenizer the run was started with."
            )
        return [
            BankBatch(batch, stats, part.to(stats.logps.device, non_blocking=True))
            for (batch, stats), part in zip(evaluation, torch.split(self._token_logps, counts), strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {} if self._token_logps is None else {"token_logps": self._token_logps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the baseline of the run that is resumed."""
        self._token_logps = state_dict["token_logps"]


class BankDiagnostic(PolicyDiagnostic):
    """Reads the frozen probe bank when training starts, at a cadence and when it ends.

    The bank costs one forward pass without gradient, shared by all monitors that are due at the same step. The baseline is
    taken when training starts and kept in the checkpoint, so that a resumed run counts its changes from the same step 0.
    Bank values at step n are those of the policy after step n.

    Args:
        every_n_steps: cadence in optimizer steps.
    """

    def __init__(self, every_n_steps: int = DEFAULT_CADENCE) -> None:
        PolicyDiagnostic.__init__(self, every_n_steps)
        self._baseline = ProbeBaseline()

    @abstractmethod
    def measure_bank(self, bank: BankBatch) -> Values:
        """`{metric: [n] per-item values}` of one batch of the bank."""

    @override
    def has_begun(self, trainer: Trainer) -> bool:
        return self._baseline.is_taken

    @override
    def measure_policy(self, trainer: Trainer, pl_module: LightningModule) -> list[Values]:
        bank = self._baseline.evaluate(pl_module)
        # Every rank evaluates (a sharded policy needs them all), one counts: repeated values would shift the quantiles.
        return [self.measure_bank(part) for part in bank] if trainer.is_global_zero else []

    @override
    def state_dict(self) -> dict[str, Any]:
        return self._baseline.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._baseline.load_state_dict(state_dict)


class ProbeMonitor(BatchDiagnostic[StepOutput], BankDiagnostic):
    """Reads training batches, and at a cadence of its own the frozen probe bank; a step at which both are due is one row.

    Args:
        every_n_steps: cadence in optimizer steps of what is read off the training batches.
        probe_every_n_steps: cadence of the probe bank, a multiple of `every_n_steps`; the first one from 50 on by default.
    """

    def __init__(self, every_n_steps: int = 10, probe_every_n_steps: int | None = None) -> None:
        BatchDiagnostic.__init__(self, every_n_steps)
        if probe_every_n_steps is None:
            probe_every_n_steps = every_n_steps * math.ceil(DEFAULT_CADENCE / every_n_steps)
        if probe_every_n_steps < 1 or probe_every_n_steps % every_n_steps:
            raise ValueError(
                f"expected probe_every_n_steps to be a multiple of every_n_steps = {every_n_steps}, got {probe_every_n_steps}. "
                "The bank is read on steps that are measured anyway."
            )
        BankDiagnostic.__init__(self, probe_every_n_steps)

    @override
    def end_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.schedule.is_due(trainer.global_step):
            self.act_now(trainer, pl_module)
        else:
            self.flush(trainer)
