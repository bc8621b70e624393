"""Monitor of the disentanglement band: whether a step can move a pair's sides apart (docs/derivations.md 5.4)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.base import BatchDiagnostic
from callbacks.mathematics.ches import ches
from callbacks.mathematics.head_geometry import MAX_COLUMNS, HeadReader, PairGeometry
from callbacks.mathematics.selection import sums_of_pairs
from callbacks.readings import Counted, Values
from datamodules.contracts.batches import SIDES, CompletionBatch
from datamodules.contracts.stores import require
from lightning_modules.contracts import HasPolicy
from lightning_modules.step_output import StepOutput

ROUNDING = 2e-6
"""Share of 1 + |log pi0| per token. A smaller change comes from the order in which float32 adds up, some 16 of its last places."""

_MOMENTS = ("x", "y", "xx", "yy", "xy")


def band(geometry: PairGeometry, incentives: tuple[Tensor, Tensor]) -> dict[str, Tensor | Counted]:
    """Norms, cosine and centre of every pair, and of those that are pushed whether the push is in the band.

    Args:
        geometry: of the pairs.
        incentives: `([pairs], [pairs])` d_w and d_l.

    Returns:
        `<side>/norm`, `<side>/predicted` `[pairs]`; over the pairs for which they are defined `cosine`,
        `log_centre`, `band_violated` and `log_incentive_ratio`, which is log(d_w / d_l).
    """
    push, pull = (incentive.double() for incentive in incentives)
    pushed, both = (push != 0) | (pull != 0), (push > 0) & (pull > 0)
    # A completion the policy is certain of has no gradient, and no direction.
    directed = (geometry.chosen_norms > 0) & (geometry.rejected_norms > 0)
    predicted = geometry.predicted((push, pull))
    return {
        "chosen/norm": geometry.chosen_norms,
        "rejected/norm": geometry.rejected_norms,
        "cosine": _where(geometry.cosine, directed),
        "log_centre": _where(geometry.log_centre(), directed),
        "log_incentive_ratio": _where(push.log() - pull.log(), both),
        "band_violated": _where((~geometry.in_band((push, pull))).double(), pushed),
        **{f"{side}/predicted": change for side, change in zip(SIDES, predicted, strict=True)},
    }


def against_realised(
    predicted: tuple[Tensor, Tensor], realised: tuple[Tensor, Tensor], known: tuple[Tensor, Tensor]
) -> dict[str, Counted]:
    """The parts of `explained`: moments of the predicted and the realised changes of each side, and whether signs agree.

    Args:
        predicted: `([pairs], [pairs])` dL+ and dL-, any unit.
        realised: `([pairs], [pairs])` Delta+ and Delta-, nats.
        known: `([pairs], [pairs])` bool: whether a realised change is more than rounding; others count for nothing.
    """
    values = {"sign_agreement": _where((predicted[0].sign() == realised[0].sign()).double(), known[0])}
    for side, x, y, counts in zip(SIDES, predicted, realised, known, strict=True):
        x, y = x.double(), y.double()
        moments = zip(_MOMENTS, (x, y, x * x, y * y, x * y), strict=True)
        values |= {f"{side}/moment/{name}": _where(value, counts) for name, value in moments}
    return values


def explained(means: Mapping[str, float], side: str) -> float | None:
    """R^2 in [0, 1] of the realised by the predicted changes over the pairs of a step; None where either does not vary."""
    x, y, xx, yy, xy = (means.get(f"{side}/moment/{name}", 0.0) for name in _MOMENTS)
    spread, covariance = (xx - x * x) * (yy - y * y), xy - x * y
    # A difference of sums of squares holds about nine digits.
    return covariance**2 / spread if spread > 1e-9 * xx * yy else None


class DisentanglementMonitor(BatchDiagnostic[StepOutput]):
    """Output-layer geometry of the training pairs, the disentanglement band, and CHES; nothing where there are no pairs.

    Read in the training pass itself, before the optimizer moves the weights. Every metric: docs/metrics.md.

    Args:
        every_n_steps: cadence in optimizer steps.
        max_columns: tokens of the vocabulary that are summed; see `callbacks.mathematics.head_geometry`.
    """

    name = "disentanglement"

    def __init__(self, every_n_steps: int = 20, max_columns: int = MAX_COLUMNS) -> None:
        super().__init__(every_n_steps)
        self._reader = HeadReader(max_columns)
        self._has_moved = False

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.batch_schedule.is_due(trainer.global_step + 1):
            self._reader.watch(require(pl_module, HasPolicy).policy)
            self._has_moved = trainer.global_step > 0

    @override
    def measure(self, output: StepOutput, batch: CompletionBatch) -> Values:
        geometry, incentives = self._reader.take(), output.incentives()
        if geometry is None or incentives is None:
            return {}
        assert output.stats.hidden is not None, "there is no geometry without it"
        values = {**band(geometry, incentives), **ches(output.stats.hidden, batch)}
        if batch.reference_token_logps is not None and self._has_moved:
            realised = sums_of_pairs(batch, output.stats.logps.detach() - batch.reference_token_logps)
            scales = sums_of_pairs(batch, 1 + batch.reference_token_logps.abs())
            known = (realised[0].abs() > ROUNDING * scales[0], realised[1].abs() > ROUNDING * scales[1])
            values |= against_realised(geometry.predicted(incentives), realised, known)
        return {f"head/{name}": value for name, value in values.items()}

    @override
    def finish(self, means: dict[str, float]) -> dict[str, float]:
        values = {name.removeprefix("head/"): value for name, value in means.items()}
        kept = {name: value for name, value in values.items() if "/moment/" not in name and not name.startswith("log_")}
        # Ratios are averaged as logarithms: a pair and its mirror image cancel.
        kept |= {name.removeprefix("log_"): math.exp(value) for name, value in values.items() if name.startswith("log_")}
        shares = {f"{side}/explained": explained(values, side) for side in SIDES}
        kept |= {name: share for name, share in shares.items() if share is not None}
        return {f"head/{name}": value for name, value in kept.items()}


def _where(values: Tensor, counts: Tensor) -> Counted:
    return Counted(torch.where(counts, values, 0).sum(), counts.sum())
