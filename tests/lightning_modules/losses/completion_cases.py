"""Completions with tokens to feed losses that read more than sums of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from lightning_modules.losses.base import Loss
from lightning_modules.losses.completions import Completions, Sums, Tokens


@dataclass(frozen=True, eq=False)
class Case:
    """Explicit logits of every token, and the completions that they make."""

    logits: Tensor
    """`[K, V]` of the policy, a leaf."""
    reference_logits: Tensor
    """`[K, V]`."""
    targets: Tensor
    """`[K]`."""
    completions: Completions


def case(
    groups: Sequence[Sequence[tuple[str, int, float | None]]], *, seed: int = 0, spread: float = 1.0, vocabulary: int = 7
) -> Case:
    """Completions in float64, whose log-probs come of logits.

    Args:
        groups: of each prompt its completions: kind, tokens, score.
        seed: of the logits.
        spread: standard deviation of the policy's change from the reference, in logits.
        vocabulary: V.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = [(number, *row) for number, group in enumerate(groups) for row in group]
    lengths = torch.tensor([length for _, _, length, _ in rows])
    sequence = torch.arange(len(rows)).repeat_interleave(lengths)
    count = len(sequence)
    reference = torch.randn(count, vocabulary, generator=generator, dtype=torch.float64)
    change = spread * torch.randn(count, vocabulary, generator=generator, dtype=torch.float64)
    logits = (reference + change).requires_grad_()
    targets = torch.randint(vocabulary, (count,), generator=generator)
    return Case(logits, reference, targets, completions_of(logits, reference, targets, rows, lengths, sequence, len(groups)))


def completions_of(
    logits: Tensor,
    reference: Tensor,
    targets: Tensor,
    rows: Sequence[tuple[int, str, int, float | None]],
    lengths: Tensor,
    sequence: Tensor,
    num_prompts: int,
) -> Completions:
    token_logps = logits.log_softmax(-1)[torch.arange(len(targets)), targets]
    reference_logps = reference.log_softmax(-1)[torch.arange(len(targets)), targets]
    kinds = [kind for _, kind, _, _ in rows]
    scores = [float("nan") if score is None else score for *_, score in rows]
    pairs = [
        (chosen, rejected)
        for prompt in range(num_prompts)
        for chosen, (of, kind, *_) in enumerate(rows)
        for rejected, (of_other, other, *_) in enumerate(rows)
        if of == of_other == prompt and (kind, other) == ("chosen", "rejected")
    ]

    def summed(values: Tensor) -> Tensor:
        return torch.stack([values[sequence == number].sum() for number in range(len(rows))])

    return Completions(
        sums=Sums(
            policy=summed(token_logps),
            reference=summed(reference_logps),
            lengths=lengths,
            scores=torch.tensor(scores, dtype=torch.float64),
            pairs=torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2),
            kinds=tuple(kinds),
        ),
        tokens=Tokens(
            policy=token_logps,
            reference=reference_logps,
            sequence=sequence,
            sum_sq_probs=logits.detach().softmax(-1).square().sum(-1),
            kl=kl_divergence(Categorical(logits=reference), Categorical(logits=logits)),
        ),
        prompts=torch.tensor([prompt for prompt, *_ in rows]),
        num_prompts=num_prompts,
    )


def gradient_at_logits(loss: Loss, made: Case) -> Tensor:
    """`[K, V]` of the summed losses, by autograd through the logits."""
    (gradient,) = torch.autograd.grad(loss.of(made.completions).losses.sum(), made.logits, retain_graph=True)
    return gradient


PAIR_KINDS: list[list[tuple[str, int, float | None]]] = [
    [("chosen", 5, None), ("rejected", 8, None)],
    [("chosen", 9, None), ("rejected", 3, None)],
    [("chosen", 1, None), ("rejected", 1, None)],
    [("chosen", 4, None), ("rejected", 4, None)],
]
LABELLED_KINDS: list[list[tuple[str, int, float | None]]] = [
    [("chosen", 5, None), ("mismatched", 3, None)],
    [("rejected", 2, None), ("mismatched", 5, None)],
    [("rejected", 7, None), ("mismatched", 2, None)],
    [("chosen", 1, None), ("mismatched", 7, None)],
    [("rejected", 4, None), ("mismatched", 1, None)],
]


def without_reference(completions: Completions) -> Completions:
    """The same, as of a run that computes no reference log-probs."""
    return replace(
        completions, sums=replace(completions.sums, reference=None), tokens=replace(completions.tokens, reference=None, kl=None)
    )
