"""Statistics of sampled completions: KL to the reference, repetition, length (docs/derivations.md 6.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.contracts.batches import CompletionBatch, Role, sum_by_sequence
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack
from lightning_modules.models.policy import Policy, SampledCompletion

FLOOR = 0.01
"""Quantile of the reference's own samples below which a sample is one the reference would hardly write."""

NGRAM = 4
"""Tokens of the pieces whose repetition is counted."""

Prompts = Sequence[Sequence[int]]
Groups = Sequence[Sequence[SampledCompletion]]
"""Samples of each prompt."""


@dataclass(frozen=True, eq=False)
class ScoredSamples:
    """Samples under the policy that wrote them and under the reference; n samples."""

    token_ids: tuple[tuple[int, ...], ...]
    finished: tuple[bool, ...]
    logps: Tensor
    """`[n]` log pi of each sample, nats."""
    reference_logps: Tensor
    """`[n]` log pi0, nats."""

    @property
    def lengths(self) -> Tensor:
        """`[n]` tokens."""
        return torch.tensor([len(ids) for ids in self.token_ids], dtype=torch.float64)


def as_batch(prompts: Prompts, groups: Groups) -> CompletionBatch:
    """The samples, packed behind their prompts."""
    return pack(
        [
            Example(tuple(prompt), tuple(TokenizedCompletion(sample.token_ids, Role.SAMPLE, "sample") for sample in group))
            for prompt, group in zip(prompts, groups, strict=True)
        ]
    )


@torch.no_grad()
def logps_under(policy: Policy, prompts: Prompts, groups: Groups, device: torch.device) -> Tensor:
    """`[n]` log-probs of the samples under a policy on `device`, nats, float64 on the host: one forward pass."""
    batch = as_batch(prompts, groups).to(device)
    token_logps = policy(batch).logps.double()
    return sum_by_sequence(token_logps, batch.target_sequence, batch.num_sequences).cpu()


def score(reference: Policy, prompts: Prompts, groups: Groups, device: torch.device, logps: Tensor | None = None) -> ScoredSamples:
    """Put the samples before the reference, which is moved to `device`.

    Args:
        reference: what they are compared with.
        prompts: what was asked.
        groups: samples of each.
        device: of the forward pass.
        logps: `[n]` of the policy's own forward pass, which rounds as the reference's does; those of the draw by default.
    """
    samples = [sample for group in groups for sample in group]
    drawn = torch.stack([sample.logps.double().sum() for sample in samples])
    return ScoredSamples(
        token_ids=tuple(sample.token_ids for sample in samples),
        finished=tuple(sample.finished for sample in samples),
        logps=drawn if logps is None else logps,
        reference_logps=logps_under(reference.to(device), prompts, groups, device),
    )


def floor_of(samples: ScoredSamples) -> float:
    """The 1st percentile of log pi0 / T over the reference's own samples, nats per token."""
    return float(torch.quantile(samples.reference_logps / samples.lengths, FLOOR))


def divergence(samples: ScoredSamples) -> dict[str, float]:
    """`kl`: mean of log pi - log pi0 over samples drawn from pi, nats, an unbiased estimate of KL(pi || pi0); and per token."""
    changes = samples.logps - samples.reference_logps
    return {"kl": float(changes.mean()), "kl_per_token": float(changes.sum() / samples.lengths.sum())}


def shape(samples: ScoredSamples, floor: float) -> dict[str, float]:
    """Statistics of the samples; means over samples unless said otherwise.

    Returns:
        `reference_logp_per_token`: log pi0 / T, nats per token; `out_of_reference`: share of samples below `floor`;
        `repetition`: share of 4-grams of a sample that it had before; `distinct_1`, `distinct_2`: different tokens (pairs) over all
        samples by their number; `length` in tokens; `cut`: share of samples that did not end.
    """
    likelihoods = samples.reference_logps / samples.lengths
    return {
        "reference_logp_per_token": float(likelihoods.mean()),
        "out_of_reference": float((likelihoods < floor).double().mean()),
        "repetition": sum(repetition(ids) for ids in samples.token_ids) / len(samples.token_ids),
        "distinct_1": distinct(samples.token_ids, 1),
        "distinct_2": distinct(samples.token_ids, 2),
        "length": float(samples.lengths.mean()),
        "cut": 1 - sum(samples.finished) / len(samples.finished),
    }


def repetition(token_ids: Sequence[int], n: int = NGRAM) -> float:
    """Share of n-grams that occurred before in the same sample, in [0, 1]; 0 where there are fewer than two."""
    grams = _ngrams(token_ids, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(samples: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams over all samples by the number of all, in (0, 1] (arXiv 1510.03055); 0 where there are none."""
    grams = [gram for ids in samples for gram in _ngrams(ids, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _ngrams(token_ids: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(token_ids[start : start + n]) for start in range(len(token_ids) - n + 1)]
