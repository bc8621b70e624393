"""A progress bar for sampling: tokens a second, and when it will be done."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from typing_extensions import override

from datamodules.contracts.ranges import require_at_least
from datamodules.contracts.stores import require
from lightning_modules.contracts import HasPolicy
from lightning_modules.models.policy import SamplingProgress

_SECONDS_BETWEEN = 0.5


class SamplingBar(TQDMProgressBar):
    """Lightning's bar; while responses are drawn (`predict`, and `test` of a task) it shows tokens/s and the time left.

    Args:
        refresh_rate: batches between refreshes of the bar.
    """

    def __init__(self, refresh_rate: int = 1) -> None:
        require_at_least(0, refresh_rate=refresh_rate)
        super().__init__(refresh_rate=refresh_rate)
        self._start_over()

    def _start_over(self) -> None:
        self._tokens, self._seconds, self._batches = 0, 0.0, 0
        self.latest: SamplingProgress | None = None
        """Progress of the batch in hand."""
        self._shown_at = 0.0

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_predict_start(trainer, pl_module)
        self._listen(pl_module)

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_test_start(trainer, pl_module)
        self._listen(pl_module)

    @override
    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.count_batch()
        super().on_predict_batch_end(*args, **kwargs)

    @override
    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.count_batch()
        super().on_test_batch_end(*args, **kwargs)

    def _listen(self, module: LightningModule) -> None:
        self._start_over()
        require(module, HasPolicy).on_sampling_progress = self._show

    def count_batch(self) -> None:
        """The batch is done: what it drew belongs to the past."""
        if self.latest is not None:
            self._tokens += self.latest.num_tokens
            self._seconds += self.latest.seconds
            self._batches += 1
            self.latest = None

    def _show(self, progress: SamplingProgress) -> None:
        self.latest = progress
        if time.perf_counter() - self._shown_at < _SECONDS_BETWEEN:
            return
        self._shown_at = time.perf_counter()
        is_test = self.trainer.testing
        bar = self.test_progress_bar if is_test else self.predict_progress_bar
        total = self.total_test_batches_current_dataloader if is_test else self.total_predict_batches_current_dataloader
        bar.set_postfix_str(self.describe(progress, total), refresh=True)

    def describe(self, progress: SamplingProgress, total_batches: int | float) -> str:
        """`152 tokens/s, 0:12:30 left`: the rate since the start, and the time if further batches take the mean of those so far.

        Args:
            progress: of the batch in hand.
            total_batches: of the run.
        """
        rate = (self._tokens + progress.num_tokens) / max(self._seconds + progress.seconds, 1e-9)
        a_batch = (self._seconds + progress.seconds + progress.eta_seconds) / (self._batches + 1)
        left = progress.eta_seconds + (total_batches - self._batches - 1) * a_batch
        return f"{rate:.0f} tokens/s, {timedelta(seconds=round(left))} left"
