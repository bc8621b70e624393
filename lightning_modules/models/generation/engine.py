"""The contract of a sampling engine, so that a policy does not depend on one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from datamodules.contracts.prompts import Sampling
from lightning_modules.models.policy import OnProgress, SampledCompletion


class SamplingEngine(ABC):
    """Draws completions. Another engine (a server, another library) is another subclass; the policy's contract stays."""

    @abstractmethod
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        parameters: Sampling,
        *,
        num_samples: int,
        ends: frozenset[int],
        seed: int,
        on_progress: OnProgress | None,
    ) -> list[list[SampledCompletion]]:
        """`num_samples` completions of each prompt, each up to a token of `ends` (see `Policy.generate`)."""
