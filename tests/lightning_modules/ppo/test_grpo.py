"""GRPO and Dr. GRPO on the rollout engine, against TRL 1.16's own loss code, and what keeps good answers likely."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.optim import SGD

from lightning_modules.ppo.advantages import group_advantages
from lightning_modules.ppo.aggregation import Aggregation, CompletionMean, FixedLength, TokenMean, UpdateTotals
from lightning_modules.ppo.estimators import GRPO
from lightning_modules.ppo.kl_penalty import KLPenalty
from lightning_modules.ppo.objective import ppo_loss, preserved
from lightning_modules.ppo.rollout import TokenTable
from lightning_modules.ppo.settings import PPOSettings
from lightning_modules.token_stats import TokenStats
from tests.lightning_modules.losses.trl_stand_ins import ACCELERATOR, GRPOTrainer
from tests.lightning_modules.ppo import rig

pytestmark = pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`")

LENGTHS = torch.tensor([3, 6, 1, 4])


def drawn(seed: int) -> tuple[TokenStats, TokenTable]:
    generator = torch.Generator().manual_seed(seed)
    count = int(LENGTHS.sum())

    def noise() -> Tensor:
        return torch.randn(count, generator=generator, dtype=torch.float64)

    old = -1 - noise().abs()
    logps = (old + 0.3 * noise()).requires_grad_()
    sequence = torch.arange(4).repeat_interleave(LENGTHS)
    advantages = torch.tensor([1.2, -0.7, 0.4, -0.9], dtype=torch.float64)[sequence]
    blank = torch.zeros(count, dtype=torch.float64)
    stats = TokenStats(logps, blank, blank, blank, blank.bool(), sequence, 4)
    return stats, TokenTable(old, old + 0.2 * noise(), advantages)


def trl(stats: TokenStats, table: TokenTable, loss_type: str, beta: float) -> Tensor:
    """`[]` from `GRPOTrainer._compute_loss`, whose longest completion is 8."""

    def padded(values: Tensor) -> Tensor:
        parts = torch.split(values, LENGTHS.tolist())
        return torch.stack([torch.cat([part, part.new_zeros(6 - len(part))]) for part in parts])

    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(**vars(ACCELERATOR), reduce=lambda tensor, reduction: tensor),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=beta,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None),
        loss_type=loss_type,
        epsilon_low=0.2,
        epsilon_high=0.2,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=8,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (padded(stats.logps), padded(stats.entropy), None),
    )
    mask = (torch.arange(6) < LENGTHS[:, None]).long()
    inputs = {
        "prompt_ids": torch.zeros(4, 1, dtype=torch.int64),
        "prompt_mask": torch.ones(4, 1, dtype=torch.int64),
        "completion_ids": torch.zeros(4, 6, dtype=torch.int64),
        "completion_mask": mask,
        "advantages": padded(table.advantages)[:, 0],
        "old_per_token_logps": padded(table.old_logps),
        "ref_per_token_logps": padded(table.reference_logps),
    }
    loss: Tensor = GRPOTrainer._compute_loss(trainer, None, inputs)
    return loss


CASES: list[tuple[str, Aggregation]] = [("grpo", CompletionMean()), ("dr_grpo", FixedLength(8)), ("bnpo", TokenMean())]


@pytest.mark.parametrize(("name", "aggregation"), CASES)
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("seed", range(2))
def test_equals_trl(name: str, aggregation: Aggregation, beta: float, seed: int) -> None:
    stats, table = drawn(seed)
    settings = PPOSettings(aggregation=aggregation, kl_in_loss=beta, whiten_advantages=False)
    ours, theirs = ppo_loss(stats, None, table, settings).total / len(stats.logps), trl(stats, table, name, beta)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-9)
    (mine,) = torch.autograd.grad(ours, stats.logps, retain_graph=True)
    (expected,) = torch.autograd.grad(theirs, stats.logps)
    torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-12)
    assert expected.abs().max() > 1e-3


def test_an_update_weighs_its_parts_by_the_whole(tmp_path: Path) -> None:
    stats, table = drawn(0)
    settings = PPOSettings(aggregation=CompletionMean(), whiten_advantages=False)
    whole = ppo_loss(stats, None, table, settings).total
    totals, parts = UpdateTotals(4, len(stats.logps)), []
    for first, last in ((0, 2), (2, 4)):
        rows = (stats.target_sequence >= first) & (stats.target_sequence < last)
        own = {name: column[rows] for name, column in table.columns().items()}
        blank = torch.zeros(int(rows.sum()), dtype=torch.float64)
        part = TokenStats(stats.logps[rows], blank, blank, blank, blank.bool(), stats.target_sequence[rows] - first, last - first)
        parts.append(ppo_loss(part, None, TokenTable(**own), settings, totals).total)
    assert torch.stack(parts).sum().item() == pytest.approx(whole.item(), rel=1e-9)


@pytest.mark.parametrize("is_scaled", [True, False])
def test_group_advantages_are_those_of_each_group(is_scaled: bool) -> None:
    scores = torch.tensor([1.0, 0.0, 0.0, 0.5, 2.0, 7.0], dtype=torch.float64)
    groups = torch.tensor([0, 0, 0, 1, 1, 2])
    expected = []
    for number in range(3):
        own = scores[groups == number]
        deviation = own.std() + 1e-4 if len(own) > 1 and is_scaled else torch.ones(())
        expected.append((own - own.mean()) / deviation)
    torch.testing.assert_close(group_advantages(scores, groups, is_scaled=is_scaled), torch.cat(expected), rtol=1e-12, atol=1e-12)


def test_what_is_preserved_by_hand() -> None:
    # Good and fallen (its second token rose); bad and fallen; good and risen, with one token that fell.
    sequence = torch.tensor([0, 0, 1, 2, 2])
    old = torch.full((5,), -2.0)
    logps = torch.tensor([-3.0, -1.5, -4.0, -1.0, -2.5], requires_grad=True)
    blank = torch.zeros(5)
    stats = TokenStats(logps, blank, blank, blank, blank.bool(), sequence, 3)
    terms = preserved(stats, TokenTable(old, old, torch.tensor([1.0, 1.0, -1.0, 0.5, 0.5])))
    assert terms.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    (gradient,) = torch.autograd.grad(terms.sum(), logps)
    assert gradient.tolist() == [-1.0, 0.0, 0.0, 0.0, 0.0]


def test_a_run_takes_the_same_steps_however_its_updates_are_cut(tmp_path: Path) -> None:
    settings = PPOSettings(
        num_minibatches=2,
        max_tokens_per_batch=24,
        whiten_advantages=False,
        aggregation=CompletionMean(),
        kl_in_loss=0.1,
        preservation=0.1,
    )
    cut = rig.module(advantages=GRPO(), settings=settings, kl=KLPenalty(0.0), optimizer=partial(SGD, lr=0.5))
    rig.fit(tmp_path / "a", cut, max_steps=4)
    whole = PPOSettings(**vars(settings) | {"max_tokens_per_batch": 100_000})
    other = rig.module(advantages=GRPO(), settings=whole, kl=KLPenalty(0.0), optimizer=partial(SGD, lr=0.5))
    rig.fit(tmp_path / "b", other, max_steps=4)
    for a, b in zip(cut.policy.parameters(), other.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_length_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="expected length >= 1, got 0"):
        FixedLength(0)
    with pytest.raises(ValueError, match=r"expected finite kl_in_loss and preservation >= 0, got -0\.1 and 0\.0"):
        PPOSettings(kl_in_loss=-0.1)
