"""The lengths of a split's examples, from which steps are planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datamodules.contracts.batches import StepShare

Ints = NDArray[np.int64]
"""Lengths or indices."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """What planning needs of a split."""

    rows: Ints
    """`[examples]` packed tokens of each."""
    targets: Ints
    """`[examples]` scored positions of each."""

    def share(self, microbatches: Sequence[Sequence[int]]) -> StepShare:
        """Counts of the step made of these microbatches."""
        indices = [index for microbatch in microbatches for index in microbatch]
        return StepShare(prompts=len(indices), targets=int(self.targets[indices].sum()), microbatches=len(microbatches))
