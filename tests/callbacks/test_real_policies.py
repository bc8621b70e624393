"""The diagnostics on the policies users train: exact against autograd through explicit logits, and without a trace in training."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.optim import SGD

from callbacks.answers.samples import SampleLogger
from callbacks.diagnostics.degradation import DegradationMonitor
from callbacks.diagnostics.dispersion import DispersionMonitor
from callbacks.diagnostics.likelihood import LikelihoodMonitor
from callbacks.diagnostics.softmax_gradient import SoftmaxGradientMonitor, sequence_norms, token_norms
from callbacks.output.token_heatmap import TokenHeatmap
from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.examples import Example
from datamodules.contracts.packing import pack
from lightning_modules.losses.base import PreferenceLoss
from lightning_modules.losses.cal_dpo import CalDPOLoss
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.flex_dpo import FlexDPOLoss
from lightning_modules.losses.ipo import IPOLoss
from lightning_modules.losses.orpo import ORPOLoss
from lightning_modules.losses.simpo import SimPOLoss
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.policy import Policy, PolicySpec
from lightning_modules.models.toy.policy import ToyPolicy
from lightning_modules.models.toy.specs import ToyPolicySpec
from lightning_modules.objective_module import ObjectiveModule
from lightning_modules.preference import PreferenceModule
from lightning_modules.sft import SFTModule
from lightning_modules.token_stats import TokenStats
from tests.callbacks.rig import PAIRS, ProbedPairs, fit, pair
from tests.lightning_modules.stubs import TINY, make_pairs

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")

TOY_PAIRS = [pair([prompt], [prompt % 4], [4 + prompt % 3]) for prompt in range(8)]


def explicit_logits(policy: Policy, batch: CompletionBatch) -> Tensor:
    """`[K, V]`, the way no part of the project forms them."""
    if isinstance(policy, ToyPolicy):
        return policy.logits().flatten(0, 1)[batch.input_ids[batch.target_index]]
    assert isinstance(policy, CausalLMPolicy)
    weight = policy.model.get_output_embeddings().weight
    assert isinstance(weight, Tensor)
    return policy._hidden(batch)[0] @ weight.T


def module_of(policy: PolicySpec, loss: PreferenceLoss | None, dtype: torch.dtype) -> ObjectiveModule:
    optimizer = partial(SGD, lr=0.1)
    module: ObjectiveModule = SFTModule(policy, optimizer) if loss is None else PreferenceModule(policy, loss, optimizer)
    module.configure_model()
    module.policy.to(dtype)
    module.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, accumulate_grad_batches=3)
    return module


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["float64", "float32"])
@pytest.mark.parametrize("loss", [None, DPOLoss(beta=0.3), FlexDPOLoss(), IPOLoss(), SimPOLoss(), ORPOLoss(), CalDPOLoss()])
@pytest.mark.parametrize(
    ("policy", "examples"), [(TINY, make_pairs(4)), (ToyPolicySpec(num_seeds=2, width=16), TOY_PAIRS)], ids=["transformer", "toy"]
)
def test_token_norms_equal_autograd_through_explicit_logits(
    policy: PolicySpec, examples: list[Example], loss: PreferenceLoss | None, dtype: torch.dtype, tolerance: float
) -> None:
    module = module_of(policy, loss, dtype)
    reference = pack(examples)
    batch = replace(reference, reference_token_logps=torch.linspace(-4, -2, reference.num_targets, dtype=dtype))
    logits = explicit_logits(module.policy, batch)
    logps = logits.log_softmax(-1).gather(1, batch.target_ids[:, None]).squeeze(1)
    # What a unit's own loss does to the logits: the sum over units leaves each unit's gradient as it is.
    plain = TokenStats(logps, logps, logps, logps, logps > 0, batch.target_sequence, batch.num_sequences)
    expected = torch.autograd.grad(module.objective(batch, plain).loss_sum, logits)[0]

    output = module.objective(batch, module.policy(batch))
    output.stats.logps.retain_grad()
    (output.loss_sum * output.gradient_scale / output.accumulation).backward()
    gradients = output.token_gradients()
    assert gradients is not None
    found = token_norms(gradients, output.stats, batch)
    assert found["chosen/l2"].dtype == dtype
    for number, side in enumerate(("chosen", "rejected")):
        of_side = batch.roles[batch.target_sequence] == number
        torch.testing.assert_close(found[f"{side}/l2"], expected[of_side].norm(dim=1), rtol=tolerance, atol=tolerance * 1e-3)
        torch.testing.assert_close(found[f"{side}/l1"], expected[of_side].abs().sum(1), rtol=tolerance, atol=tolerance * 1e-3)
    l2 = torch.cat([expected.norm(dim=1)])
    whole = torch.stack([l2[batch.target_sequence == sequence].norm() for sequence in batch.pairs[:, 1]])
    torch.testing.assert_close(sequence_norms(l2, batch)["rejected/norm"], whole, rtol=tolerance, atol=0)


def test_watching_a_run_does_not_change_it(tmp_path: Path) -> None:
    def train(callbacks: list[Callback], folder: str) -> dict[str, Tensor]:
        module = PreferenceModule(TINY, DPOLoss(beta=0.5), partial(SGD, lr=0.1), cache_dir=str(tmp_path / "cache"))
        fit(module, callbacks, tmp_path / folder, data=ProbedPairs(PAIRS, [[0, 1], [2], [3, 4], [0]], 2), accumulate=2)
        return module.policy.state_dict()

    alone = train([], "alone")
    monitors = [LikelihoodMonitor(1, 1), SoftmaxGradientMonitor(1, 1), DispersionMonitor(1, 1), DegradationMonitor(1)]
    watched = train([*monitors, SampleLogger(1), TokenHeatmap(1)], "watched")
    assert all(torch.equal(watched[name], value) for name, value in alone.items())
    assert any(not torch.equal(value, TINY.build().state_dict()[name]) for name, value in alone.items())
