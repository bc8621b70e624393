"""Named and counted signs that a rollout goes well or badly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.rewards.base import TotalRewards
from lightning_modules.rewards.samples import SAMPLE, Samples

ABOVE, BELOW = f"{SAMPLE}_above", f"{SAMPLE}_below"
"""Kinds of completions that score above and below the mean of their prompt's: what chosen and rejected are to a pair."""

NGRAM = 4
"""Tokens."""


def kinds_of(samples: Samples, scores: Tensor) -> tuple[tuple[str, ...], ...]:
    """Place of each completion among those of its prompt: above their mean score, below it, or neither.

    Args:
        samples: Q completions of P prompts.
        scores: `[Q]`.
    """
    groups = torch.split(scores, [len(group) for group in samples.groups])
    return tuple(tuple(_kind(value - group.mean().item()) for value in group.tolist()) for group in groups)


def _kind(difference: float) -> str:
    if abs(difference) < 1e-6:
        return SAMPLE
    return ABOVE if difference > 0 else BELOW


def repetition(token_ids: Sequence[int]) -> float:
    """Share of a completion's 4-grams that it holds more than once already, in [0, 1); 0 for one without a 4-gram."""
    grams = [tuple(token_ids[start : start + NGRAM]) for start in range(len(token_ids) - NGRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """1 - Var(R - V) / Var(R) over `[K]` tokens, <= 1; 0 where the returns are all the same: there is nothing to explain."""
    variance = returns.var(correction=0)
    explained = 1 - (returns - values).var(correction=0) / variance.clamp_min(1e-12)
    return torch.where(variance > 1e-12, explained, torch.zeros_like(explained))


def events_of(samples: Samples, total: TotalRewards) -> dict[str, int]:
    """How many completions of a rollout each of these happened to; names that happened to none are left out.

    `unscored`: left out of the rollout, because a source gave no finite reward. `empty`: nothing but the end of sequence.
    `no_eos`: every completion of the rollout, if none has ended. `constant_reward`: every completion, if all score alike.
    """
    scores = total.scores[total.scores.isfinite()]
    count = len(samples.completions)
    found = {
        "unscored": len(total.scores) - len(scores),
        "empty": sum(not ids for ids in samples.token_ids()),
        "no_eos": 0 if samples.finished().any() else count,
        "constant_reward": count if count > 1 and scores.max() - scores.min() < 1e-6 else 0,
    }
    return {name: number for name, number in found.items() if number}


MEANING = {
    "unscored": "have no finite reward and are left out of their rollout",
    "empty": "hold nothing but the end of sequence",
    "no_eos": "make a rollout in which nothing ends with the end of sequence: raise max_new_tokens, or check the tokenizer's",
    "constant_reward": "make a rollout whose rewards are all the same: it teaches nothing but the KL penalty",
}
"""The meaning of each event, in words."""
