"""Losses of tokens and of groups: formulas written out, hand-computed cases, and incentives through explicit logits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lightning_modules.losses.base import Loss, Reads
from lightning_modules.losses.bco import BCOLoss
from lightning_modules.losses.chosen_sft import ChosenSFTLoss
from lightning_modules.losses.completions import Completions
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.gated_sft import GatedSFTLoss
from lightning_modules.losses.group_dpo import GroupDPOLoss
from lightning_modules.losses.ld_dpo import LDDPOLoss
from lightning_modules.losses.mixture import MixtureLoss
from lightning_modules.losses.plackett_luce import PlackettLuceLoss
from lightning_modules.losses.token_gates import Renyi2Gate
from lightning_modules.losses.unpaired_bco import UnpairedBCOLoss
from lightning_modules.losses.unpaired_kto import UnpairedKTOLoss
from lightning_modules.losses.wpo import WPOLoss
from tests.lightning_modules.losses.cases import all_loss_classes
from tests.lightning_modules.losses.completion_cases import (
    LABELLED_KINDS,
    PAIR_KINDS,
    Case,
    case,
    gradient_at_logits,
    without_reference,
)

GROUP_KINDS: list[list[tuple[str, int, float | None]]] = [
    [("chosen", 5, 4.0), ("rejected", 8, 1.0), ("ranked", 3, 3.0), ("ranked", 6, 3.0)],
    [("chosen", 2, 0.9), ("rejected", 4, 0.1)],
    [("chosen", 3, 2.0), ("rejected", 1, 0.0), ("ranked", 2, None), ("ranked", 4, 1.0), ("ranked", 1, 0.5)],
]
KINDS = {Reads.PAIRS: PAIR_KINDS, Reads.TOKENS: PAIR_KINDS, Reads.COMPLETIONS: LABELLED_KINDS, Reads.GROUPS: GROUP_KINDS}
OTHERS: list[Loss] = [
    cls() for cls in all_loss_classes() if not issubclass(cls, MixtureLoss) and cls().of.__qualname__.split(".")[0] == cls.__name__
]
every_loss = pytest.mark.parametrize("loss", OTHERS, ids=lambda loss: type(loss).__name__)


def test_the_walk_finds_the_losses_that_read_more_than_pairs() -> None:
    assert {Reads.TOKENS, Reads.COMPLETIONS, Reads.GROUPS} <= {loss.reads for loss in OTHERS}
    assert {"WPOLoss", "LDDPOLoss", "GroupDPOLoss", "UnpairedKTOLoss"} <= {type(loss).__name__ for loss in OTHERS}


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_dtypes_and_detached_rewards(loss: Loss, dtype: torch.dtype) -> None:
    made = case(KINDS[loss.reads]).completions
    sums = replace(made.sums, policy=made.sums.policy.to(dtype), reference=_to(made.sums.reference, dtype))
    tokens = replace(
        made.tokens,
        policy=made.tokens.policy.to(dtype),
        reference=_to(made.tokens.reference, dtype),
        sum_sq_probs=made.tokens.sum_sq_probs.to(dtype),
        kl=_to(made.tokens.kl, dtype),
    )
    output = loss.of(replace(made, sums=sums, tokens=tokens))
    assert output.losses.shape == (made.num_prompts,)
    assert all(part.dtype == dtype and part.isfinite().all() for part in output)
    assert output.losses.requires_grad
    assert not output.chosen_rewards.requires_grad
    assert not output.rejected_rewards.requires_grad
    assert len(output.chosen_rewards) == made.sums.kinds.count("chosen")
    assert len(output.rejected_rewards) == made.sums.kinds.count("rejected")


@every_loss
def test_the_reference_is_read_exactly_when_declared(loss: Loss) -> None:
    blind = without_reference(case(KINDS[loss.reads]).completions)
    if loss.needs_reference:
        with pytest.raises(ValueError, match="expected reference log-probs"):
            loss.of(blind)
    else:
        assert loss.of(blind).losses.isfinite().all()


@every_loss
def test_the_gradient_at_the_logits_is_the_incentive_times_the_softmax(loss: Loss) -> None:
    """dL/dz_t = g_t (onehot(y_t) - p_t), and g_t is alike over a completion exactly where the loss does not weigh tokens.

    Of a loss that reads the KL k_t (p_t - q_t) is added.
    """
    made = case(KINDS[loss.reads], seed=3)
    at_logits = gradient_at_logits(loss, made)
    tokens = made.completions.tokens
    gradients, by_kl = _token_gradients(loss, made)
    onehot = torch.nn.functional.one_hot(made.targets, made.logits.shape[1])
    p, q = made.logits.detach().softmax(-1), made.reference_logits.softmax(-1)
    closed = gradients[:, None] * (onehot - p) + by_kl[:, None] * (p - q)
    torch.testing.assert_close(at_logits, closed, rtol=1e-9, atol=1e-12)
    parts = torch.split(gradients, made.completions.sums.lengths.tolist())
    alike = all(torch.allclose(part, part.mean().expand_as(part), rtol=1e-9, atol=1e-14) for part in parts)
    assert alike == (loss.reads is not Reads.TOKENS or loss.needs_distribution)
    assert bool(by_kl.any()) == loss.needs_distribution
    assert len(gradients) == len(tokens.sequence)


def _token_gradients(loss: Loss, made: Case) -> tuple[Tensor, Tensor]:
    """`([K], [K])` dL/dlogp_t, through sums built anew of the tokens, and dL/dKL_t."""
    leaf = made.completions.tokens.policy.detach().requires_grad_()
    assert made.completions.tokens.kl is not None
    kl = made.completions.tokens.kl.detach().requires_grad_()
    parts = torch.split(leaf, made.completions.sums.lengths.tolist())
    sums = replace(made.completions.sums, policy=torch.stack([part.sum() for part in parts]))
    fresh = replace(made.completions, sums=sums, tokens=replace(made.completions.tokens, policy=leaf, kl=kl))
    gradient, by_kl = torch.autograd.grad(loss.of(fresh).losses.sum(), [leaf, kl], allow_unused=True, materialize_grads=True)
    return gradient, by_kl


def _to(values: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if values is None else values.to(dtype)


def one_token(rows: list[tuple[str, float, float | None]], prompts: list[int] | None = None) -> Completions:
    """Completions of one token with these log-ratios and scores."""
    numbers = prompts or [0] * len(rows)
    groups = [[(kind, 1, score) for (kind, _, score), of in zip(rows, numbers, strict=True) if of == p] for p in sorted({*numbers})]
    made = case(groups).completions
    policy = torch.tensor([value for _, value, _ in rows], dtype=torch.float64, requires_grad=True)
    return replace(made, sums=replace(made.sums, policy=policy, reference=torch.zeros(len(rows), dtype=torch.float64)))


RANKING: list[tuple[str, float, float | None]] = [("chosen", 1.0, 3.0), ("rejected", -2.0, 1.0), ("ranked", 0.5, 2.0)]


def test_plackett_luce_by_hand() -> None:
    completions = one_token(RANKING)
    losses = PlackettLuceLoss(beta=2.0).of(completions).losses
    r = [2.0, -4.0, 1.0]
    expected = -math.log(math.exp(r[0]) / sum(map(math.exp, r))) - math.log(math.exp(r[2]) / (math.exp(r[2]) + math.exp(r[1])))
    assert losses.item() == pytest.approx(expected, rel=1e-12)


def test_plackett_luce_of_two_is_dpo() -> None:
    made = case([group[:2] for group in GROUP_KINDS], seed=5)
    ours, dpo = PlackettLuceLoss(beta=0.3), DPOLoss(beta=0.3)
    for mine, theirs in zip(ours.of(made.completions), dpo.of(made.completions), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient_at_logits(ours, made), gradient_at_logits(dpo, made), rtol=1e-9, atol=1e-12)


def test_plackett_luce_ties_share_a_place_and_the_unscored_take_none() -> None:
    tied = PlackettLuceLoss(beta=1.0).of(one_token([("chosen", 0.0, 2.0), ("ranked", 0.0, 2.0), ("rejected", 0.0, 1.0)])).losses
    assert tied.item() == pytest.approx(2 * math.log(3), rel=1e-12)
    unscored = PlackettLuceLoss().of(one_token([*RANKING, ("ranked", 9.0, None)])).losses
    assert unscored.item() == pytest.approx(PlackettLuceLoss().of(one_token(RANKING)).losses.item(), rel=1e-12)


def test_group_dpo_by_hand_and_its_incentives() -> None:
    completions = one_token(RANKING)
    losses = GroupDPOLoss(beta=2.0, gamma=0.5).of(completions).losses
    margins = torch.tensor([2 * (1 + 2), 2 * (1 - 0.5), 2 * (0.5 + 2)], dtype=torch.float64)
    # One is above the mean score of 2, and has log pi 1 (no probability, but any number will do).
    assert losses.item() == pytest.approx(-logsigmoid(margins).mean().item() - 0.5 * 1.0, rel=1e-12)
    (gradient,) = torch.autograd.grad(losses.sum(), completions.sums.policy)
    push = torch.sigmoid(-margins) * 2 / 3
    expected = torch.stack([push[0] + push[1] + 0.5, -push[0] - push[2], push[2] - push[1]])
    torch.testing.assert_close(-gradient, expected, rtol=1e-12, atol=0)


def test_group_dpo_of_pairs_without_its_likelihood_term_is_dpo() -> None:
    made = case([group[:2] for group in GROUP_KINDS], seed=5).completions
    torch.testing.assert_close(
        GroupDPOLoss(beta=0.3, gamma=0.0).of(made).losses, DPOLoss(beta=0.3).of(made).losses, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("loss", [GroupDPOLoss(), PlackettLuceLoss()])
def test_groups_without_scores_are_refused(loss: Loss) -> None:
    with pytest.raises(ValueError, match=r"expected judge scores of every completion, .* got 1 of 2 prompts without"):
        loss.require_score_gaps([1.0, None])


@pytest.mark.parametrize("loss", [GroupDPOLoss(beta=0.3), PlackettLuceLoss(beta=0.3)])
def test_a_prompts_loss_is_its_own(loss: Loss) -> None:
    made = case(GROUP_KINDS, seed=1)
    together = loss.of(made.completions).losses
    alone = [loss.of(_only(made.completions, prompt)).losses.item() for prompt in range(3)]
    assert together.tolist() == pytest.approx(alone, rel=1e-12)


def _only(completions: Completions, prompt: int) -> Completions:
    members = (completions.prompts == prompt).nonzero().flatten()
    sums = completions.sums
    assert sums.reference is not None
    assert sums.scores is not None
    kept = replace(
        sums,
        policy=sums.policy[members],
        reference=sums.reference[members],
        lengths=sums.lengths[members],
        scores=sums.scores[members],
        pairs=sums.pairs[prompt : prompt + 1] - members[0],
        kinds=tuple(sums.kinds[int(member)] for member in members),
    )
    return replace(completions, sums=kept, prompts=torch.zeros_like(members), num_prompts=1)


def test_the_renyi_gate_by_hand() -> None:
    logps = torch.tensor([math.log(0.5), math.log(0.2), math.log(0.9)], dtype=torch.float64, requires_grad=True)
    focus = torch.tensor([0.5, 1.0, 1e-9], dtype=torch.float64)
    losses = Renyi2Gate()(logps, focus)
    expected = [(1 - math.sqrt(0.5)) / 0.5, 0.8, -math.log(0.9)]
    assert losses.tolist() == pytest.approx(expected, rel=1e-7)
    (gradient,) = torch.autograd.grad(losses.sum(), logps)
    assert gradient.tolist() == pytest.approx([-math.sqrt(0.5), -0.2, -1.0], rel=1e-7)


def test_a_gate_without_trust_is_plain_supervised_training() -> None:
    made = case(PAIR_KINDS, seed=2)
    flat = replace(
        made.completions, tokens=replace(made.completions.tokens, sum_sq_probs=torch.full((len(made.targets),), 1e-12).double())
    )
    for per_token in (False, True):
        ours, plain = GatedSFTLoss(per_token=per_token), ChosenSFTLoss(per_token=per_token)
        torch.testing.assert_close(ours.of(flat).losses, plain.of(flat).losses, rtol=1e-9, atol=1e-9)


def test_a_mixture_reads_what_its_parts_read() -> None:
    mixed = MixtureLoss(losses=[DPOLoss(), LDDPOLoss()], weights=[1.0, 2.0])
    assert mixed.reads is Reads.TOKENS
    assert MixtureLoss(losses=[GroupDPOLoss(), DPOLoss()], weights=[1.0, 1.0]).reads is Reads.GROUPS
    assert MixtureLoss(losses=[UnpairedKTOLoss(), UnpairedBCOLoss()], weights=[1.0, 1.0]).needs_step
    assert not MixtureLoss(losses=[ChosenSFTLoss()], weights=[1.0]).needs_reference
    made = case(PAIR_KINDS).completions
    expected = DPOLoss().of(made).losses + 2 * LDDPOLoss().of(made).losses
    torch.testing.assert_close(mixed.of(made).losses, expected, rtol=1e-12, atol=0)


def test_a_mixture_of_pairs_and_single_completions_is_refused() -> None:
    with pytest.raises(ValueError, match="expected losses of the same data"):
        MixtureLoss(losses=[DPOLoss(), UnpairedKTOLoss()], weights=[1.0, 1.0])
    with pytest.raises(ValueError, match="expected one weight for each loss, got 1"):
        MixtureLoss(losses=[DPOLoss(), BCOLoss()], weights=[1.0])
    with pytest.raises(ValueError, match="expected a weight above 0"):
        MixtureLoss(losses=[DPOLoss()], weights=[0.0])


def test_wpo_by_hand() -> None:
    made = case(PAIR_KINDS, seed=1).completions
    weights = []
    for chosen, rejected in made.sums.pairs.tolist():
        terms = [
            (made.tokens.policy.detach() - made.tokens.sum_sq_probs.log())[made.tokens.sequence == s].mean()
            for s in (chosen, rejected)
        ]
        weights.append(math.exp(sum(terms)))
    expected = torch.tensor(weights, dtype=torch.float64) * DPOLoss().of(made).losses
    torch.testing.assert_close(WPOLoss().of(made).losses, expected, rtol=1e-12, atol=0)
