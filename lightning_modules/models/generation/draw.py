"""Draws the next token from logits with one uniform a row, by inverting the cumulative distribution.

Shape legend: B rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from datamodules.contracts.prompts import Sampling

_BLOCK = 256
"""Tokens summed together before the search, so that only 1 / 256 of the cumulative sums are formed."""

_FIRST_CANDIDATES = 128
"""Tokens in which the nucleus is looked for first; most distributions need no more, and sorting all is slow."""


def draw(logits: Tensor, uniforms: Tensor, parameters: Sampling) -> tuple[Tensor, Tensor]:
    """Choose a token a row.

    With q = softmax(z / T) restricted to the nucleus, the token is the first y with sum_{v <= y} q_v > u.

    Args:
        logits: `[B, V]` float32 or float64, as the policy has them.
        uniforms: `[B]` float64 in [0, 1); not used where the temperature is 0, which takes the highest logit.
        parameters: temperature and nucleus.

    Returns:
        `[B]` int64 tokens, and `[B]` their log-probs log softmax(z)_y (nats), at temperature 1 and over the whole vocabulary.
        Where the normaliser of a row is not finite its log-prob is not either, and the token means nothing.
    """
    normalizers = logits.logsumexp(-1)
    tokens = logits.argmax(-1) if parameters.temperature == 0 else _sampled(logits, uniforms, parameters)
    return tokens, logits.gather(1, tokens[:, None]).squeeze(1) - normalizers


def _sampled(logits: Tensor, uniforms: Tensor, parameters: Sampling) -> Tensor:
    weights = logits - logits.amax(-1, keepdim=True)
    if parameters.temperature != 1:
        weights /= parameters.temperature
    weights.exp_()
    if parameters.top_p < 1:
        weights.masked_fill_(weights < nucleus_threshold(weights, parameters.top_p)[:, None], 0)
    return invert_cdf(weights, uniforms)


def nucleus_threshold(weights: Tensor, top_p: float) -> Tensor:
    """The smallest weight in the nucleus (Holtzman et al. 2020): the fewest heaviest tokens that hold `top_p` of the mass.

    Tokens that weigh exactly as much as the lightest of them belong to it too, so that no order between equals is needed.

    Args:
        weights: `[B, V]` >= 0, not normalised.
        top_p: in (0, 1].

    Returns:
        `[B]`.
    """
    return _smallest_kept(weights, weights.sum(-1, dtype=torch.float64) * top_p, _FIRST_CANDIDATES)


def _smallest_kept(weights: Tensor, wanted: Tensor, candidates: int) -> Tensor:
    candidates = min(candidates, weights.shape[1])
    heaviest = weights.topk(candidates).values
    mass = heaviest.cumsum(-1, dtype=torch.float64)
    num_kept = (mass - heaviest < wanted[:, None]).sum(-1)
    # None are kept where the mass is NaN.
    smallest = heaviest.gather(1, num_kept.clamp_(min=1)[:, None] - 1).squeeze(1)
    short = mass[:, -1] < wanted
    if candidates < weights.shape[1] and short.any():
        smallest[short] = _smallest_kept(weights[short], wanted[short], 16 * candidates)
    return smallest


def invert_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The first y with sum_{v <= y} w_v > u sum_v w_v; never a token of weight 0.

    Args:
        weights: `[B, V]` >= 0, not normalised, each row with a positive entry.
        uniforms: `[B]` float64 in [0, 1).

    Returns:
        `[B]` int64.
    """
    blocks = functional.pad(weights, (0, -weights.shape[1] % _BLOCK)).reshape(len(weights), -1, _BLOCK)
    masses = blocks.sum(-1, dtype=torch.float64)
    block, rest = _locate(masses, uniforms * masses.sum(-1))
    rows = torch.arange(len(weights), device=weights.device)
    offset, _ = _locate(blocks[rows, block].double(), rest)
    # Among NaNs the search may end anywhere.
    return (block * _BLOCK + offset).clamp_(max=weights.shape[1] - 1)


def _locate(masses: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """`[B]` index of the mass in which the running sum passes `target`, and how far into it the target lies."""
    running = masses.cumsum(-1)
    # Sums taken in another order may differ in the last bit: the target must stay below this one.
    target = torch.minimum(target, torch.nextafter(running[:, -1], torch.zeros_like(target)))
    index = torch.searchsorted(running, target[:, None], right=True).clamp_(max=masses.shape[1] - 1)
    before = running.gather(1, index) - masses.gather(1, index)
    return index.squeeze(1), (target - before.squeeze(1)).clamp_(min=0)
