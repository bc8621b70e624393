"""A tokenised prompt with its completions: readers produce it and the packer consumes it."""

from __future__ import annotations

from dataclasses import dataclass

from datamodules.contracts.batches import Role


@dataclass(frozen=True, slots=True)
class TokenizedCompletion:
    """One completion of a prompt."""

    token_ids: tuple[int, ...]
    """At least one token; ends with the end-of-sequence token unless it was truncated."""
    role: Role
    kind: str
    """"chosen", "rejected", or what sort of probe it is ("leftover", "permuted", "unseen", ...)."""
    score: float | None = None
    """Judge score, if the data has one."""


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and its completions.

    Raises:
        ValueError: if the prompt or a completion has no token.
    """

    prompt_ids: tuple[int, ...]
    """At least one token (its last row predicts the first token of every completion)."""
    completions: tuple[TokenizedCompletion, ...]
    """At least one."""
    row_number: int = -1
    """Row of the source file (0-based); -1 where there is none."""
    source: str = ""
    """Name of the source within a mixture, whose sources number their rows each for themselves."""

    def __post_init__(self) -> None:
        if not self.prompt_ids or not self.completions or not all(c.token_ids for c in self.completions):
            raise ValueError(
                f"expected a prompt and completions of at least one token each, got {len(self.prompt_ids)} prompt tokens and "
                f"completions of {[len(c.token_ids) for c in self.completions]} tokens (row {self.row_number}). "
                "Validate the data first: readers refuse such rows by number."
            )

    @property
    def num_rows(self) -> int:
        """Packed tokens: the prompt once, then every completion."""
        return len(self.prompt_ids) + self.num_targets

    @property
    def num_targets(self) -> int:
        """Scored positions: tokens of all completions."""
        return sum(len(c.token_ids) for c in self.completions)
