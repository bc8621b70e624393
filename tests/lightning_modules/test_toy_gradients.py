"""The paper's gradients (Sec. 3.1, App. B.1) for every loss, against autograd in float64 through the toy; and seeds apart."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from callbacks.diagnostics.toy_ledger import pair_gradients
from datamodules.contracts.batches import CompletionBatch
from datamodules.toy.data import ToyDataModule, ToyPreferenceDataModule, ToySFTDataModule
from lightning_modules.losses.base import PreferenceLoss, SequenceLogps
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.models.toy.policy import ToyPolicy, ToyShape
from lightning_modules.models.toy.specs import ToyPolicySpec
from lightning_modules.objective_module import ObjectiveModule
from lightning_modules.preference import PreferenceModule
from lightning_modules.sft import SFTModule
from lightning_modules.token_stats import softmax_gradient_l2
from tests.lightning_modules.losses.cases import all_losses, random_logps
from tests.toy_rig import pair_batch, sequences_of, step

SHAPE = ToyShape(num_seeds=2, num_prompts=4, num_responses=10, width=6)
LOSSES = all_losses()
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def rows_of(policy: ToyPolicy, batch: CompletionBatch) -> Tensor:
    """`[K, V]` logits of the row behind every response, as leaves of their own."""
    return policy.logits().flatten(0, 1)[batch.input_ids[batch.target_index]].detach().requires_grad_()


def loss_of_rows(loss: PreferenceLoss, batch: CompletionBatch, rows: Tensor) -> Tensor:
    logps = rows.log_softmax(-1).gather(1, batch.target_ids[:, None]).squeeze(1)
    return loss(sequences_of(batch, logps)).losses.sum()


@every_loss
@pytest.mark.parametrize(("dtype", "rtol", "atol"), [(torch.float64, 1e-10, 1e-14), (torch.float32, 1e-5, 1e-9)])
def test_gradients_at_the_logits_equal_autograd(loss: PreferenceLoss, dtype: torch.dtype, rtol: float, atol: float) -> None:
    policy, batch = ToyPolicy(SHAPE).to(dtype), pair_batch()
    output = step(policy, batch, loss)
    rows = rows_of(policy, batch)
    (expected,) = torch.autograd.grad(loss_of_rows(loss, batch, rows), rows)
    token_gradients, gradients = output.token_gradients(), pair_gradients(output, batch)
    assert token_gradients is not None
    assert gradients is not None
    norms = expected.norm(dim=1)
    torch.testing.assert_close(softmax_gradient_l2(token_gradients, output.stats), norms, rtol=rtol, atol=atol)
    for number, side in enumerate(("chosen", "rejected")):
        torch.testing.assert_close(gradients[f"logit/{side}"], norms[batch.pairs[:, number]].double(), rtol=rtol, atol=atol)


@every_loss
def test_gradients_in_pi_and_log_pi_equal_autograd(loss: PreferenceLoss) -> None:
    policy, batch = ToyPolicy(SHAPE).double(), pair_batch()
    output = step(policy, batch, loss)
    gradients = pair_gradients(output, batch)
    assert gradients is not None
    logps = output.stats.logps.detach().requires_grad_()
    (in_logs,) = torch.autograd.grad(loss(sequences_of(batch, logps)).losses.sum(), logps)
    probs = logps.detach().exp().requires_grad_()
    (in_probs,) = torch.autograd.grad(loss(sequences_of(batch, probs.log())).losses.sum(), probs)
    for number, side in enumerate(("chosen", "rejected")):
        own = batch.pairs[:, number]
        torch.testing.assert_close(gradients[f"log_pi/{side}"], in_logs[own], rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(10 ** gradients[f"log10_pi/{side}"], in_probs[own].abs(), rtol=1e-10, atol=1e-14)


@every_loss
def test_closed_form_at_the_logits_gives_every_parameters_gradient(loss: PreferenceLoss) -> None:
    policy, batch = ToyPolicy(SHAPE).double(), pair_batch()
    output = step(policy, batch, loss)
    own = [parameter.grad for parameter in policy.parameters()]
    gradients = output.token_gradients()
    assert gradients is not None
    logits = policy.logits()
    prompts = batch.input_ids[batch.target_index]
    p = logits.detach().softmax(-1).flatten(0, 1)[prompts]
    onehot = torch.nn.functional.one_hot(batch.target_ids, 10)
    closed = torch.zeros_like(logits).flatten(0, 1).index_add(0, prompts, gradients[:, None] * (onehot - p)) / 4
    expected = torch.autograd.grad(logits, list(policy.parameters()), closed.reshape(logits.shape))
    for actual, wanted in zip(own, expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-15)


def reads_other_pairs(loss: PreferenceLoss) -> bool:
    """Whether a pair's loss changes when other pairs leave the batch."""
    logps = random_logps()
    half = SequenceLogps(**{f.name: getattr(logps, f.name)[:8] for f in fields(logps) if f.name != "step"})
    return not torch.allclose(loss(logps).losses[:8], loss(half).losses, rtol=1e-12)


