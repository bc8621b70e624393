"""TDPO: its formula, the step that a module takes against autograd through a plain model's logits, and what is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence
from torch.nn.functional import logsigmoid
from torch.optim import SGD

from callbacks.diagnostics.softmax_gradient import SoftmaxGradientMonitor
from callbacks.output.token_heatmap import TokenHeatmap
from datamodules.contracts.examples import Example
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.mixture import MixtureLoss
from lightning_modules.losses.tdpo1 import TDPO1Loss
from lightning_modules.losses.tdpo2 import TDPO2Loss
from lightning_modules.models.online_reference import OnlineReference
from lightning_modules.models.policy import Policy
from lightning_modules.models.specs import RandomPolicy
from lightning_modules.preference import PreferenceModule
from run_folder.rows import read_rows
from tests.callbacks.rig import PAIRS, BigramSpec, ProbedPairs, fit
from tests.lightning_modules.losses.completion_cases import PAIR_KINDS, case
from tests.lightning_modules.stubs import TINY

pytestmark = [
    pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
]
OTHER = RandomPolicy(**(vars(TINY) | {"seed": 11}))
LOSSES = [TDPO1Loss(beta=0.5), TDPO2Loss(beta=0.5, alpha=0.7)]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=["TDPO1", "TDPO2"])


def formula(loss: TDPO1Loss, ratios: Tensor, kl: Tensor) -> Tensor:
    """`[pairs]` losses as the authors' code has them: of `[pairs, 2]` log-ratios and KL summed over tokens."""
    margin = ratios[:, 0] - ratios[:, 1]
    if isinstance(loss, TDPO2Loss):
        return -logsigmoid(loss.beta * (margin - loss.alpha * (kl[:, 1] - kl[:, 0].detach())))
    return -logsigmoid(loss.beta * (margin - (kl[:, 1] - kl[:, 0])))


@each_loss
def test_values_and_gradients_through_explicit_logits(loss: TDPO1Loss) -> None:
    made = case(PAIR_KINDS, seed=4)
    sums, sequence = made.completions.sums, made.completions.tokens.sequence
    kl = kl_divergence(Categorical(logits=made.reference_logits), Categorical(logits=made.logits))
    summed = torch.stack([kl[sequence == number].sum() for number in range(len(sums.kinds))])
    assert sums.reference is not None
    expected = formula(loss, (sums.policy - sums.reference)[sums.pairs], summed[sums.pairs])
    output = loss.of(made.completions)
    torch.testing.assert_close(output.losses, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(-logsigmoid(output.chosen_rewards - output.rejected_rewards), output.losses.detach())
    mine, wanted = (torch.autograd.grad(values.sum(), made.logits, retain_graph=True)[0] for values in (output.losses, expected))
    torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-12)


def test_without_its_weight_it_is_dpo() -> None:
    made = case(PAIR_KINDS, seed=4).completions
    torch.testing.assert_close(TDPO2Loss(alpha=0.0).of(made).losses, DPOLoss().of(made).losses, rtol=1e-12, atol=0)


def log_probs(policy: Policy, example: Example, number: int) -> Tensor:
    """`[T, V]` from the model's plain forward pass over one completion."""
    ids = example.completions[number].token_ids
    row = torch.tensor([[*example.prompt_ids, *ids]])
    policy.eval()
    with policy.own_attention():  # type: ignore[operator]
        logits = policy.model(row).logits[0]  # type: ignore[operator]
    of_completion: Tensor = logits[len(example.prompt_ids) - 1 : -1].log_softmax(-1)
    return of_completion


def plain_loss(loss: TDPO1Loss, policy: Policy, reference: Policy, examples: list[Example]) -> Tensor:
    """`[]` mean over pairs."""
    ratios, kls = [], []
    for example in examples:
        for number, completion in enumerate(example.completions[:2]):
            p = log_probs(policy, example, number)
            q = log_probs(reference, example, number).detach()
            ids = torch.tensor(completion.token_ids)[:, None]
            ratios.append((p - q).gather(1, ids).sum())
            kls.append((q.exp() * (q - p)).sum())
    return formula(loss, torch.stack(ratios).view(-1, 2), torch.stack(kls).view(-1, 2)).mean()


