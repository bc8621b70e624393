"""NaN and infinity: the step is not applied, the run ends, the last finite checkpoint stays, and broken weights are named.

What a run must have at its end is compared with a run that stopped just before the bad step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from callbacks.saving.checkpoint import RunCheckpoint
from callbacks.saving.reward_export import RewardExport
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.models.scalars.reward_model import RewardModelSpec
from lightning_modules.models.specs import PretrainedPolicy
from lightning_modules.models.toy.specs import SavedToyPolicySpec, ToyPolicySpec
from lightning_modules.on_policy import OnPolicyPreferenceModule
from lightning_modules.optimization.stochastic_rounding import StochasticAdamW
from lightning_modules.preference import PreferenceModule
from lightning_modules.reward import RewardModule
from lightning_modules.rewards.judge_reward import JudgeReward
from lightning_modules.sft import SFTModule
from lightning_modules.step_output import StepOutput
from lightning_modules.trained import TrainedModule
from tests.lightning_modules.ppo import rig
from tests.lightning_modules.stubs import TINY, InMemoryPairs, make_pairs

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`"),
]

BAD_STEP, STEPS = 3, 6
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "fused": partial(AdamW, lr=0.01, fused=True),
    "foreach": partial(AdamW, lr=0.01),
    "stochastic": partial(StochasticAdamW, lr=0.01),
}
STAGES = ("sft", "dpo", "rm", "ppo", "on_policy")


class Spoil(Callback):
    """NaN in one gradient entry at an optimizer step (1-based), as a broken kernel leaves it; for ever on request."""

    def __init__(self, step: int = BAD_STEP, for_ever: bool = False) -> None:
        self.step, self.for_ever = step, for_ever

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        now = trainer.global_step + 1
        if now == self.step or (self.for_ever and now > self.step):
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            gradients[-1].view(-1)[0] = torch.nan


class SpoilBackward(Spoil):
    """The same before anyone has looked at the gradients."""

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_before_optimizer_step(trainer, pl_module, trainer.optimizers[0])

    def on_before_optimizer_step(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved causal LM."""
    path = tmp_path_factory.mktemp("model") / "policy"
    TINY.build().save(path)
    return path


def module_of(stage: str, optimizer: Callable[..., Optimizer], folder: Path) -> TrainedModule:
    match stage:
        case "sft":
            return SFTModule(TINY, optimizer)
        case "dpo":
            return PreferenceModule(TINY, DPOLoss(beta=0.5), optimizer, cache_dir=str(folder.parent))
        case "rm":
            return RewardModule(RewardModelSpec(str(folder)), optimizer)
        case "ppo":
            return rig.module(optimizer=optimizer)
        case _:
            return OnPolicyPreferenceModule(TINY, DPOLoss(beta=0.5), [JudgeReward(rig.EvenJudge())], optimizer)


def fit(module: TrainedModule, stage: str, folder: Path, *callbacks: Callback, accumulate: int = 1, **options: Any) -> Trainer:
    pairs = InMemoryPairs(make_pairs(4), [[0, 1], [2, 3]] * STEPS, accumulate)
    data = rig.Prompts() if stage in ("ppo", "on_policy") else pairs
    options = {"max_steps": STEPS, "log_every_n_steps": 10, "accumulate_grad_batches": accumulate} | options
    options["enable_checkpointing"] = any(isinstance(callback, RunCheckpoint) for callback in callbacks)
    return rig.fit(folder, module, data, callbacks, **options)


