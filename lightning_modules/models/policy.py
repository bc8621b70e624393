"""What a policy is to the rest of the project, and the recipe that builds one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from datamodules.batches import CompletionBatch
from lightning_modules.token_stats import TokenStats


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """How responses are drawn."""

    max_new_tokens: int = 256
    """Tokens at the most, >= 1."""
    temperature: float = 1.0
    """0 means greedy decoding."""
    top_p: float = 1.0
    """Nucleus, in (0, 1]."""


class Policy(nn.Module, ABC):
    """A conditional distribution over completions.

    Built without dropout: the policy and its frozen reference are compared token by token, so that noise would be signal.
    """

    vocab_size: int
    """V: token ids are in [0, V)."""

    @abstractmethod
    def forward(self, batch: CompletionBatch) -> TokenStats:
        """Statistics at the K scored positions of the batch."""

    @abstractmethod
    def sample(
        self, prompts: Sequence[Sequence[int]], parameters: SamplingParameters, *, eos_token_id: int, seed: int
    ) -> list[list[int]]:
        """One completion for each prompt, reproducible from `seed`; ends with `eos_token_id` unless it was cut."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hex digest of the weights and of everything else that log-probs depend on. Equal digests, equal log-probs."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the weights so that the matching spec loads them again: the hand-over between stages.

        Raises:
            FileExistsError: if the folder holds something already.
        """


class PolicySpec(ABC):
    """A recipe for a policy. Subclasses are frozen dataclasses, so that a config names them by `class_path`."""

    @abstractmethod
    def build(self) -> Policy:
        """A fresh policy, the same weights at every call. The frozen reference is a second one, dropped after use."""
