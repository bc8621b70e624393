"""The best head over a body that stays as it is: what it sees, what it compares, the least loss by hand, who decides."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.alpaca_features import Featured, HiddenStates, depths_of
from bench.alpaca_held_out import Answers
from bench.alpaca_probe import Choice, best, compared, minimum, solve
from datamodules.packing import pack
from lightning_modules.models.reward_model import LastTokenReward, Pooling, RewardModelSpec, TokenSumReward
from tests.lightning_modules.stubs import make_pairs
from tests.tiny import write_model


@torch.no_grad()
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize(("place", "pooling"), [(0, "last"), (1, "sum")])
def test_features_are_what_the_heads_of_reward_models_read(place: int, pooling: Pooling, num_layers: int, tmp_path: Path) -> None:
    model, batch = str(write_model(tmp_path / "model")), pack(make_pairs(3))
    reward = RewardModelSpec(model, pooling=pooling, num_layers=num_layers).build()
    assert isinstance(reward, LastTokenReward | TokenSumReward)
    reward.head.weight.copy_(torch.linspace(-1, 1, 16))
    seen = HiddenStates(model, [1, 2])(batch)
    assert seen.shape == (6, 2, 2, 16)
    torch.testing.assert_close(seen[:, place, num_layers - 1] @ reward.head.weight[0], reward(batch), atol=1e-5, rtol=1e-5)


def test_depths() -> None:
    assert depths_of(30, cut=True) == [12, 15, 18, 21, 24]
    assert depths_of(2, cut=True) == [1, 2]
    assert depths_of(30, cut=False) == [30]


def fold(seed: int) -> Featured:
    """Ten prompts of four answers; what the second depth shows is what was judged, and a little noise; the first shows noise."""
    drawing = np.random.default_rng(seed)
    scores = np.tile([0, 1, 1, -1], 10)
    noise = drawing.normal(size=(2, 40, 3))
    noise[1, :, 1] = scores + 0.3 * noise[1, :, 1]
    return Featured(Answers(np.repeat(np.arange(10), 4), scores), {3: noise[0], 6: noise[1]})


def test_folds_choose_the_depth_that_shows_what_was_judged() -> None:
    folds = [fold(seed) for seed in range(4)]
    choice = best(folds)
    assert choice.num_layers == 6
    head = solve(folds, choice)
    assert abs(head[1]) > 5 * max(abs(head[0]), abs(head[2]))


def test_a_head_is_the_same_whatever_the_unit_of_a_feature() -> None:
    folds = [fold(seed) for seed in range(3)]
    unit = np.array([1.0, 1000.0, 0.01])
    scaled = [Featured(each.answers, {6: each.features[6] * unit}) for each in folds]
    np.testing.assert_allclose(solve(scaled, Choice(6, 1.0)) * unit, solve(folds, Choice(6, 1.0)), rtol=1e-6, atol=1e-9)


def test_the_best_head_by_hand() -> None:
    # Three prompts of one pair and one of two: -1 once in four prompts, so the odds are 3 and the weight log 3.
    differences = torch.tensor([[1.0], [1.0], [1.0], [1.0], [-1.0]], dtype=torch.float64)
    weights = torch.tensor([1.0, 1.0, 0.5, 0.5, 1.0], dtype=torch.float64)
    assert minimum(differences, weights, ridge=0.0).item() == pytest.approx(math.log(3), abs=1e-4)
    # With a ridge its pull equals that of the pairs, 3/4 sigma(-w) - 1/4 sigma(w).
    head = minimum(differences, weights, ridge=0.1).item()
    assert 0.1 * head == pytest.approx(0.75 / (1 + math.exp(head)) - 0.25 / (1 + math.exp(-head)), abs=1e-6)


def test_what_a_head_compares() -> None:
    of = Answers(np.array([0, 0, 0, 0, 1, 1]), np.array([0, 1, 1, -1, -1, 0]))
    better, worse, weight = compared(of)
    assert list(zip(better, worse, strict=True)) == [(0, 3), (1, 0), (1, 3), (2, 0), (2, 3), (5, 4)]
    assert weight.tolist() == [0.2] * 5 + [1.0]
    assert of.margins(np.array([1.0, 2, 4, 8, 16, 32])).tolist() == [1.0, 3.0, -7.0, 16.0]