def weights(module: TrainedModule) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize(
    ("stage", "optimizer"),
    [*((stage, "fused") for stage in STAGES), ("sft", "foreach"), ("ppo", "foreach"), ("rm", "stochastic")],
)
def test_a_step_with_a_gradient_that_is_not_finite_is_never_applied(
    stage: str, optimizer: str, folder: Path, tmp_path: Path
) -> None:
    spoiled, before = (module_of(stage, OPTIMIZERS[optimizer], folder) for _ in range(2))
    rows = "the rows 0, 1" if stage in ("sft", "dpo", "rm") else "completions that were sampled"
    with pytest.raises(ValueError, match=rf"grad_norm, got nan in step {BAD_STEP}, made of {rows}\. The step was not applied"):
        fit(spoiled, stage, tmp_path / "spoiled", Spoil())
    fit(before, stage, tmp_path / "before", max_steps=BAD_STEP - 1)
    left, expected = weights(spoiled), weights(before)
    assert all(torch.equal(left[name], tensor) for name, tensor in expected.items())
    assert before.trainer.global_step == BAD_STEP - 1


@pytest.mark.parametrize(("step", "optimizer"), [(BAD_STEP, "fused"), (STEPS, "fused"), (STEPS, "stochastic")])
def test_the_last_finite_checkpoint_stays_and_nothing_is_exported(step: int, optimizer: str, folder: Path, tmp_path: Path) -> None:
    module = module_of("rm", OPTIMIZERS[optimizer], folder)
    with pytest.raises(ValueError, match=rf"in step {step}, .*Go on from the last checkpoint with --ckpt_path .*={step - 1}.ckpt"):
        fit(module, "rm", tmp_path, Spoil(step), RunCheckpoint(1, keep_older=0), RewardExport())
    [kept] = tmp_path.rglob("epoch=*.ckpt")
    state = torch.load(kept.with_name("last.ckpt"), weights_only=True)
    assert state["global_step"] == step - 1
    assert all(tensor.isfinite().all() for tensor in state["state_dict"].values())
    assert list(tmp_path.rglob("policy*")) == []


@pytest.mark.parametrize("last", [Spoil(STEPS), None], ids=["gradient", "weight"])
def test_a_bad_last_step_is_no_success_without_checkpoints(last: Callback | None, folder: Path, tmp_path: Path) -> None:
    module = module_of("sft", OPTIMIZERS["fused"], folder)
    with pytest.raises(
        ValueError, match=r"grad_norm, got nan in step 6|finite weights after step 6, got NaN or infinity in policy"
    ):
        fit(module, "sft", tmp_path, last or SpoilWeight())


