from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.optim import SGD

from datamodules.contracts.batches import CompletionBatch
from lightning_modules.losses.base import PreferenceLoss
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.token_gates import Renyi2Gate
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.specs import RandomPolicy
from lightning_modules.objective_module import ObjectiveModule
from lightning_modules.preference import PreferenceModule
from lightning_modules.sft import SFTModule
from lightning_modules.step_output import StepOutput
from tests.lightning_modules.stubs import TINY, InMemoryPairs, make_pairs

# The tiny in-memory data has no validation set.
pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


class Keep(Callback):
    """Keeps what a step hands to callbacks."""

    def __init__(self) -> None:
        self.steps: list[StepOutput] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: CompletionBatch, batch_idx: int) -> None:
        self.steps.append(outputs["step"])


def fit(
    module: ObjectiveModule, data: InMemoryPairs, tmp_path: Path, accumulate: int = 1, **options: Any
) -> tuple[ObjectiveModule, Keep]:
    keep = Keep()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=tmp_path,
        callbacks=[keep],
        **options,
    )
    trainer.fit(module, datamodule=data)
    return module, keep


def preference(tmp_path: Path, loss: PreferenceLoss | None = None) -> PreferenceModule:
    return PreferenceModule(TINY, loss or DPOLoss(beta=0.5), partial(SGD, lr=0.5), cache_dir=str(tmp_path))


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_uneven_microbatches_take_the_same_step_as_one_batch(tmp_path: Path, kind: str) -> None:
    examples = make_pairs(5)

    def make() -> ObjectiveModule:
        return SFTModule(TINY, partial(SGD, lr=0.5)) if kind == "sft" else preference(tmp_path)

    # Two epochs' worth of steps over the same pairs, so that the second one has a margin.
    whole, _ = fit(make(), InMemoryPairs(examples, [[0, 1, 2, 3, 4]] * 2, 1), tmp_path)
    cut, _ = fit(make(), InMemoryPairs(examples, [[0], [1, 2, 3, 4]] * 2, 2), tmp_path, accumulate=2)
    moved = 0.0
    for (name, a), b, start in zip(
        whole.policy.named_parameters(), cut.policy.parameters(), TINY.build().parameters(), strict=True
    ):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-7, msg=partial("{}: {}".format, name))
        moved += (a - start).abs().sum().item()
    assert moved > 1e-3


def test_reported_gradients_are_those_of_each_pair_alone(tmp_path: Path) -> None:
    examples = make_pairs(5)
    _, keep = fit(preference(tmp_path), InMemoryPairs(examples, [[0], [1, 2, 3, 4]], 2), tmp_path, accumulate=2)
    second = keep.steps[1]
    assert second.pairs is not None
    # At step 0 the margin is 0, so that w = 1/2 and every incentive is beta / 2.
    chosen, rejected = second.incentives() or (None, None)
    torch.testing.assert_close(chosen, torch.full((4,), 0.25))
    torch.testing.assert_close(rejected, torch.full((4,), 0.25))
    gradients = second.token_gradients()
    assert gradients is not None
    torch.testing.assert_close(gradients.abs(), torch.full_like(gradients, 0.25))


def test_reference_is_computed_once_and_equals_the_starting_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = InMemoryPairs(make_pairs(4), [[0, 1, 2, 3]], 1)
    built: list[int] = []
    build = type(TINY).build

    def counted(spec: RandomPolicy) -> CausalLMPolicy:
        built.append(1)
        return build(spec)

    monkeypatch.setattr(type(TINY), "build", counted)
    fit(preference(tmp_path), data, tmp_path)
    assert len(built) == 2, "the policy, and the reference once"
    with torch.no_grad():
        expected = torch.cat([build(TINY)(batch).logps for batch in data.scoring_dataloader("train")])
    torch.testing.assert_close(data.reference["train"], expected, rtol=0, atol=1e-6)

    again = InMemoryPairs(data.examples, data.microbatches, 1)
    fit(preference(tmp_path), again, tmp_path)
    assert len(built) == 3, "only the policy: the log-probs came from the cache"
    assert torch.equal(again.reference["train"], data.reference["train"])


def test_frozen_parameters_are_not_in_the_optimizer_and_the_policy_trains_in_train_mode(tmp_path: Path) -> None:
    module = SFTModule(TINY, partial(SGD, lr=0.5))
    module.configure_model()
    frozen = next(module.policy.parameters()).requires_grad_(False)
    module.policy.eval()
    fit(module, InMemoryPairs(make_pairs(2), [[0, 1]], 1), tmp_path)
    optimized = [p for group in module.optimizers().param_groups for p in group["params"]]  # type: ignore[union-attr]
    assert all(p is not frozen for p in optimized)
    assert len(optimized) == len(list(module.policy.parameters())) - 1
    assert module.policy.training


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    module = SFTModule(TINY, partial(SGD, lr=1e30))
    with pytest.raises(ValueError, match=r"expected a finite training loss, got nan"):
        fit(module, InMemoryPairs(make_pairs(4), [[0, 1], [2, 3], [0, 1]], 1), tmp_path)


def test_gradient_norm_is_clipped_with_a_fused_optimizer(tmp_path: Path) -> None:
    examples = make_pairs(2)
    start = {name: p.detach().clone() for name, p in TINY.build().named_parameters()}
    module, _ = fit(
        SFTModule(TINY, partial(SGD, lr=1.0, fused=True)), InMemoryPairs(examples, [[0, 1]], 1), tmp_path, gradient_clip_val=0.01
    )
    moved = torch.cat([(p.detach() - start[name]).flatten() for name, p in module.policy.named_parameters()])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_a_gate_takes_the_step_of_its_own_loss(tmp_path: Path) -> None:
    examples = make_pairs(5)
    module, keep = fit(
        SFTModule(TINY, partial(SGD, lr=0.5), gate=Renyi2Gate()), InMemoryPairs(examples, [[0, 1], [2, 3, 4]], 2), tmp_path, 2
    )
    policy = TINY.build()
    stats = policy(InMemoryPairs(examples, [[0]], 1)._pack([0, 1, 2, 3, 4]))
    focus = stats.sum_sq_probs
    ((1 - (focus * stats.logps).exp()) / focus).mean().backward()
    for after, before in zip(module.policy.parameters(), policy.parameters(), strict=True):
        assert before.grad is not None
        torch.testing.assert_close(after, before.detach() - 0.5 * before.grad, rtol=1e-4, atol=1e-6)
    gradients = keep.steps[0].token_gradients()
    assert gradients is not None
    assert gradients.unique().numel() > 3, "every token has a gate of its own"


def test_sft_data_is_refused_by_name(tmp_path: Path) -> None:
    module = preference(tmp_path)
    batch = InMemoryPairs(make_pairs(1), [[0]], 1)._pack([0])
    lonely = CompletionBatch(**{**batch.__dict__, "pairs": batch.pairs[:0]})
    with pytest.raises(ValueError, match=r"expected a chosen and a rejected completion for each of 1 prompts, got 0 pairs"):
        module.objective(lonely, TINY.build()(lonely))
