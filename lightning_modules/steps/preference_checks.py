"""Checks before a step that a batch holds what its loss reads."""

from __future__ import annotations

from datamodules.contracts.batches import CompletionBatch
from lightning_modules.losses.base import Loss


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


def require_online(loss: Loss, *, is_online: bool) -> None:
    """Refuse a loss that reads the reference's whole distributions where the reference has answered before the first step.

    Raises:
        ValueError: if it is so.
    """
    if loss.needs_distribution and not is_online:
        raise ValueError(
            f"expected a reference that is asked in every step, because {type(loss).__name__} reads its whole distribution at each "
            "token, got one whose log-probs are computed once. Set model.reference to online (another model's recipe: its `of`)."
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
