"""The loss over a whole validation or test set, for losses that read a mean or an order over a step."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lightning_modules.losses.base import Loss
from lightning_modules.losses.completions import Completions
from lightning_modules.steps.whole_step import WholeStep


class WholeEvaluation:
    """Keeps the completions of an evaluation, and computes their losses when it ends, with all of them as the step.

    A batch by itself would be another step for every cut into batches. Without gradient it costs no pass: a loss reads log-probs.
    """

    def __init__(self) -> None:
        """Nothing seen."""
        self._parts: list[Completions] = []

    def add(self, completions: Completions) -> None:
        """Take a batch of this rank."""
        sums, tokens = completions.sums, completions.tokens
        own = replace(sums, policy=sums.policy.detach()), replace(tokens, policy=tokens.policy.detach())
        self._parts.append(replace(completions, sums=own[0], tokens=own[1]))

    def losses(self, loss: Loss) -> Tensor:
        """`[units of this rank]` losses of all batches since the last call. A collective: call it on every rank."""
        parts, self._parts = self._parts, []
        steps = WholeStep().of([part.sums for part in parts])
        found = [loss.of(replace(part, step=step)).losses for part, step in zip(parts, steps, strict=True)]
        return torch.cat(found).detach() if found else torch.empty(0)
