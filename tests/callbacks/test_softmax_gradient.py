from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.optim import SGD

from callbacks.diagnostics.softmax_gradient import SoftmaxGradientMonitor, asymmetry, likelihood_gradients
from callbacks.mathematics.pair_tokens import TokenClass, pair_tokens
from callbacks.readings import Counted
from datamodules.contracts.batches import SIDES, CompletionBatch
from datamodules.contracts.packing import pack
from lightning_modules.losses.base import PreferenceLoss, SequenceLogps, incentives
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.flex_dpo import FlexDPOLoss
from lightning_modules.losses.ipo import IPOLoss
from lightning_modules.losses.orpo import ORPOLoss
from lightning_modules.losses.sft_dpo import SFTDPOLoss
from lightning_modules.losses.simpo import SimPOLoss
from lightning_modules.losses.slic import SLiCLoss
from lightning_modules.models.policy import PolicySpec
from lightning_modules.objective_module import ObjectiveModule
from lightning_modules.preference import PreferenceModule
from lightning_modules.sft import SFTModule
from lightning_modules.token_stats import TokenStats, softmax_gradient_l2
from run_folder.rows import read_rows
from tests.callbacks.rig import PAIRS, BigramPolicy, BigramSpec, ProbedPairs, events, fit, supervised

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


def module(objective: PreferenceLoss | None, folder: Path, policy: PolicySpec | None = None) -> ObjectiveModule:
    policy, optimizer = policy or BigramSpec(), partial(SGD, lr=0.3)
    if objective is None:
        return SFTModule(policy, optimizer)
    return PreferenceModule(policy, objective, optimizer, cache_dir=str(folder / "cache"))


