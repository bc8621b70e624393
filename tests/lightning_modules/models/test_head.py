"""The tiled head against autograd through explicit logits."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.models.heads import head as head_module
from lightning_modules.models.heads.head import HeadStats, ScoringHead
from lightning_modules.models.heads.tiled_logits import TileShape
from lightning_modules.token_stats import TokenStats, softmax_gradient_l2

V, H = 23, 7


def make_head(dtype: torch.dtype, *, bias: bool = False, softcap: float | None = None, scale: float = 1.0) -> ScoringHead:
    torch.manual_seed(0)
    linear = nn.Linear(H, V, bias=bias, dtype=dtype)
    return ScoringHead.adopt(linear, softcap=softcap, scale=scale)


def full_log_probs(head: ScoringHead, hidden: Tensor) -> Tensor:
    """The definition, in one piece: `[K, V]`."""
    logits = head.scale * (hidden @ head.weight.T + (0 if head.bias is None else head.bias))
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return logits.log_softmax(-1)


def inputs(positions: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(positions, H, generator=generator, dtype=torch.float64).mul(3).to(dtype).requires_grad_()
    # A small range: every target is repeated.
    targets = torch.randint(4, (positions,), generator=generator)
    weights = torch.randn(positions, generator=generator, dtype=torch.float64).to(dtype)
    return hidden, targets, weights


def gradients(loss: Tensor, head: ScoringHead, hidden: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [hidden, *head.parameters()]))


CASES = [
    pytest.param({}, id="plain"),
    pytest.param({"bias": True}, id="bias"),
    pytest.param({"softcap": 2.0}, id="softcap"),
    pytest.param({"scale": 0.3}, id="scale"),
    pytest.param({"bias": True, "softcap": 3.0, "scale": 1.7}, id="all"),
]


@pytest.mark.parametrize("options", CASES)
@pytest.mark.parametrize("positions", [1, 5, 12])
@pytest.mark.parametrize("tile", [(1, 1), (4, 5), (5, 23), (12, 22), (100, 100)])
def test_equals_autograd_through_full_logits(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], positions: int, tile: tuple[int, int]
) -> None:
    monkeypatch.setattr(head_module, "CPU_TILE", TileShape(*tile))
    head = make_head(torch.float64, **options)
    hidden, targets, weights = inputs(positions, torch.float64)
    stats = head(hidden, targets)
    log_probs = full_log_probs(head, hidden)
    probs = log_probs.exp()
    logps = log_probs.gather(1, targets[:, None]).squeeze(1)
    others = probs.scatter(1, targets[:, None], 0.0).square().sum(1)
    entropy, is_top1 = -(probs * log_probs).sum(1), log_probs.argmax(1) == targets
    expected = HeadStats(logps, entropy, probs.square().sum(1), probs.amax(1), is_top1, others)
    for name, got, want in zip(HeadStats._fields, stats, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12, msg=partial("{}: {}".format, name))
    assert [value.requires_grad for value in stats[:6]] == [True, False, False, False, False, False]
    for got, want in zip(gradients(stats.logps @ weights, head, hidden), gradients(logps @ weights, head, hidden), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_gradcheck_of_a_loss_that_is_not_linear() -> None:
    head = make_head(torch.float64, bias=True, softcap=2.0)
    hidden, targets, _ = inputs(6, torch.float64)
    assert torch.autograd.gradcheck(lambda h: head(h, targets).logps.sigmoid().sum(), [hidden])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_low_precision_stays_close_to_float64(dtype: torch.dtype, tolerance: float) -> None:
    head = make_head(dtype)
    hidden, targets, weights = inputs(12, dtype)
    exact_head = make_head(dtype).double()
    exact_hidden = hidden.detach().double().requires_grad_()
    stats, exact = head(hidden, targets), exact_head(exact_hidden, targets)
    assert all(value.dtype == torch.float32 for value in stats[:4])
    # The statistics themselves are float32 arithmetic on the given numbers, even under bfloat16.
    torch.testing.assert_close(stats.logps.double(), exact.logps, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(stats.entropy.double(), exact.entropy, rtol=1e-5, atol=1e-5)
    got = gradients(stats.logps @ weights.float(), head, hidden)
    want = gradients(exact.logps @ weights.double(), exact_head, exact_hidden)
    for ours, theirs in zip(got, want, strict=True):
        assert ours.dtype == dtype
        assert (ours.double() - theirs).norm() <= tolerance * theirs.norm()


def test_exact_in_float32_where_the_target_has_all_but_a_little_of_the_mass() -> None:
    head = make_head(torch.float32)
    targets, margins = torch.arange(6), torch.tensor([1.0, 2.0, 5.0, 10.0, 15.0, 20.0])
    # Whole numbers, so that the logits themselves are exact: each row's target leads by its margin.
    with torch.no_grad():
        head.weight.copy_(torch.randint(-2, 1, (V, H), generator=torch.Generator().manual_seed(0)))
        head.weight[targets, targets] = 1
    hidden = torch.eye(6, H) * margins[:, None]
    stats = head(hidden, targets)
    stats.logps.retain_grad()
    stats.logps.sum().backward()

    logits = hidden.double() @ head.weight.detach().double().T
    probs = logits.softmax(1).scatter(1, targets[:, None], 0.0)
    torch.testing.assert_close(-torch.expm1(stats.logps).double(), probs.sum(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(stats.other_sq_probs.double(), probs.square().sum(1), rtol=1e-6, atol=0)
    gradient = torch.cat([probs, probs.sum(1, keepdim=True)], 1)
    token_stats = TokenStats(**stats._asdict(), target_sequence=targets, num_sequences=6)
    got = softmax_gradient_l2(stats.logps.grad, token_stats)
    torch.testing.assert_close(got.double(), gradient.norm(dim=1), rtol=1e-6, atol=0)
    assert gradient.norm(dim=1).min() < 1e-7


def test_no_positions() -> None:
    head = make_head(torch.float32, bias=True)
    hidden = torch.empty(0, H, requires_grad=True)
    stats = head(hidden, torch.empty(0, dtype=torch.int64))
    assert all(value.shape == (0,) for value in stats[:6])
    assert all(grad.abs().sum() == 0 for grad in gradients(stats.logps.sum(), head, hidden))


def test_frozen_inputs_get_no_gradient() -> None:
    head = make_head(torch.float32, bias=True).requires_grad_(False)
    hidden, targets, weights = inputs(5, torch.float32)
    (head(hidden, targets).logps @ weights).backward()
    assert hidden.grad is not None
    assert head.weight.grad is None
    head.requires_grad_(True)
    (head(hidden.detach(), targets).logps @ weights).backward()
    assert head.weight.grad is not None


def test_extreme_logits_stay_finite() -> None:
    head = make_head(torch.float32)
    hidden = torch.randn(3, H).mul(1e4).requires_grad_()
    stats = head(hidden, torch.tensor([0, 1, 2]))
    stats.logps.sum().backward()
    assert all(value.isfinite().all() for value in [*stats[:4], hidden.grad])
    assert (stats.entropy >= 0).all()


def test_under_autocast_sums_stay_float32() -> None:
    head = make_head(torch.float32)
    hidden, targets, weights = inputs(12, torch.float32)
    expected = head(hidden, targets)
    with torch.autocast("cpu", torch.bfloat16):
        stats = head(hidden, targets)
    torch.testing.assert_close(stats.logps, expected.logps)
    torch.testing.assert_close(gradients(stats.logps @ weights, head, hidden), gradients(expected.logps @ weights, head, hidden))


def test_adopted_head_shares_parameters_and_is_the_linear_layer_without_targets() -> None:
    linear = nn.Linear(H, V)
    head = ScoringHead.adopt(linear, softcap=2.0, scale=3.0)
    assert head.weight is linear.weight
    assert head.bias is linear.bias
    hidden = torch.randn(2, 3, H)
    torch.testing.assert_close(head(hidden), linear(hidden))
