"""The best head over a body that stays as it is: a convex problem, solved to its end from one forward pass over all answers.

For a fold the head minimises, over the prompts of the other folds,

    mean over prompts, mean over pairs that differ in score, of -log sigma(w (h+ - h-))  +  ridge / 2 |w|^2

with features h of unit variance (`bench/alpaca_features.py`). Depth and ridge are those whose heads, each without one more fold,
order that fold's pairs best, the held-out fold deciding nothing; or they are given.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bench.alpaca_features import Featured, featured
from bench.alpaca_held_out import FILE, Answers, Floats, Integers, right
from bench.alpaca_pairs import Fold, all_folds
from datamodules.sources.tokenization import load_tokenizer
from lightning_modules.models.reward_model import LastTokenReward, Pooling, RewardModelSpec, TokenSumReward

RIDGES = (1e-2, 1e-1, 1.0, 10.0)
ITERATIONS = 200
"""Of L-BFGS at the most."""


@dataclass(frozen=True)
class Choice:
    """What is decided before a head is solved for."""

    num_layers: int
    ridge: float


def make(run: Path, model: str, fold: Fold, pooling: Pooling, cut: bool, given: Choice | None) -> None:
    """Write a reward model with the fold's head, what was chosen for it, and its rewards of the fold's answers."""
    every = {each: featured(model, pooling, cut, each) for each in all_folds(fold.max_tokens)}
    others = [of_other for other, of_other in every.items() if other != fold]
    choice = given or best(others)
    head = solve(others, choice)
    reward = RewardModelSpec(model, pooling=pooling, num_layers=choice.num_layers).build()
    assert isinstance(reward, LastTokenReward | TokenSumReward), "a pooling is of a scalar head"
    with torch.no_grad():
        reward.head.weight.copy_(torch.from_numpy(head))
    reward.save(run / "reward_model")
    load_tokenizer(model).save_pretrained(run / "reward_model")
    (run / "choice.json").write_text(json.dumps(asdict(choice)) + "\n", encoding="utf-8")
    np.save(run / FILE, every[fold].features[choice.num_layers] @ head)


def best(folds: Sequence[Featured]) -> Choice:
    """The choice whose heads order pairs best, each on the fold that it was solved without."""

    def accuracy(choice: Choice) -> float:
        shares = []
        for number, left_out in enumerate(folds):
            head = solve([*folds[:number], *folds[number + 1 :]], choice)
            shares.append(right(left_out.answers.margins(left_out.features[choice.num_layers] @ head)))
        return float(np.concatenate(shares).mean())

    return max(itertools.starmap(Choice, itertools.product(folds[0].features, RIDGES)), key=accuracy)


def solve(folds: Sequence[Featured], choice: Choice) -> Floats:
    """`[d]` weights of the head."""
    features = [fold.features[choice.num_layers] for fold in folds]
    scale = np.concatenate(features).std(0)
    differences, weights = [], []
    for fold, seen in zip(folds, features, strict=True):
        better, worse, weight = compared(fold.answers)
        differences.append((seen[better] - seen[worse]) / scale)
        weights.append(weight)
    head = minimum(torch.from_numpy(np.concatenate(differences)), torch.from_numpy(np.concatenate(weights)), choice.ridge)
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
