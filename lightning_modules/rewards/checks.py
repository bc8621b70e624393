"""Checks before the first rollout that the models fit together and that rewards tell good from bad."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from transformers import AutoTokenizer

from datamodules.contracts.stores import PromptStore, ReferenceStore, meets
from lightning_modules.models.policy import Policy
from lightning_modules.rewards.base import RewardSource

NUM_BATCHES = 4
"""Batches of the data's frozen pairs: enough to tell 60% from 70%."""
MIN_ACCURACY = 0.6
"""Share of pairs that a source has to order as the data does. Below it, the reward contradicts the data."""
NUM_TOKENS = 500
"""Compared of two tokenizers, evenly spaced."""
MIN_SPREAD = 0.01
"""Mean absolute difference of a pair's scores over the standard deviation of all scores: below it, nothing is told apart."""


def require_fitting_models(policy: Policy, reference: Policy) -> None:
    """Refuse models that do not mean the same by a token id.

    Raises:
        ValueError: if the reference has another vocabulary than the policy.
    """
    if reference.vocab_size != policy.vocab_size:
        raise ValueError(
            f"expected a reference over the policy's {policy.vocab_size} tokens, got one over {reference.vocab_size}. The KL "
            "compares them token by token: choose one with the policy's tokenizer."
        )


def check_rewards(sources: Iterable[RewardSource], store: PromptStore, device: torch.device) -> dict[str, float]:
    """Whether each source that can score tokens orders the data's frozen pairs as the data does; warns if not.

    Returns:
        Of each such source `reward_check/<name>/accuracy` (share of pairs, in [0, 1]) and `reward_check/<name>/spread` (mean
        absolute difference of a pair's scores over the standard deviation of all).
    """
    found: dict[str, float] = {}
    for source in sources:
        pairs = _scored_pairs(source, store, device)
        if pairs is None:
            continue
        differences = pairs[:, 0] - pairs[:, 1]
        accuracy = float((differences > 0).float().mean())
        spread = float(differences.abs().mean() / pairs.std().clamp_min(1e-12))
        found |= {f"reward_check/{source.name}/accuracy": accuracy, f"reward_check/{source.name}/spread": spread}
        rank_zero_info(f"Reward {source.name}: orders {accuracy:.0%} of {len(pairs)} frozen pairs as the data does.")
        if accuracy < MIN_ACCURACY or spread < MIN_SPREAD:
            rank_zero_warn(
                f"The reward {source.name} does not separate the data it is used on: it orders {accuracy:.0%} of "
                f"{len(pairs)} pairs as the data does, with a spread of {spread:.2g}. PPO will follow it anyway: train a "
                "better one first."
            )
    return found


def _scored_pairs(source: RewardSource, store: PromptStore, device: torch.device) -> Tensor | None:
    """`[pairs, 2]` scores of chosen and rejected; None if the source needs more than tokens, or the data has no pairs."""
    if not meets(store, ReferenceStore) or "train" not in store.splits():
        return None
    parts: list[Tensor] = []
    for batch in islice(store.scoring_dataloader("train"), NUM_BATCHES):
        scores = source.pair_scores(batch.to(device))
        if scores is None:
            return None
        parts.append(scores.cpu()[batch.pairs])
    return torch.cat(parts) if parts and sum(map(len, parts)) > 1 else None


def require_same_tokens(name: str, path: str, store: PromptStore) -> None:
    """Refuse a model whose tokenizer means something else by the policy's token ids.

    Args:
        name: what the model is to the run.
        path: its folder or hub name; one without a tokenizer is not looked at.
        store: has the policy's.

    Raises:
        ValueError: if the two tokenizers differ.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError):
        return
    ids = range(0, len(tokenizer), max(1, len(tokenizer) // NUM_TOKENS))
    different = [number for number in ids if tokenizer.decode([number]) != store.tokenizer.decode([number])]
    if different:
        raise ValueError(
            f"expected the {name} at {path} to have the policy's tokenizer, got another: token {different[0]} is "
            f"{tokenizer.decode([different[0]])!r} there and {store.tokenizer.decode([different[0]])!r} here. It would read other "
            "texts than the policy writes: choose one that was trained from the same base model."
        )
