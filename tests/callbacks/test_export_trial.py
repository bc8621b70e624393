"""A save that can fail is tried before the first step, and trained weights are never lost."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.optim import SGD

from callbacks.saving.policy_export import PolicyExport
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.models.adapters.lora import LoraSpec
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.specs import PretrainedPolicy, RandomPolicy
from lightning_modules.preference import PreferenceModule
from tests.callbacks.rig import fit
from tests.lightning_modules.models.architectures import config, make_batch
from tests.lightning_modules.models.test_router import EXPERTS

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


def spec(model_type: str = "llama", **options: Any) -> RandomPolicy:
    experts = {"num_experts_per_tok": 2, **EXPERTS[model_type]} if model_type in EXPERTS else {}
    return RandomPolicy({**config("llama"), "model_type": model_type, **experts}, seed=1, **options)


def module(folder: Path, policy: RandomPolicy) -> PreferenceModule:
    return PreferenceModule(policy, DPOLoss(beta=0.5), partial(SGD, lr=0.3), cache_dir=str(folder / "cache"))


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe", "olmoe"])
def test_adapters_of_experts_are_merged_into_what_they_compute(model_type: str, tmp_path: Path) -> None:
    trained = module(tmp_path, spec(model_type, lora=LoraSpec(r=2, alpha=4.0)))
    trainer = fit(trained, [PolicyExport()], tmp_path)
    merged = PretrainedPolicy(str(Path(trainer.log_dir or "") / "policy")).build()
    batch, experts = make_batch(), [name for name, p in trained.named_parameters() if "experts" in name and p.requires_grad]
    assert experts, "peft adapts experts too"
    after = trained.policy(batch).logps
    assert (after - spec(model_type).build()(batch).logps).abs().max() > 0.01
    torch.testing.assert_close(merged(batch).logps, after, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_saved_is_refused_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = module(tmp_path, spec())
    trained.configure_model()
    # transformers refuses to write a generation configuration that contradicts itself.
    trained.policy.model.generation_config.temperature = -1.0  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"[Gg]eneration|temperature"):
        fit(trained, [PolicyExport()], tmp_path)
    assert trained.trainer.global_step == 0
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(ValueError, match=r"GB of room for the weights .* got 0.0\."):
        fit(module(tmp_path, spec()), [PolicyExport()], tmp_path)


def test_a_save_that_fails_at_the_end_leaves_the_trained_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: CausalLMPolicy, folder: Path) -> None:
        folder.mkdir()
        raise OSError("no space left on device")

    monkeypatch.setattr(CausalLMPolicy, "save", full)
    trained = module(tmp_path, spec("mixtral", lora=LoraSpec(r=2, alpha=4.0)))
    with pytest.raises(ValueError, match=r"no space left.*Nothing is lost.*policy_weights\.safetensors"):
        fit(trained, [PolicyExport()], tmp_path)
    (file,) = tmp_path.rglob("policy_weights.safetensors")
    assert not (file.parent / "policy").exists()
    again = spec("mixtral", lora=LoraSpec(r=2, alpha=4.0)).build()
    again.load_state_dict(load_file(file))
    torch.testing.assert_close(again(make_batch()).logps, trained.policy(make_batch()).logps)