SEPARABLE = {name: loss for name, loss in LOSSES.items() if not reads_other_pairs(loss)}


def test_a_loss_that_reads_other_pairs_says_so() -> None:
    # Its mean or order is over the step, so seeds side by side meet there: run it one seed at a time.
    assert LOSSES.keys() - SEPARABLE.keys() == {name for name, loss in LOSSES.items() if loss.needs_step}


@pytest.mark.parametrize("loss", SEPARABLE.values(), ids=SEPARABLE.keys())
@pytest.mark.parametrize("batch_size", [4, 2])
def test_a_seeds_gradient_is_the_one_it_has_alone(loss: PreferenceLoss, batch_size: int) -> None:
    together = ToyPolicy(ToyShape(3, 4, 10, 6), seed=1).double()
    batch = pair_batch(num_seeds=3, seed=1, batch_size=batch_size, rejected="random")
    assert batch.reference_token_logps is not None
    reference = batch.reference_token_logps.reshape(3, -1)
    step(together, batch, loss)
    for number in range(3):
        alone = ToyPolicy(ToyShape(1, 4, 10, 6), seed=1 + number).double()
        own = pair_batch(num_seeds=1, seed=1 + number, batch_size=batch_size, rejected="random")
        step(alone, replace(own, reference_token_logps=reference[number]), loss)
        for joint, single in zip(together.parameters(), alone.parameters(), strict=True):
            assert joint.grad is not None
            assert single.grad is not None
            torch.testing.assert_close(joint.grad[number], single.grad[0], rtol=1e-9, atol=1e-15)


@dataclass(frozen=True)
class DoubleSpec(ToyPolicySpec):
    """In float64: rounding must not be what tells seeds apart."""

    def build(self) -> ToyPolicy:
        return super().build().double()


def module_of(supervised: bool, num_seeds: int, seed: int, folder: Path) -> ObjectiveModule:
    spec = DoubleSpec(num_seeds=num_seeds, width=16, seed=seed)
    if supervised:
        return SFTModule(spec, lambda parameters: torch.optim.Adam(parameters, lr=1e-2))
    return PreferenceModule(
        spec, DPOLoss(beta=0.5), lambda parameters: torch.optim.Adam(parameters, lr=1e-2), cache_dir=str(folder)
    )


def data_of(supervised: bool, num_seeds: int, seed: int) -> ToyDataModule:
    kind = ToySFTDataModule if supervised else ToyPreferenceDataModule
    return kind(scenario=2, num_seeds=num_seeds, batch_size=2, seed=seed, rejected="random")


@pytest.mark.parametrize("supervised", [False, True])
def test_seeds_trained_together_equal_seeds_trained_alone(supervised: bool, tmp_path: Path) -> None:
    def trained(num_seeds: int, seed: int) -> Tensor:
        module = module_of(supervised, num_seeds, seed, tmp_path)
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(accelerator="cpu", max_steps=20, **options)  # type: ignore[arg-type]
        trainer.fit(module, datamodule=data_of(supervised, num_seeds, seed))
        return module.policy.logits().detach()  # type: ignore[operator, no-any-return]

    together = trained(3, 0)
    for number in range(3):
        torch.testing.assert_close(together[number], trained(1, number)[0], rtol=1e-8, atol=1e-10)
    assert not torch.allclose(together[0], together[1], atol=1e-2)
