"""The draw: inverse of the distribution, exact nucleus, log-probs at temperature 1."""

from __future__ import annotations

import math

import pytest
import torch

from datamodules.contracts.prompts import Sampling
from lightning_modules.models.generation.draw import draw, invert_cdf, nucleus_threshold


def _logits(probs: list[float]) -> torch.Tensor:
    return torch.tensor([probs], dtype=torch.float64).log()


def _drawn(probs: list[float], us: list[float], **parameters: float) -> list[int]:
    rows = _logits(probs).repeat(len(us), 1)
    return draw(rows, torch.tensor(us, dtype=torch.float64), Sampling(**parameters))[0].tolist()  # type: ignore[arg-type]


def test_token_is_the_first_whose_cumulative_probability_exceeds_the_uniform() -> None:
    assert _drawn([0.1, 0.2, 0.4, 0.3], [0.0, 0.099, 0.101, 0.299, 0.301, 0.699, 0.701, 0.999]) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_temperature_raises_probabilities_to_its_inverse_and_renormalises() -> None:
    # T = 1/2 squares: 1, 4, 9 of 14.
    assert _drawn([1 / 6, 2 / 6, 3 / 6], [1 / 14 - 1e-9, 1 / 14 + 1e-9, 5 / 14 - 1e-9, 5 / 14 + 1e-9], temperature=0.5) == [
        0,
        1,
        1,
        2,
    ]


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.30, {2}),  # 0.4 alone holds it
        (0.40, {2}),  # exactly
        (0.41, {2, 3}),
        (0.70, {2, 3}),
        (0.71, {1, 2, 3}),
        (0.95, {0, 1, 2, 3}),
        (1.0, {0, 1, 2, 3}),
    ],
)
def test_nucleus_is_the_fewest_likeliest_tokens_that_hold_top_p(top_p: float, kept: set[int]) -> None:
    # Tenths: 0.1, 0.2, 0.4, 0.3.
    weights = torch.tensor([[1.0, 2.0, 4.0, 3.0]])
    threshold = nucleus_threshold(weights, top_p)
    assert set((weights[0] >= threshold).nonzero().flatten().tolist()) == kept


def test_nucleus_is_renormalised() -> None:
    # Kept 0.4 and 0.3: the boundary lies at 4/7.
    assert _drawn([0.1, 0.2, 0.4, 0.3], [0.0, 4 / 7 - 1e-9, 4 / 7 + 1e-9, 0.999], top_p=0.6) == [2, 2, 3, 3]


def test_nucleus_of_the_tempered_distribution_differs() -> None:
    # Squared and renormalised, 16 of 30 alone holds 0.5; untempered, 0.4 does not.
    us = [0.01, 0.99]
    assert _drawn([0.1, 0.2, 0.4, 0.3], us, top_p=0.5, temperature=0.5) == [2, 2]
    assert _drawn([0.1, 0.2, 0.4, 0.3], us, top_p=0.5) == [2, 3]


def test_equals_at_the_edge_of_the_nucleus_are_all_kept() -> None:
    weights = torch.tensor([[4.0, 2.0, 2.0, 1.0, 1.0]])
    assert (weights >= nucleus_threshold(weights, 0.5)).tolist() == [[True, True, True, False, False]]


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_nucleus_of_wide_flat_and_peaked_rows_equals_a_full_sort(top_p: float) -> None:
    # Flat rows need thousands of tokens, peaked ones a few: all rungs of the search are taken.
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([0.01, 0.5, 2.0, 6.0])[:, None]
    weights = (scale * torch.randn(4, 5000, generator=generator)).exp()
    expected = []
    for row in weights.double().tolist():
        ordered, mass, total = sorted(row, reverse=True), 0.0, math.fsum(row)
        for weight in ordered:
            mass += weight
            if mass >= top_p * total:
                break
        expected.append(weight)
    assert nucleus_threshold(weights, top_p).tolist() == expected


def test_inverse_agrees_with_exact_sums_across_blocks_and_zeros() -> None:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randint(0, 4, (300, 1000), generator=generator).float()
    us = torch.rand(300, generator=generator, dtype=torch.float64)
    us[:2] = torch.tensor([0.0, 1 - 2**-53])
    # Integers: every sum is exact in float64.
    running = weights.double().cumsum(-1)
    expected = (running <= us[:, None] * running[:, -1:]).sum(-1)
    # The largest uniform times the total rounds to the total.
    expected[1] = weights[1].nonzero()[-1]
    drawn = invert_cdf(weights, us)
    assert torch.equal(drawn, expected)
    assert (weights.gather(1, drawn[:, None]) > 0).all()


def test_log_probs_are_those_of_the_untempered_full_distribution() -> None:
    logits = torch.randn(5, 700, generator=torch.Generator().manual_seed(2))
    us = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    for parameters in (Sampling(temperature=0), Sampling(temperature=0.3, top_p=0.5)):
        tokens, logps = draw(logits, us, parameters)
        expected = logits.double().log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)
        torch.testing.assert_close(logps.double(), expected, atol=1e-6, rtol=0)


def test_tiny_temperature_is_greedy_and_does_not_overflow() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    tokens, _ = draw(logits, torch.tensor([0.999], dtype=torch.float64), Sampling(temperature=1e-30))
    assert tokens.tolist() == [1]


@pytest.mark.parametrize("parameters", [Sampling(1, 0), Sampling(1), Sampling(1, 0.7, 0.5)])
@pytest.mark.parametrize("bad", [[1.0, math.nan, 2.0], [math.nan] * 3, [1.0, math.inf, 2.0], [-math.inf] * 3])
def test_logits_that_are_not_finite_give_a_token_of_the_vocabulary_and_no_log_prob(parameters: Sampling, bad: list[float]) -> None:
    # The host looks later: until then the token must be one that can be fed, or a device fails for good.
    logits = torch.tensor([bad, [1.0, 2.0, 3.0]])
    tokens, logps = draw(logits, torch.tensor([0.5, 0.5], dtype=torch.float64), parameters)
    assert ((tokens >= 0) & (tokens < 3)).all()
    assert torch.isfinite(logps).tolist() == [False, True]


def test_logits_of_minus_infinity_are_never_drawn() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf]])
    tokens, logps = draw(logits, torch.tensor([0.999], dtype=torch.float64), Sampling(1))
    assert (tokens.tolist(), logps.tolist()) == ([1], [0.0])
