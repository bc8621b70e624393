"""What each loss does to chosen and rejected at the start of training and late in it, in the numbers that docs/losses.md prints."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import torch
from torch import Tensor

from lightning_modules.losses.base import Loss, Reads
from lightning_modules.losses.completions import Completions, Sums, Tokens

LENGTH = 20
"""Tokens of every completion."""
START, LATE = (0.0, 0.0), (-10.0, -60.0)
"""h_w and h_l, nats, of the pair: nothing has moved; both sides have fallen, the rejected one further."""
KINDS = {
    Reads.COMPLETIONS: ("chosen", "mismatched", "rejected", "mismatched"),
    Reads.GROUPS: ("chosen", "rejected", "ranked"),
}


def told(path: str) -> str:
    """The cell of a loss: `d_w`, `d_l` at the start; late."""
    module, name = path.rsplit(".", 1)
    loss: Loss = getattr(import_module(f"lightning_modules.losses.{module}"), name)()
    return "; ".join(", ".join(f"{value:.2g}" for value in incentives_at(loss, *ratios)) for ratios in (START, LATE))


def incentives_at(loss: Loss, chosen: float, rejected: float) -> tuple[float, float]:
    """d_w and d_l of a pair with these log-ratios, the reference at 1 nat a token; of a group its best and worst, a third halfway.

    Every token of a completion has moved alike. Distributions have sum p^2 = 1/2, and KL 0.
    """
    completions = _completions(KINDS.get(loss.reads, ("chosen", "rejected")), chosen, rejected)
    leaf = completions.tokens.policy.clone().requires_grad_()
    sums = replace(completions.sums, policy=torch.stack([part.sum() for part in leaf.split(LENGTH)]))
    losses = loss.of(replace(completions, sums=sums, tokens=replace(completions.tokens, policy=leaf))).losses
    (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    means = gradient.view(-1, LENGTH).mean(1)
    kinds = completions.sums.kinds
    return -means[kinds.index("chosen")].item() + 0.0, means[kinds.index("rejected")].item() + 0.0


def _completions(kinds: tuple[str, ...], chosen: float, rejected: float) -> Completions:
    moved = {"chosen": chosen, "rejected": rejected, "ranked": (chosen + rejected) / 2, "mismatched": 0.0}
    scores = {"chosen": 3.0, "ranked": 2.0, "rejected": 1.0}
    ratios = torch.tensor([moved[kind] for kind in kinds], dtype=torch.float64)
    reference = torch.full((len(kinds) * LENGTH,), -1.0, dtype=torch.float64)
    policy = reference + (ratios / LENGTH).repeat_interleave(LENGTH)
    of_kinds = [kinds.index(side) for side in ("chosen", "rejected")]
    pairs = [] if "mismatched" in kinds else [of_kinds]
    return Completions(
        sums=Sums(
            policy=ratios - LENGTH,
            reference=torch.full((len(kinds),), -float(LENGTH), dtype=torch.float64),
            lengths=torch.full((len(kinds),), LENGTH),
            scores=torch.tensor([scores.get(kind, float("nan")) for kind in kinds], dtype=torch.float64),
            pairs=torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2),
            kinds=kinds,
        ),
        tokens=Tokens(policy, reference, _sequence(len(kinds)), torch.full_like(policy, 0.5), torch.zeros_like(policy)),
        prompts=torch.tensor([0, 0, 1, 1]) if "mismatched" in kinds else torch.zeros(len(kinds), dtype=torch.int64),
        num_prompts=2 if "mismatched" in kinds else 1,
    )


def _sequence(number: int) -> Tensor:
    return torch.arange(number).repeat_interleave(LENGTH)
