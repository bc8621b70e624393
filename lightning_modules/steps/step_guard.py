"""Decides whether a step is finite, leaves it out if it is not, and ends the run with an explanation.

The verdict is made on the device and read where numbers are read anyway (logged points, checkpoints): to wait for it at every step
would stop the device from working ahead. So the optimizer itself has to leave the step out: torch's fused ones take a tensor
`found_inf` for that. Others are stepped by the host, which waits for the verdict first (on a CPU that costs nothing).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, distributed
from torch.optim import Optimizer

from datamodules.contracts.batches import CompletionBatch
from lightning_modules.processes.ranks import over_ranks


class StepGuard:
    """Keeps the verdicts since they were last read, and the rows that each of those steps was made of."""

    def __init__(self) -> None:
        """Nothing seen."""
        self._rows: dict[int, list[tuple[Tensor, tuple[str, ...]]]] = {}
        self._first_bad: Tensor | None = None

    def saw(self, step: int, batch: CompletionBatch) -> None:
        """Optimizer step `step` (1-based) holds this microbatch."""
        self._rows.setdefault(step, []).append((batch.row_numbers, batch.sources or ("",) * batch.num_sequences))

    def judge(self, step: int, optimizer: Optimizer, is_finite: Tensor, *, waits: bool) -> bool:
        """Let the optimizer leave out step `step` unless it is finite; the same verdict on all ranks.

        Args:
            step: 1-based.
            optimizer: about to step.
            is_finite: `[]` bool on the device, of this rank.
            waits: whether the host may wait for the verdict although the optimizer can do without.

        Returns:
            False if the host knows that the step is not finite; True if it is, or if the optimizer will see by itself.
        """
        is_bad = _on_any_rank(~is_finite)
        if self._first_bad is None:
            self._first_bad = torch.zeros_like(is_bad, dtype=torch.int64)
        self._first_bad = torch.where(is_bad & (self._first_bad == 0), step, self._first_bad)
        if _leaves_steps_out(optimizer) and not waits:
            cast(Any, optimizer).found_inf = is_bad.float()
            return True
        return not is_bad

    def clear(self) -> None:
        """The steps so far have been read and are finite."""
        self._rows.clear()

    def first_bad(self) -> tuple[int, list[str]]:
        """The first step that was not finite, 0 if there is none, and its rows over all ranks. Call it on every rank.

        A row of a mixture stands with its source; a completion that was drawn is of no row.
        """
        step = 0 if self._first_bad is None else int(self._first_bad)
        found = {pair for numbers, sources in self._rows.get(step, ()) for pair in zip(sources, numbers.tolist(), strict=True)}
        rows = sorted({(source, row) for source, row in over_ranks(sorted(found)) if row >= 0})
        return step, [f"{source} {row}".lstrip() for source, row in rows]


def _leaves_steps_out(optimizer: Optimizer) -> bool:
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def _on_any_rank(flag: Tensor) -> Tensor:
    if not distributed.is_available() or not distributed.is_initialized():
        return flag
    votes = flag.float()
    distributed.all_reduce(votes, op=distributed.ReduceOp.MAX)
    return votes > 0
