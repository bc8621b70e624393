"""Losses that read tokens or the whole batch, against TRL 1.16's own code on the same batch, in float64."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.losses.aot import AOTLoss
from lightning_modules.losses.aot_unpaired import AOTUnpairedLoss
from lightning_modules.losses.base import Loss
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.ipo import IPOLoss
from lightning_modules.losses.ld_dpo import LDDPOLoss
from lightning_modules.losses.mixture import MixtureLoss
from lightning_modules.losses.nca import NCALoss
from lightning_modules.losses.sppo import SPPOLoss
from lightning_modules.losses.wpo import WPOLoss
from tests.lightning_modules.losses.completion_cases import PAIR_KINDS, Case, case, gradient_at_logits
from tests.lightning_modules.losses.trl_stand_ins import ACCELERATOR, DPO_DEFAULTS, DPOTrainer

Settings = dict[str, object]


def padded(values: Tensor, lengths: Tensor, order: Tensor) -> Tensor:
    """`[rows, longest]` from `[K]`, the completions in this order."""
    parts = torch.split(values, lengths.tolist())
    longest = int(lengths.max())
    return torch.stack([torch.cat([parts[row], values.new_zeros(longest - len(parts[row]))]) for row in order.tolist()])


def trl(made: Case, *loss_types: str, weights: tuple[float, ...] = (1.0,), **settings: object) -> Tensor:
    """`[]` mean loss of `DPOTrainer._compute_loss` on all pairs at once, which reads the policy token by token."""
    sums, tokens = made.completions.sums, made.completions.tokens
    order = sums.pairs.T.flatten()
    columns = torch.arange(int(sums.lengths.max()) + 1)
    mask = ((columns > 0) & (columns <= sums.lengths[order][:, None])).long()
    assert tokens.reference is not None
    reference = padded(tokens.reference, sums.lengths, order)
    outputs = SimpleNamespace(
        log_probs=padded(tokens.policy, sums.lengths, order),
        log_sum_sq_probs=padded(tokens.sum_sq_probs.log(), sums.lengths, order),
        entropy=torch.zeros_like(reference),
        mean_logits=torch.zeros_like(reference),
        is_top1=torch.zeros_like(reference).bool(),
    )
    trainer = SimpleNamespace(
        **DPO_DEFAULTS | {"precompute_ref_logps": False} | settings,
        model=Model(outputs),
        ref_model=Model(SimpleNamespace(log_probs=reference)),
        accelerator=ACCELERATOR,
        loss_types=list(loss_types),
        loss_weights=list(weights),
        args=SimpleNamespace(discopop_tau=0.05, gradient_checkpointing_kwargs=None),
        _metrics={"eval": defaultdict(list)},
    )
    inputs = {"input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask}
    loss: Tensor = DPOTrainer._compute_loss(trainer, trainer.model, inputs, return_outputs=False)
    return loss


class Model(nn.Module):
    """Returns fixed outputs; has what TRL asks of a model around its forward pass."""

    is_gradient_checkpointing = False

    def __init__(self, outputs: SimpleNamespace) -> None:
        super().__init__()
        self.outputs = outputs
        self.eval()

    def forward(self, **inputs: object) -> SimpleNamespace:
        return self.outputs


CASES: list[tuple[Loss, tuple[str, ...], tuple[float, ...], Settings]] = [
    (AOTLoss(beta=0.3, label_smoothing=0.1), ("aot",), (1.0,), {"beta": 0.3, "label_smoothing": 0.1}),
    (AOTUnpairedLoss(beta=0.3, label_smoothing=0.1), ("aot_unpaired",), (1.0,), {"beta": 0.3, "label_smoothing": 0.1}),
    (LDDPOLoss(beta=0.3, alpha=0.4), ("sigmoid",), (1.0,), {"beta": 0.3, "ld_alpha": 0.4}),
    (LDDPOLoss(beta=0.3, alpha=0.0), ("sigmoid",), (1.0,), {"beta": 0.3, "ld_alpha": 0.0}),
    (WPOLoss(loss=DPOLoss(beta=0.3)), ("sigmoid",), (1.0,), {"beta": 0.3, "use_weighting": True}),
    (WPOLoss(loss=IPOLoss(eta=0.3, per_token=True)), ("ipo",), (1.0,), {"beta": 0.3, "use_weighting": True}),
    (
        MixtureLoss(losses=[DPOLoss(beta=0.3), NCALoss(beta=0.3), SPPOLoss(beta=0.3)], weights=[0.5, 2.0, 0.25]),
        ("sigmoid", "nca_pair", "sppo_hard"),
        (0.5, 2.0, 0.25),
        {"beta": 0.3},
    ),
    (
        MixtureLoss(losses=[AOTLoss(beta=0.3), DPOLoss(beta=0.3)], weights=[0.7, 0.3]),
        ("aot", "sigmoid"),
        (0.7, 0.3),
        {"beta": 0.3},
    ),
]


@pytest.mark.parametrize(("loss", "names", "weights", "settings"), CASES, ids=[str(loss) for loss, *_ in CASES])
@pytest.mark.parametrize("seed", range(3))
def test_equals_trl(loss: Loss, names: tuple[str, ...], weights: tuple[float, ...], settings: Settings, seed: int) -> None:
    made = case(PAIR_KINDS, seed=seed)
    ours, theirs = loss.of(made.completions).losses.mean(), trl(made, *names, weights=weights, **settings)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-9)
    (expected,) = torch.autograd.grad(theirs, made.logits, retain_graph=True)
    torch.testing.assert_close(gradient_at_logits(loss, made) / len(PAIR_KINDS), expected, rtol=1e-9, atol=1e-12)
    assert expected.abs().max() > 1e-4


def test_the_pairs_are_sorted_otherwise_than_they_come() -> None:
    pairs = case(PAIR_KINDS, seed=0).completions.pair_sums.detached()
    own = pairs.policy_chosen - pairs.policy_rejected
    reference_chosen, reference_rejected = pairs.reference()
    assert own.argsort().tolist() != (reference_chosen - reference_rejected).argsort().tolist()
