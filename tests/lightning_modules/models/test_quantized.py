"""Four-bit weights under adapters: refused in words without bitsandbytes, and whole in every hand-over with it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import AdamW
from transformers import AutoModelForCausalLM

from callbacks.saving.checkpoint import RunCheckpoint
from datamodules.contracts.packing import pack
from lightning_modules.models.adapters import quantized
from lightning_modules.models.adapters.lora import LoraSpec
from lightning_modules.models.specs import PretrainedPolicy
from lightning_modules.sft import SFTModule
from tests.lightning_modules.ppo.rig import fit
from tests.lightning_modules.stubs import TINY, InMemoryPairs, make_pairs

LARGE = replace(TINY, config=TINY.config | {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 64})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    LARGE.build().save(folder)
    return folder


def test_without_adapters_or_the_package_they_are_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"expected adapters \(lora\) over a plain model with load_in_4bit, got none"):
        PretrainedPolicy(str(base), load_in_4bit=True)
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"expected the package bitsandbytes for load_in_4bit, got none. Install it"):
        PretrainedPolicy(str(base), load_in_4bit=True, lora=LoraSpec()).build()


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_a_run_is_resumed_and_exported(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    spec = PretrainedPolicy(str(base), load_in_4bit=True, lora=LoraSpec(r=2))

    def run(name: str, max_steps: int, ckpt_path: Path | None = None) -> tuple[SFTModule, Path]:
        module = SFTModule(spec, optimizer=partial(AdamW, lr=1e-2))
        checkpoint = RunCheckpoint(every_n_train_steps=2)
        options: dict[str, Any] = {"max_steps": max_steps, "enable_checkpointing": True}
        data = InMemoryPairs(make_pairs(4), [[0, 1], [2, 3]], 1)
        fit(tmp_path / name, module, data, [checkpoint], ckpt_path, **options)
        assert checkpoint.newest is not None
        return module, Path(checkpoint.newest)

    through, _ = run("through", 4)
    _, newest = run("first", 2)
    resumed, _ = run("second", 4, newest)
    batch = pack(make_pairs(2))
    with torch.no_grad():
        logps = through.policy(batch).logps
        assert torch.equal(resumed.policy(batch).logps, logps)
        through.policy.save(tmp_path / "policy")
        merged = PretrainedPolicy(str(tmp_path / "policy")).build()
        torch.testing.assert_close(merged(batch).logps, logps, atol=1e-5, rtol=1e-5)
        again = replace(spec, lora=LoraSpec(start_from=str(tmp_path / "policy/adapter"))).build()
        torch.testing.assert_close(again(batch).logps, logps, atol=1e-6, rtol=1e-6)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert not hasattr(plain.config, "quantization_config")
    assert not any(".absmax" in name for name in torch.load(newest, weights_only=True)["state_dict"])


def test_gradients_are_those_of_the_rounded_weights_after_an_evaluation_too(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    spec = PretrainedPolicy(str(base), load_in_4bit=True, lora=LoraSpec(r=2))
    policy = spec.build()
    policy.save(tmp_path / "rounded")
    plain = replace(spec, path=str(tmp_path / "rounded"), load_in_4bit=False).build()
    gradients = []
    for model in (policy, plain):
        with torch.no_grad():
            model.eval()(pack(make_pairs(2)))
            for name, parameter in model.named_parameters():
                if ".lora_B." in name:
                    parameter.fill_(0.01)
        model.train()(pack(make_pairs(2))).logps.sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4, msg=name)