class SpoilWeight(Callback):
    """A weight becomes infinite in the last step, whose numbers were all finite."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == STEPS:
            with torch.no_grad():
                next(pl_module.parameters()).view(-1)[0] = torch.inf


def test_a_statistic_that_is_not_finite_forbids_the_step(folder: Path, tmp_path: Path) -> None:
    class Odd(SFTModule):
        def metrics(self, output: StepOutput, batch: Any) -> dict[str, Tensor]:
            found = super().metrics(output, batch)
            broken = self.trainer.global_step + 1 == BAD_STEP
            return found | {"entropy": found["entropy"] * (torch.inf if broken else 1)}

    module = Odd(TINY, OPTIMIZERS["fused"])
    before = module_of("sft", OPTIMIZERS["fused"], folder)
    with pytest.raises(ValueError, match=rf"expected a finite train/entropy, got inf in step {BAD_STEP}"):
        fit(module, "sft", tmp_path / "odd")
    fit(before, "sft", tmp_path / "before", max_steps=BAD_STEP - 1)
    assert all(torch.equal(tensor, weights(module)[name]) for name, tensor in weights(before).items())


def test_steps_of_several_microbatches_are_named_whole(folder: Path, tmp_path: Path) -> None:
    module = module_of("sft", OPTIMIZERS["fused"], folder)
    with pytest.raises(ValueError, match=r"in step 2, made of the rows 0, 1, 2, 3\."):
        fit(module, "sft", tmp_path, Spoil(2), accumulate=2, max_steps=3)


@pytest.mark.parametrize("optimizer", ["fused", "foreach"])
@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_an_overflow_of_float16_is_left_to_the_scaler(
    stage: str, optimizer: str, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def fit_scaled(name: str, initial: float, *callbacks: Callback) -> tuple[TrainedModule, torch.amp.GradScaler]:
        scaler = torch.amp.GradScaler("cpu", init_scale=initial, growth_interval=1000)
        module = module_of(stage, OPTIMIZERS[optimizer], folder)
        plugin = MixedPrecision("16-mixed", "cpu", scaler)
        fit(module, stage, tmp_path / name, *callbacks, plugins=[plugin], log_every_n_steps=1, gradient_clip_val=None)
        return module, scaler

    module, scaler = fit_scaled("overflow", 2.0**127, SpoilBackward(2))
    assert scaler.get_scale() < 2.0**127
    assert "Step 2 is left out: its float16 gradients overflowed at a loss scale of " in caplog.text
    assert all(tensor.isfinite().all() for tensor in weights(module).values())
    # The factor sinks from 4 to 1 in vain.
    with pytest.raises(ValueError, match=r"grad_norm, got nan in step 4,"):
        fit_scaled("broken", 4.0, SpoilBackward(2, for_ever=True))
    # What becomes NaN after the scaler has looked it does not leave out.
    if optimizer == "foreach":
        with pytest.raises(ValueError, match=r"grad_norm, got nan in step 2,"):
            fit_scaled("late", 4.0, Spoil(2))


def test_clipping_under_a_scaler_cuts_the_gradient_itself(folder: Path, tmp_path: Path) -> None:
    """A fused optimizer is given scaled gradients by Lightning; cut to 0.01 while scaled, they would be 2^-16 of that."""
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**8))
    module = SFTModule(TINY, partial(SGD, lr=1.0, fused=True))
    fit(module, "sft", tmp_path, plugins=[plugin], max_steps=1, gradient_clip_val=0.01)
    start = dict(TINY.build().named_parameters())
    moved = torch.cat([(p.detach() - start[name].detach()).flatten() for name, p in module.policy.named_parameters()])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def spoil_file(folder: Path, source: Path) -> Path:
    """A copy of a saved model with one NaN."""
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    [file] = folder.glob("*.safetensors")
    tensors = load_file(file)
    tensors[max(tensors)].view(-1)[-1] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def test_broken_weights_are_named_when_they_are_loaded(folder: Path, tmp_path: Path) -> None:
    broken = spoil_file(tmp_path / "broken", folder)
    for build in (PretrainedPolicy(path=str(broken)).build, RewardModelSpec(str(broken)).build):
        with pytest.raises(ValueError, match=r"expected finite weights in the model in .*broken, got NaN or infinity in 1 of "):
            build()
    toy = ToyPolicySpec(num_seeds=1, width=4).build()
    toy.save(tmp_path / "toy")
    with pytest.raises(ValueError, match=r"expected finite weights in the policy in .*spoiled, got NaN"):
        SavedToyPolicySpec(str(spoil_file(tmp_path / "spoiled", tmp_path / "toy"))).build()


@pytest.mark.parametrize("part", ["state_dict", "optimizer_states"])
def test_a_broken_checkpoint_is_refused(part: str, folder: Path, tmp_path: Path) -> None:
    fit(module_of("sft", OPTIMIZERS["fused"], folder), "sft", tmp_path, RunCheckpoint(1), max_steps=2)
    [path] = tmp_path.rglob("last.ckpt")
    state = torch.load(path, weights_only=True)
    tensors = state["state_dict"] if part == "state_dict" else state["optimizer_states"][0]["state"][0]
    tensors[max(name for name, tensor in tensors.items() if tensor.dim())].view(-1)[0] = torch.nan
    torch.save(state, tmp_path / "broken.ckpt")
    module = module_of("sft", OPTIMIZERS["fused"], folder)
    with pytest.raises(ValueError, match="expected finite weights and optimizer state in the checkpoint, got NaN or infinity in"):
        fit(module, "sft", tmp_path / "again", RunCheckpoint(1), ckpt_path=tmp_path / "broken.ckpt")
