"""The tiled KL of two distributions against autograd through explicit logits in float64, and against `torch.distributions`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence

from lightning_modules.models.heads import tiled_divergence
from lightning_modules.models.heads.head import HeadStats, ScoringHead
from lightning_modules.models.heads.tiled_divergence import Compared
from lightning_modules.models.heads.tiled_logits import LogitTransform, TileShape
from lightning_modules.token_stats import TokenStats, softmax_gradient_l2

V, H, OTHER_H, K = 23, 7, 5, 11
TILES = [TileShape(512, 1024), TileShape(4, 5), TileShape(3, 23)]


def head(width: int, seed: int, *, bias: bool, softcap: float | None, scale: float) -> ScoringHead:
    torch.manual_seed(seed)
    return ScoringHead.adopt(nn.Linear(width, V, bias=bias, dtype=torch.float64), softcap=softcap, scale=scale)


def logits(own: ScoringHead, hidden: Tensor) -> Tensor:
    """The definition, in one piece: `[K, V]`."""
    plain = own.scale * nn.functional.linear(hidden, own.weight, own.bias)
    return plain if own.softcap is None else own.softcap * torch.tanh(plain / own.softcap)


def states(width: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return 3 * torch.randn(K, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def compared(own: ScoringHead, hidden: Tensor, targets: Tensor) -> Compared:
    logps = logits(own, hidden).log_softmax(-1)[torch.arange(K), targets].detach()
    bias = None if own.bias is None else own.bias.detach()
    return Compared(hidden, own.weight.detach(), bias, LogitTransform(own.scale, own.softcap), logps)


@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize(
    ("policy", "reference"),
    [
        ({"bias": False, "softcap": None, "scale": 1.0}, {"bias": True, "softcap": None, "scale": 1.0}),
        ({"bias": True, "softcap": 4.0, "scale": 0.5}, {"bias": False, "softcap": 6.0, "scale": 2.0}),
    ],
    ids=["plain", "bias, soft-cap, scale"],
)
def test_values_and_gradients(
    tile: TileShape, policy: dict[str, float], reference: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiled_divergence, "CPU_TILE", tile)
    own, other = head(H, 0, **policy), head(OTHER_H, 1, **reference)  # type: ignore[arg-type]
    hidden, targets = states(H, 2).requires_grad_(), torch.arange(K) % 4
    weights = torch.randn(2, K, dtype=torch.float64)
    stats = own(hidden, targets, compared(other, states(OTHER_H, 3), targets))
    assert isinstance(stats, HeadStats)
    assert stats.divergence is not None
    inputs = [hidden, *own.parameters()]
    z, r = logits(own, hidden), logits(other, states(OTHER_H, 3)).detach()
    expected = kl_divergence(Categorical(logits=r), Categorical(logits=z))
    torch.testing.assert_close(stats.divergence.kl, expected, rtol=1e-9, atol=1e-12)
    p, q = z.softmax(-1).detach(), r.softmax(-1)
    torch.testing.assert_close(stats.divergence.overlap, (p * q).sum(-1), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(stats.divergence.reference_sum_sq, q.square().sum(-1), rtol=1e-9, atol=1e-12)
    loss = (weights[0] * stats.logps + weights[1] * stats.divergence.kl).sum()
    plain = (weights[0] * z.log_softmax(-1)[torch.arange(K), targets] + weights[1] * expected).sum()
    at_logits = torch.autograd.grad(plain, z, retain_graph=True)[0]
    for mine, wanted in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(plain, inputs), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-11)
    # The norm at the logits, from statistics alone.
    fields = stats._asdict() | {"target_sequence": torch.zeros(K, dtype=torch.int64), "num_sequences": 1}
    torch.testing.assert_close(
        softmax_gradient_l2(weights[0], TokenStats(**fields), weights[1]), at_logits.norm(dim=-1), rtol=1e-8, atol=1e-10
    )


def test_it_is_zero_between_equals_and_keeps_single_precision() -> None:
    own = head(H, 0, bias=True, softcap=None, scale=1.0).float()
    hidden, targets = states(H, 2, torch.float32), torch.arange(K) % 4
    same = own(hidden, targets, compared(own, hidden, targets))
    assert isinstance(same, HeadStats)
    assert same.divergence is not None
    assert torch.equal(same.divergence.kl, torch.zeros(K))
    torch.testing.assert_close(same.divergence.gap_squared(same.sum_sq_probs), torch.zeros(K), rtol=0, atol=1e-6)
    far = own(hidden, targets, compared(own, -hidden, targets))
    assert isinstance(far, HeadStats)
    assert far.divergence is not None
    wide = own.double()
    expected = kl_divergence(Categorical(logits=logits(wide, -hidden.double())), Categorical(logits=logits(wide, hidden.double())))
    torch.testing.assert_close(far.divergence.kl.double(), expected, rtol=1e-5, atol=1e-5)
