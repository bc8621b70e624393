"""A microbatch as a loss reads it."""

from __future__ import annotations

from datamodules.contracts.batches import CompletionBatch
from lightning_modules.losses.completions import Completions, Sums, SumsOfStep, Tokens
from lightning_modules.token_stats import TokenStats


def sums_of(batch: CompletionBatch, stats: TokenStats) -> Sums:
    """Its completions, with log-probs summed over their tokens."""
    return Sums(
        policy=stats.sum_by_sequence(),
        reference=batch.reference_logps,
        lengths=batch.lengths,
        scores=batch.scores,
        pairs=batch.pairs,
        kinds=batch.kinds,
    )


def completions_of(batch: CompletionBatch, stats: TokenStats, sums: Sums, step: SumsOfStep | None) -> Completions:
    """All that a loss may read of it.

    Args:
        batch: the microbatch.
        stats: of its tokens, under the policy.
        sums: of its completions.
        step: that it is a part of, where the loss asks for it.
    """
    kl = None if stats.divergence is None else stats.divergence.kl
    tokens = Tokens(stats.logps, batch.reference_token_logps, stats.target_sequence, stats.sum_sq_probs, kl)
    return Completions(sums=sums, tokens=tokens, prompts=batch.prompt_number, num_prompts=batch.num_prompts, step=step)
