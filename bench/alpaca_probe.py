"""The best head over a body that stays as it is: a convex problem, solved to its end from one forward pass over all answers.

Features of an answer are the body's last hidden state at its last token, where a reward model's head reads it. For a fold the head
minimises, over the prompts of the other folds,

    mean over prompts, mean over pairs that differ in score, of -log sigma(w (h+ - h-))  +  ridge / 2 |w|^2

with features of unit variance. The ridge is the one whose heads, each without one more fold, order that fold's pairs best; the
held-out fold decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from bench.alpaca_held_out import FILE, Answers, Floats, Integers, Rewards, answers, kept, right
from bench.alpaca_pairs import FOLDS, of_fold
from datamodules.sources.tokenization import load_tokenizer
from lightning_modules.models.reward_model import LastTokenReward
from lightning_modules.models.scalar import HEAD, load_scalar

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
ITERATIONS = 200
"""Of L-BFGS at the most."""


@dataclass(frozen=True)
class Featured:
    """Answers with what the head sees of them."""

    answers: Answers
    features: Floats
    """`[answers, d]`."""


def make(run: Path, model: str, fold: int) -> None:
    """Write the reward model that has a fold's head, and its rewards of the fold's answers, to the folder of a run."""
    every = [featured(model, each) for each in range(FOLDS)]
    others = [each for number, each in enumerate(every) if number != fold]
    head = solve(others, best_ridge(others))
    scalar = load_scalar(model)
    with torch.no_grad():
        scalar.head.weight.copy_(torch.from_numpy(head))
    scalar.save(run / "reward_model")
    load_tokenizer(model).save_pretrained(run / "reward_model")
    np.save(run / FILE, every[fold].features @ head)


def featured(model: str, fold: int) -> Featured:
    """The answers to a fold's held-out prompts."""
    return Featured(answers(model, fold), kept(of_fold(fold) / "features.npy", partial(last_hidden, model), model, fold))


def last_hidden(model: str) -> Rewards:
    """The body's last hidden state at the last token of each answer."""
    scalar = load_scalar(model)
    body = LastTokenReward(scalar.model, scalar.attention).eval()
    setattr(body.model, HEAD, nn.Identity())
    return body


def best_ridge(folds: Sequence[Featured]) -> float:
    """The ridge whose heads order pairs best, each on the fold that it was solved without."""

    def accuracy(ridge: float) -> float:
        shares = []
        for number, left_out in enumerate(folds):
            head = solve([*folds[:number], *folds[number + 1 :]], ridge)
            shares.append(right(left_out.answers.margins(left_out.features @ head)))
        return float(np.concatenate(shares).mean())

    return max(RIDGES, key=accuracy)


def solve(folds: Sequence[Featured], ridge: float) -> Floats:
    """`[d]` weights of the head."""
    scale = np.concatenate([fold.features for fold in folds]).std(0)
    differences, weights = [], []
    for fold in folds:
        better, worse, weight = compared(fold.answers)
        differences.append((fold.features[better] - fold.features[worse]) / scale)
        weights.append(weight)
    head = minimum(torch.from_numpy(np.concatenate(differences)), torch.from_numpy(np.concatenate(weights)), ridge)
    solution: Floats = head.numpy() / scale
    return solution


def minimum(differences: Tensor, weights: Tensor, ridge: float) -> Tensor:
    """`[d]` where the loss of `[pairs, d]` differences with `[pairs]` weights is least."""
    head = torch.zeros(differences.shape[1], dtype=differences.dtype, requires_grad=True)
    search = torch.optim.LBFGS([head], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> float:
        search.zero_grad()
        loss = -(weights * logsigmoid(differences @ head)).sum() / weights.sum() + ridge / 2 * head.square().sum()
        loss.backward()
        return loss.item()

    search.step(closure)
    return head.detach()


def compared(of: Answers) -> tuple[Integers, Integers, Floats]:
    """`[pairs]` the better answer, the worse one, and one by the number of the prompt's pairs; all that differ in score."""
    pairs = [(i, j) for prompt in range(of.prompts.max() + 1) for i, j in differing(of, np.flatnonzero(of.prompts == prompt))]
    better, worse = np.array(pairs).T
    return better, worse, 1 / np.bincount(of.prompts[better])[of.prompts[better]]


def differing(of: Answers, group: Integers) -> list[tuple[int, int]]:
    """Pairs of a prompt's answers, the better one first."""
    return [(i, j) for i in group for j in group if of.scores[i] > of.scores[j]]