@each_loss
def test_a_step_is_that_of_a_plain_model(loss: TDPO1Loss, tmp_path: Path) -> None:
    """In two microbatches, with another model as the reference, the heat map and the monitor looking on."""
    module = PreferenceModule(TINY, loss, partial(SGD, lr=0.5), reference=OnlineReference(OTHER), cache_dir=str(tmp_path))
    data = ProbedPairs(PAIRS, [[0, 1], [2, 3]], 2)
    trainer = fit(module, [SoftmaxGradientMonitor(1, 1), TokenHeatmap(1)], tmp_path, data=data, accumulate=2)
    policy = TINY.build()
    plain_loss(loss, policy, OTHER.build(), PAIRS[:4]).backward()
    moved = 0.0
    for mine, start in zip(module.policy.parameters(), policy.parameters(), strict=True):
        assert start.grad is not None
        torch.testing.assert_close(mine, start - 0.5 * start.grad, rtol=1e-4, atol=1e-5)
        moved += float(start.grad.abs().sum())
    assert moved > 1
    (row,) = read_rows(Path(trainer.log_dir or ""), "softmax_grad")
    assert "softmax_grad/chosen/l2" in row
    assert "softmax_grad/chosen/l1" not in row
    assert len(read_rows(Path(trainer.log_dir or ""), "token_heatmap")) > 0


def test_norms_at_the_logits_are_those_of_explicit_logits(tmp_path: Path) -> None:
    loss = TDPO2Loss(beta=0.5)
    module = PreferenceModule(TINY, loss, partial(SGD, lr=0.5), reference=OnlineReference(OTHER), cache_dir=str(tmp_path))
    trainer = fit(module, [SoftmaxGradientMonitor(1, 1)], tmp_path, data=ProbedPairs(PAIRS, [[0, 1]], 1))
    policy, reference = TINY.build(), OTHER.build()
    kept: dict[int, list[Tensor]] = {0: [], 1: []}
    ratios, kls = [], []
    for example in PAIRS[:2]:
        for number, completion in enumerate(example.completions[:2]):
            z = log_probs(policy, example, number).detach().requires_grad_()
            kept[number].append(z)
            p, q = z.log_softmax(-1), log_probs(reference, example, number).detach()
            ratios.append((p - q).gather(1, torch.tensor(completion.token_ids)[:, None]).sum())
            kls.append((q.exp() * (q - p)).sum())
    formula(loss, torch.stack(ratios).view(-1, 2), torch.stack(kls).view(-1, 2)).sum().backward()
    (row,) = read_rows(Path(trainer.log_dir or ""), "softmax_grad")
    for number, side in enumerate(("chosen", "rejected")):
        norms = torch.cat([z.grad.norm(dim=1) for z in kept[number] if z.grad is not None])
        assert row[f"softmax_grad/{side}/l2"] == pytest.approx(norms.mean().item(), rel=1e-4)


@pytest.mark.parametrize("loss", [*LOSSES, MixtureLoss(losses=[DPOLoss(), TDPO2Loss()], weights=[1.0, 1.0])])
def test_a_reference_that_has_answered_before_is_refused(loss: TDPO1Loss, tmp_path: Path) -> None:
    module = PreferenceModule(TINY, loss, partial(SGD, lr=0.5), cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"expected a reference that is asked in every step, .* Set model\.reference to online"):
        fit(module, [], tmp_path, data=ProbedPairs(PAIRS, [[0, 1]], 1))


def test_a_policy_without_an_output_layer_is_refused(tmp_path: Path) -> None:
    module = PreferenceModule(BigramSpec(), LOSSES[0], partial(SGD, lr=0.5), reference=OnlineReference(), cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="expected language models with an output layer to compare, got BigramPolicy"):
        fit(module, [], tmp_path, data=ProbedPairs(PAIRS, [[0, 1]], 1))
