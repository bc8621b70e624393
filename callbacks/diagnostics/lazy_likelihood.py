"""Monitor of a step's effect on the likelihood of its own completions: good answers that stay or fall (arXiv 2512.04220)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.base import BatchDiagnostic
from callbacks.mathematics.selection import sequences_by_kind
from callbacks.readings import Values
from callbacks.schedule import step_of
from datamodules.contracts.batches import CompletionBatch, Role, sum_by_sequence
from datamodules.contracts.stores import require
from lightning_modules.contracts import HasPolicy
from lightning_modules.step_output import StepOutput

STAGNANT = 1e-4
"""Nats per token. A step that moves a completion by less leaves it where it is."""


def step_effect(batch: CompletionBatch, before: Tensor, after: Tensor) -> dict[str, Tensor]:
    """How a step moved the completions that it was made of.

    Args:
        batch: of the step.
        before: `[K]` log-probs before the step, nats.
        after: `[K]` the same after it.

    Returns:
        Of every kind but probes `<kind>/gain_per_token` `[n]` (nats per token), `<kind>/fell` `[n]` bool: by more than 1e-4, and
        `<kind>/stagnant`: by neither more nor less.
    """
    gains = sum_by_sequence(after - before, batch.target_sequence, batch.num_sequences) / batch.lengths
    members = sequences_by_kind(batch)
    watched = {kind for kind, role in zip(batch.kinds, batch.roles.tolist(), strict=True) if role != Role.PROBE}
    values: dict[str, Tensor] = {}
    for kind, index in members.items():
        if kind in watched:
            own = gains[index]
            values |= {f"{kind}/gain_per_token": own, f"{kind}/fell": own < -STAGNANT, f"{kind}/stagnant": own.abs() <= STAGNANT}
    return values


GOOD_AND_BAD = (("sample_above", "sample_below"), ("chosen", "rejected"))
"""Kinds that a step is to lift and to lower: of a policy's own answers, or of pairs."""

_UNMOVED = 1e-7
"""Nats per token. Both kinds together moved by less: the share of it is rounding."""


def lift(good: float, bad: float) -> float | None:
    """The part of a step's movement that lifts good completions: good / (|good| + |bad|), in [-1, 1].

    1/2: they gain what bad ones lose; 0: they stay where they are while bad ones are pushed down; below 0: they fall.

    Args:
        good: mean gain of the good ones, nats per token.
        bad: mean gain of the bad ones, nats per token.

    Returns:
        None where bad ones are not pushed down, or nothing moved.
    """
    moved = abs(good) + abs(bad)
    return good / moved if bad < 0 and moved > _UNMOVED else None


class LazyLikelihood(BatchDiagnostic[StepOutput]):
    """Reads the completions of a due step again after it: what the update itself did to them (lazy likelihood displacement).

    Of a reinforcement run the kinds are `sample_above` and `sample_below` their prompt's mean score: a healthy step raises the
    first and lowers the second; where `sample_above` stagnates and then falls, collapse is near, and `PropertyAlarm` says so.
    Remedy: `preservation` of PPOSettings, which lifts only what fell. Of preference runs they are chosen and rejected. Costs a
    forward pass without gradient over a due step's completions. Metrics: docs/metrics.md.

    Args:
        every_n_steps: cadence in optimizer steps. Step 1 is always measured.
    """

    name = "lazy_likelihood"

    def __init__(self, every_n_steps: int = 10) -> None:
        super().__init__(every_n_steps)
        self._seen: list[tuple[CompletionBatch, Tensor]] = []

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: CompletionBatch, batch_idx: int
    ) -> None:
        if self.batch_schedule.is_due(step_of(trainer, batch_idx)[0]):
            # Those that count for nothing too: a sharded policy is read again by all ranks or by none.
            self._seen.append((batch, outputs[self.reads].stats.logps.detach()))
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    @override
    def measure(self, output: StepOutput, batch: CompletionBatch) -> Values:
        return {}

    @override
    def finish(self, means: dict[str, float]) -> dict[str, float]:
        return means | _lifts(means)

    @override
    def end_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        policy = require(pl_module, HasPolicy).policy
        mode = policy.training
        policy.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for batch, before in self._seen:
                after = policy(batch).logps
                values = {} if batch.share.idle else step_effect(batch, before, after)
                self.read([{f"{self.name}/{name}": value for name, value in values.items()}])
        policy.train(mode)
        self._seen = []
        super().end_step(trainer, pl_module)


def _lifts(means: Mapping[str, float]) -> dict[str, float]:
    for kinds in GOOD_AND_BAD:
        names = [f"{LazyLikelihood.name}/{kind}/gain_per_token" for kind in kinds]
        if means.keys() >= set(names):
            found = lift(means[names[0]], means[names[1]])
            return {} if found is None else {f"{LazyLikelihood.name}/lift": found}
    return {}
