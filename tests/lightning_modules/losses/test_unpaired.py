"""KTO and BCO of single labelled completions, against TRL's own code, formulas by hand, and autograd."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lightning_modules.losses.completions import Completions, SumsOfStep
from lightning_modules.losses.unpaired_bco import UnpairedBCOLoss
from lightning_modules.losses.unpaired_kto import UnpairedKTOLoss
from lightning_modules.steps.whole_step import joined
from tests.lightning_modules.losses.completion_cases import LABELLED_KINDS, Case, case, gradient_at_logits
from tests.lightning_modules.losses.trl_stand_ins import ACCELERATOR, KTOTrainer, model_returning

SEEDS = (0, 21, 26)
"""Of completions with an estimated KL below 0 and above it."""


def trl_kto(made: Case, beta: float, desirable: float, undesirable: float) -> Tensor:
    """`[]` mean loss of TRL's KTOTrainer, whose KL log-probs are those of the mismatched completions."""
    sums = made.completions.sums
    labelled = [number for number, kind in enumerate(sums.kinds) if kind != "mismatched"]
    strays = sums.of_kind("mismatched")
    longest = int(sums.lengths.max())
    # One prompt token, then the completion's: TRL shifts by one.
    token_logps = torch.zeros(len(labelled), longest, dtype=torch.float64)
    rows = []
    for row, number in enumerate(labelled):
        own = made.completions.tokens.policy[made.completions.tokens.sequence == number]
        rows.append(torch.cat([own, token_logps[row, len(own) :]]))
    assert sums.reference is not None
    mask = torch.arange(longest + 1) <= sums.lengths[labelled][:, None]
    mask[:, 0] = False
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        accelerator=ACCELERATOR,
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        calculate_KL=True,
        beta=beta,
        desirable_weight=desirable,
        undesirable_weight=undesirable,
        loss_type="kto",
        _total_train_tokens=0,
        _compute_kl_logps=lambda model, batch: sums.policy[strays].detach(),
        _metrics={"eval": defaultdict(list)},
    )
    inputs = {
        "input_ids": torch.zeros_like(mask, dtype=torch.int64),
        "attention_mask": torch.ones_like(mask, dtype=torch.int64),
        "completion_mask": mask.long(),
        "label": torch.tensor([sums.kinds[number] == "chosen" for number in labelled]),
        "ref_logps": sums.reference[labelled],
        "ref_KL_logps": sums.reference[strays],
    }
    loss: Tensor = KTOTrainer._compute_loss(trainer, model_returning(torch.stack(rows)), inputs, return_outputs=False)
    return loss


@pytest.mark.parametrize("seed", SEEDS)
def test_kto_equals_trl(seed: int) -> None:
    made = case(LABELLED_KINDS, seed=seed)
    loss = UnpairedKTOLoss(beta=0.3, desirable_weight=1.5, undesirable_weight=0.7)
    ours, theirs = loss.of(made.completions).losses.mean(), trl_kto(made, 0.3, 1.5, 0.7)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-9)
    (expected,) = torch.autograd.grad(theirs, made.logits, retain_graph=True)
    torch.testing.assert_close(gradient_at_logits(loss, made) / 5, expected, rtol=1e-9, atol=1e-12)
    assert expected.abs().max() > 1e-3


def test_the_seeds_have_a_kl_on_both_sides_of_0() -> None:
    means = []
    for seed in SEEDS:
        sums = case(LABELLED_KINDS, seed=seed).completions.sums
        means.append(sums.log_ratios()[sums.of_kind("mismatched")].mean().item())
    assert min(means) < 0 < max(means)


def labelled(ratios: list[tuple[str, float]]) -> Completions:
    """Completions of one token with these log-ratios."""
    made = case([[(kind, 1, None)] for kind, _ in ratios]).completions
    policy = torch.tensor([value for _, value in ratios], dtype=torch.float64)
    return replace(made, sums=replace(made.sums, policy=policy, reference=torch.zeros_like(policy)))


def test_kto_by_hand() -> None:
    losses, good, bad = UnpairedKTOLoss(beta=0.5).of(
        labelled([("chosen", 2.0), ("mismatched", 1.0), ("rejected", -1.0), ("mismatched", 2.0)])
    )
    # z = 1.5: 1 - sig(0.25) and 1 - sig(1.25).
    assert losses.tolist() == pytest.approx([1 / (1 + math.exp(0.25)), 1 / (1 + math.exp(1.25))], rel=1e-12)
    assert (good.tolist(), bad.tolist()) == ([1.0], [-0.5])


def test_bco_by_hand_and_its_incentives() -> None:
    completions = labelled([("chosen", 3.0), ("rejected", -1.0), ("rejected", 1.0)])
    policy = completions.sums.policy.clone().requires_grad_()
    losses = UnpairedBCOLoss(beta=0.5).of(replace(completions, sums=replace(completions.sums, policy=policy))).losses
    # s = (1.5 + 0) / 2.
    expected = [-logsigmoid(torch.tensor(x, dtype=torch.float64)).item() for x in (0.75, 1.25, 0.25)]
    assert losses.tolist() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(losses.sum(), policy)
    sig = torch.sigmoid(torch.tensor([-0.75, -1.25, -0.25], dtype=torch.float64))
    torch.testing.assert_close(gradient, 0.5 * sig * torch.tensor([-1.0, 1.0, 1.0]), rtol=1e-12, atol=0)


def test_a_step_without_bad_completions_is_shifted_by_the_good_ones() -> None:
    losses, good, bad = UnpairedBCOLoss(beta=1.0).of(labelled([("chosen", 3.0), ("chosen", 1.0)]))
    assert losses.tolist() == pytest.approx([math.log1p(math.exp(-1)), math.log1p(math.exp(1))], rel=1e-12)
    assert (len(good), len(bad)) == (2, 0)


def test_kto_asks_for_mismatched_completions() -> None:
    with pytest.raises(ValueError, match="expected completions that answer other prompts"):
        UnpairedKTOLoss().require_kinds(("chosen", "rejected"))
    UnpairedBCOLoss().require_kinds(("chosen", "rejected"))


@pytest.mark.parametrize("loss", [UnpairedKTOLoss(beta=0.3), UnpairedBCOLoss(beta=0.3)])
def test_a_part_reads_the_statistics_of_the_whole_step(loss: UnpairedKTOLoss | UnpairedBCOLoss) -> None:
    parts = [case(LABELLED_KINDS, seed=seed).completions for seed in (26, 4)]
    whole = replace(parts[0], sums=joined([part.sums for part in parts]))
    step = SumsOfStep(replace(whole.sums, policy=whole.sums.policy.detach()), 0)
    together = loss.of(whole).losses.sum()
    apart = torch.stack([loss.of(replace(part, step=step)).losses.sum() for part in parts]).sum()
    assert apart.item() == pytest.approx(together.item(), rel=1e-12)
    alone = torch.stack([loss.of(part).losses.sum() for part in parts]).sum()
    assert abs(alone.item() - together.item()) > 1e-4
