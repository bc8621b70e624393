"""Rounded at random, weights move by the step on average; rounded to nearest, they stay where they are."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import SGD, AdamW

from lightning_modules.optimization.stochastic_rounding import StochasticAdamW, require_weights_that_move, round_stochastically


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("value", [1.001, -1.001, 3e-5, -0.7, 1e30])
def test_the_mean_is_the_value_and_only_neighbours_come(value: float) -> None:
    count = 200_000
    rounded = round_stochastically(torch.full((count,), value), generator()).double()
    nearest = torch.tensor(value).bfloat16().double()
    spacing = torch.tensor(value).abs().log2().floor().exp2() * 2**-7
    assert len(rounded.unique()) == 2
    assert (rounded - nearest).abs().max() <= spacing
    exact = float(torch.tensor(value))
    # Five standard errors of a coin with that spacing.
    assert abs(rounded.mean() - exact) <= 5 * 0.5 * spacing / count**0.5


def test_what_bfloat16_holds_stays_and_so_does_what_is_not_finite() -> None:
    kept = torch.tensor([0.0, 1.5, -2.0, float("inf"), float("-inf")])
    assert torch.equal(round_stochastically(kept, generator()).float(), kept)
    assert round_stochastically(torch.tensor([float("nan")]), generator()).isnan().all()


def losses(parameters: Sequence[Tensor]) -> Tensor:
    return torch.stack([(p.float() * (i + 1) - i).square().mean() for i, p in enumerate(parameters)]).sum()


def parameters(dtype: torch.dtype) -> list[Parameter]:
    torch.manual_seed(0)
    return [Parameter(torch.randn(40, 30).bfloat16().to(dtype)) for _ in range(2)]


def train(optimizer: torch.optim.Optimizer, weights: Sequence[Tensor], steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        losses(weights).backward()
        optimizer.step()


def test_float32_weights_step_as_under_adamw() -> None:
    ours, theirs = parameters(torch.float32), parameters(torch.float32)
    train(StochasticAdamW(ours, lr=0.01, weight_decay=0.1), ours, 20)
    train(AdamW(theirs, lr=0.01, weight_decay=0.1), theirs, 20)
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)


def test_bfloat16_weights_move_as_float32_ones_at_the_rates_of_preference_training() -> None:
    exact, rounded, nearest = parameters(torch.float32), parameters(torch.bfloat16), parameters(torch.bfloat16)
    starts = [p.detach().double().clone() for p in exact]
    train(AdamW(exact, lr=1e-6, weight_decay=0.0), exact, 100)
    train(StochasticAdamW(rounded, lr=1e-6, weight_decay=0.0), rounded, 100)
    train(AdamW(nearest, lr=1e-6, weight_decay=0.0), nearest, 100)

    def progress(weights: Sequence[Tensor]) -> float:
        """Of the update in float32, how much came."""
        moved, wanted = (
            torch.cat([(w.detach().double() - s).flatten() for w, s in zip(x, starts, strict=True)]) for x in (weights, exact)
        )
        return float(moved @ wanted / (wanted @ wanted))

    assert progress(rounded) == pytest.approx(1, abs=0.3)
    assert progress(nearest) < 0.05


def test_a_resumed_optimizer_goes_on_to_the_same_bits() -> None:
    straight, stopped = parameters(torch.bfloat16), parameters(torch.bfloat16)
    optimizer = StochasticAdamW(straight, lr=1e-4)
    train(optimizer, straight, 6)
    first = StochasticAdamW(stopped, lr=1e-4)
    train(first, stopped, 3)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    again = StochasticAdamW(stopped, lr=1e-4)
    again.load_state_dict(torch.load(file, weights_only=True))
    train(again, stopped, 3)
    for one, two in zip(straight, stopped, strict=True):
        assert torch.equal(one, two)
    assert again.state[stopped[0]]["exp_avg"].dtype == torch.float32


def test_the_seed_changes_the_bits_and_nothing_else_does() -> None:
    runs = []
    for seed in (0, 0, 1):
        weights = parameters(torch.bfloat16)
        train(StochasticAdamW(weights, lr=1e-4, seed=seed), weights, 3)
        torch.rand(1)
        runs.append(weights[0].detach())
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"betas": (0.9, 1.0)}, {"eps": -1e-8}])
def test_arguments_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected lr, eps, weight_decay >= 0"):
        StochasticAdamW(parameters(torch.float32), **options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_under_another_optimizer_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"expected float32 weights under SGD, got torch\..*StochasticAdamW"):
        require_weights_that_move(SGD(nn.Linear(2, 2, dtype=dtype).parameters(), lr=0.1))
    require_weights_that_move(SGD(nn.Linear(2, 2).parameters(), lr=0.1))


def test_float16_is_refused() -> None:
    with pytest.raises(ValueError, match="bf16-true"):
        StochasticAdamW(nn.Linear(2, 2, dtype=torch.float16).parameters())


def test_how_parameters_are_cut_into_chunks_changes_no_float32_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together, alone, or transposed in memory: every parameter is stepped by itself."""
    runs = []
    for chunk in (1 << 24, 1, 1300):
        monkeypatch.setattr("lightning_modules.optimization.stochastic_rounding._CHUNK", chunk)
        weights = [*parameters(torch.float32), Parameter(parameters(torch.float32)[0].detach().T)]
        train(StochasticAdamW(weights, lr=0.01), weights, 3)
        runs.append(torch.cat([weight.detach().flatten() for weight in weights]))
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


@pytest.mark.gpu
def test_on_a_gpu_bfloat16_weights_move_as_float32_ones() -> None:
    exact, rounded = ([Parameter(p.detach().cuda()) for p in parameters(dtype)] for dtype in (torch.float32, torch.bfloat16))
    start = torch.cat([p.detach().flatten().double() for p in exact])
    train(AdamW(exact, lr=1e-5, weight_decay=0.0), exact, 50)
    train(StochasticAdamW(rounded, lr=1e-5, weight_decay=0.0), rounded, 50)
    wanted, moved = (torch.cat([p.detach().flatten().double() for p in weights]) - start for weights in (exact, rounded))
    assert float(moved @ wanted / (wanted @ wanted)) == pytest.approx(1, abs=0.3)