class ExplicitGradients(Callback):
    """The same means, from the gradient autograd left on the policy's explicit logits."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._norms: dict[str, list[Tensor]] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: CompletionBatch, batch_idx: int) -> None:
        policy = cast(BigramPolicy, pl_module.policy)
        gradient = policy.logits.pop().grad
        assert gradient is not None
        accumulate = trainer.accumulate_grad_batches
        # Undo what makes the step's loss of the pairs' (tokens') own losses: the share of this microbatch and the accumulation.
        units = batch.share.targets if outputs["step"].pairs is None else batch.share.prompts
        own = gradient.double() * accumulate * units / batch.share.microbatches
        self._add(own, batch)
        if (batch_idx + 1) % accumulate == 0:
            self.steps.append(
                {name: torch.cat(parts).mean().item() for name, parts in self._norms.items() if len(torch.cat(parts))}
            )
            self._norms = {}

    def _add(self, gradient: Tensor, batch: CompletionBatch) -> None:
        kinds = [batch.kinds[sequence] for sequence in batch.target_sequence.tolist()]
        classes = pair_tokens(batch).classes.tolist()
        for side in SIDES:
            member = torch.tensor([kind == side for kind in kinds])
            self._keep(f"{side}/l2", gradient[member].norm(dim=1))
            self._keep(f"{side}/l1", gradient[member].abs().sum(1))
            for token_class in TokenClass:
                of_class = member & (torch.tensor(classes) == token_class)
                self._keep(f"{side}/{token_class.label}/l2", gradient[of_class].norm(dim=1))
            if len(batch.pairs):
                of_sequence = [gradient[batch.target_sequence == q].norm().reshape(1) for q in batch.pairs[:, SIDES.index(side)]]
                self._keep(f"{side}/norm", torch.cat(of_sequence))

    def _keep(self, name: str, values: Tensor) -> None:
        self._norms.setdefault(name, []).append(values)


LOSSES: list[PreferenceLoss | None] = [
    None,
    DPOLoss(beta=0.7),
    FlexDPOLoss(beta_chosen=0.7, beta_rejected=0.2),
    SFTDPOLoss(beta=0.5, gamma=0.3),
    IPOLoss(),
    SLiCLoss(),
    SimPOLoss(beta=2.0),
    ORPOLoss(),
]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("objective", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["float64", "float32"])
def test_reported_norms_are_those_of_autograd_through_explicit_logits(
    objective: PreferenceLoss | None,
    dtype: torch.dtype,
    tolerance: float,
    accumulate: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Rows are as fine as float32.
    monkeypatch.setattr("run_folder.files.DIGITS", 17)
    explicit = ExplicitGradients()
    examples = PAIRS if objective is not None else supervised(PAIRS)
    data = ProbedPairs(examples, [[0, 1, 2], [3, 4], [0, 1], [2, 3, 4]], accumulate)
    monitor = SoftmaxGradientMonitor(every_n_steps=1, histogram_every_n_steps=1)
    trainer = fit(module(objective, tmp_path, BigramSpec(dtype)), [monitor, explicit], tmp_path, data=data, accumulate=accumulate)
    rows = read_rows(Path(trainer.log_dir or ""), "softmax_grad")
    assert len(rows) == len(explicit.steps) == 4 // accumulate
    for row, expected in zip(rows, explicit.steps, strict=True):
        assert expected, "there is something to compare"
        for name, value in expected.items():
            if objective is None and name.count("/") > 1:
                continue
            assert row[f"softmax_grad/{name}"] == pytest.approx(value, rel=tolerance, abs=tolerance * 1e-2), name


def test_dpo_at_the_start_has_closed_forms(tmp_path: Path) -> None:
    trainer = fit(module(DPOLoss(beta=0.7), tmp_path), [SoftmaxGradientMonitor()], tmp_path)
    row = read_rows(Path(trainer.log_dir or ""), "softmax_grad")[0]
    batch = pack(PAIRS[:3])
    with torch.no_grad():
        logps = BigramPolicy().forward(batch).sum_by_sequence()[batch.pairs].double()
    lengths = batch.lengths[batch.pairs]
    # Margin 0: w = 1/2, and both incentives are beta / 2.
    for number, side in enumerate(SIDES):
        assert row[f"softmax_grad/{side}/incentive"] == pytest.approx(0.35)
        expected = (math.log(0.35) - logps[:, number]).mean().item()
        assert row[f"softmax_grad/{side}/log_pi_gradient"] == pytest.approx(expected, rel=1e-6)
        expected = (math.log(0.35) - (logps / lengths)[:, number]).mean().item()
        assert row[f"softmax_grad/{side}/log_pi_gradient_per_token"] == pytest.approx(expected, rel=1e-6)
    # Corollary 1: the ratio is pi+ / pi-.
    assert row["softmax_grad/corollary1"] == pytest.approx((logps[:, 0] - logps[:, 1]).mean().item(), rel=1e-5)
    assert row["softmax_grad/corollary1_from_reference"] == pytest.approx(0, abs=1e-5)
    # The gradients of a shared token on the two sides cancel at the start, so that they are alike.
    assert row["softmax_grad/chosen/shared/l2"] == pytest.approx(row["softmax_grad/rejected/shared/l2"], rel=1e-5)


def test_class_shares_count_tokens_and_sum_to_one(tmp_path: Path) -> None:
    data = ProbedPairs(PAIRS, [[0, 1]], 1)
    trainer = fit(module(DPOLoss(), tmp_path), [SoftmaxGradientMonitor()], tmp_path, data=data)
    row = read_rows(Path(trainer.log_dir or ""), "softmax_grad")[0]
    # chosen: [3 4 5 0] and [7 0] against [3 4 6 5 0] and [8 8 0]
    found = {label: row[f"softmax_grad/chosen/{label}/tokens"] for label in ("shared", "divergent", "overlap", "novel")}
    assert found == pytest.approx({"shared": 2 / 6, "divergent": 2 / 6, "overlap": 2 / 6, "novel": 0.0})
    for side in SIDES:
        shares = [row[f"softmax_grad/{side}/{token_class.label}/share"] for token_class in TokenClass]
        assert sum(shares) == pytest.approx(1)
    assert row["softmax_grad/chosen/novel/share"] == 0
    assert "softmax_grad/chosen/novel/l2" not in row, "a mean over no token"


def test_a_pair_that_is_not_pushed_has_no_likelihood_gradient() -> None:
    batch = pack(PAIRS[:2])
    logps = torch.tensor([-1.0, -2.0, -3.0, -5.0])
    incentives = (torch.tensor([0.5, 0.0]), torch.tensor([0.25, 0.0]))
    values = likelihood_gradients(incentives, logps, None, batch)
    assert values["chosen/log_pi_gradient"] == Counted(torch.tensor(math.log(0.5) + 1), torch.tensor(1))
    assert values["corollary1"].total.item() == pytest.approx(math.log(0.5) + 1)
    assert values["corollary1"].number.item() == 1
    assert "corollary1_from_reference" not in values


def test_asymmetry_is_left_out_where_chosen_is_not_pushed() -> None:
    assert asymmetry({"chosen/norm": 0.0, "rejected/norm": 1.0, "chosen/l2": 2.0, "rejected/l2": 3.0}) == {
        "asymmetry_per_token": 1.5
    }


def test_histograms_come_at_their_own_cadence(tmp_path: Path) -> None:
    monitor = SoftmaxGradientMonitor(every_n_steps=1, histogram_every_n_steps=4)
    seen = events(fit(module(DPOLoss(), tmp_path), [monitor], tmp_path))
    tags = {f"softmax_grad/{side}/{norm}" for side in SIDES for norm in ("l1", "l2")}
    assert set(seen.Tags()["histograms"]) == tags
    histogram = seen.Histograms("softmax_grad/rejected/l2")
    assert [event.step for event in histogram] == [1, 4]
    assert histogram[0].histogram_value.num == sum(len(example.completions[1].token_ids) for example in PAIRS[:3])
    with pytest.raises(ValueError, match=r"expected histogram_every_n_steps to be a multiple of every_n_steps = 3, got 4"):
        SoftmaxGradientMonitor(every_n_steps=3, histogram_every_n_steps=4)


@pytest.mark.parametrize("margin", [0.0, 8.0, 12.0, 16.0])
def test_norms_of_confident_tokens_do_not_cancel_in_float32(margin: float) -> None:
    logits = torch.randn(64, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[:, 0] += margin

    def norms(logits: Tensor) -> Tensor:
        probs = logits.softmax(-1)
        logps, none = logits.log_softmax(-1)[:, 0], torch.zeros(64)
        stats = TokenStats(logps, none, probs.square().sum(-1), none, none > 0, torch.arange(64), 64)
        return softmax_gradient_l2(torch.ones(64, dtype=logits.dtype), stats)

    exact = norms(logits)
    # What is left: the rounding of log p itself (about 1e-6 of a nat, against 1 - p), and that of sum p^2 (1e-7) as far as
    # the bound on the other tokens' share lets it through.
    slack = 1e-5 * exact + 4e-6 + torch.minimum(2e-7 / exact, (2**0.5 - 1) * exact)
    found = norms(logits.float()).double()
    assert ((found - exact).abs() <= slack).all()
    assert found.min() > 0.5 * exact.min() > 0, "the plain formula gives 0"


def test_likelihood_gradients_are_those_of_autograd_by_the_probabilities() -> None:
    """In float64 short completions have probabilities, so that dl/dpi can be taken as it is written."""
    batch, loss = pack(PAIRS[:3]), FlexDPOLoss(beta_chosen=0.6, beta_rejected=0.4)
    logps = -torch.linspace(0.5, 4, batch.num_sequences, dtype=torch.float64)
    reference = -torch.linspace(2, 3, batch.num_sequences, dtype=torch.float64).flip(0)
    pairs, lengths = batch.pairs, batch.lengths[batch.pairs]

    def sequences(likelihoods: Tensor) -> SequenceLogps:
        policy, own, frozen = likelihoods.log(), lengths, reference[pairs]
        return SequenceLogps(policy[:, 0], policy[:, 1], own[:, 0], own[:, 1], frozen[:, 0], frozen[:, 1])

    likelihoods = logps[pairs].exp().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(sequences(likelihoods)).losses.sum(), likelihoods)
    found = likelihood_gradients(incentives(loss, sequences(likelihoods.detach())), logps, reference, batch)
    log_ratio, log_pi0 = gradient.abs().log(), reference[pairs]
    # d/d(pi/pi0) = pi0 d/dpi; per token, log|d| - L/T = log|dl/dpi| + L - L/T.
    expected = {
        "": log_ratio,
        "_from_reference": log_ratio + log_pi0,
        "_per_token": log_ratio + logps[pairs] * (1 - 1 / lengths),
        "_per_token_from_reference": log_ratio + logps[pairs] - (logps[pairs] - log_pi0) / lengths,
    }
    for name, values in expected.items():
        for number, side in enumerate(SIDES):
            assert found[f"{side}/log_pi_gradient{name}"].total.item() == pytest.approx(values[:, number].sum().item())
        assert found[f"corollary1{name}"].total.item() == pytest.approx((values[:, 1] - values[:, 0]).sum().item())
