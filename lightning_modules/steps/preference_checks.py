"""Checks before a step that a batch holds what its loss reads."""

from __future__ import annotations

from datamodules.contracts.batches import CompletionBatch


def require_pairs(batch: CompletionBatch) -> None:
    """Refuse a batch with a prompt that lacks a side of its pair.

    Raises:
        ValueError: if there is one.
    """
    if batch.pairs.shape[0] != batch.num_prompts:
        raise ValueError(
            f"expected a chosen and a rejected completion for each of {batch.num_prompts} prompts, "
            f"got {batch.pairs.shape[0]} pairs. Use a preference data module, or train with SFTModule."
        )


def require_single(batch: CompletionBatch, loss: str) -> None:
    """Refuse a batch with a prompt that has not one labelled completion: a step's loss is the mean over its prompts.

    Raises:
        ValueError: if there is one.
    """
    labelled = sum(kind in ("chosen", "rejected") for kind in batch.kinds)
    if len(batch.pairs) or labelled != batch.num_prompts:
        raise ValueError(
            f"expected one completion, labelled good or bad, for each of {batch.num_prompts} prompts, got {labelled} and "
            f"{len(batch.pairs)} pairs: {loss} reads single completions. Use UnpairedDataModule, which also takes pairs apart, or "
            "a loss of pairs."
        )


def require_reference(batch: CompletionBatch, step: int) -> None:
    """Refuse a batch without reference log-probs.

    Raises:
        ValueError: if it has none.
    """
    if batch.reference_token_logps is None:
        raise ValueError(
            f"expected reference log-probs of step {step}, got none: the run reads other pairs than its max_steps, max_epochs and "
            "limits planned. Set them for the whole run before it starts."
        )
