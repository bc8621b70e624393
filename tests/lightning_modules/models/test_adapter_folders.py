"""Adapters that this project writes, read by peft and transformers alone, and read again to be trained further."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from datamodules.contracts.packing import pack
from lightning_modules.models.adapters.lora import LoraSpec, adapters_off
from lightning_modules.models.adapters.peft_format import WEIGHTS
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.specs import PretrainedPolicy
from tests.lightning_modules.stubs import TINY, make_pairs

KINDS: list[dict[str, Any]] = [
    {},
    {"use_dora": True},
    {"use_rslora": True},
    {"target_modules": ["q_proj", "down_proj"]},
]

# Of peft about transformers' names.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    TINY.build().save(folder)
    return folder


def trained(base: Path, lora: LoraSpec) -> CausalLMPolicy:
    """A policy whose adapters have moved."""
    policy = PretrainedPolicy(str(base), lora=lora).build()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return policy


def plain_logps(model: torch.nn.Module) -> Tensor:
    """Log-probs of the pairs of `make_pairs(2)`, one sequence at a time."""
    found: list[Tensor] = []
    for example in make_pairs(2):
        for completion in example.completions:
            ids = torch.tensor([[*example.prompt_ids, *completion.token_ids]])
            logps = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None]).squeeze(1)
            found.append(logps[len(example.prompt_ids) - 1 :])
    return torch.cat(found)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_peft_and_transformers_read_the_same_policy(base: Path, tmp_path: Path, kind: dict[str, Any]) -> None:
    policy = trained(base, LoraSpec(r=2, alpha=4.0, **kind))
    policy.save(tmp_path / "policy")
    with torch.no_grad():
        ours = policy(pack(make_pairs(2))).logps
        adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "policy/adapter"))
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
        torch.testing.assert_close(plain_logps(adapted), ours, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(plain_logps(merged), ours, atol=1e-6, rtol=1e-6)
        with adapters_off(policy.model):
            assert torch.equal(policy(pack(make_pairs(2))).logps, TINY.build()(pack(make_pairs(2))).logps)
        assert torch.equal(policy(pack(make_pairs(2))).logps, ours)
    assert all(parameter.requires_grad == (".lora_" in name) for name, parameter in policy.named_parameters())


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_an_adapter_is_trained_further_from_where_it_was(base: Path, tmp_path: Path, kind: dict[str, Any]) -> None:
    policy = trained(base, LoraSpec(r=2, alpha=4.0, **kind))
    policy.save(tmp_path / "policy")
    again = PretrainedPolicy(str(base), lora=LoraSpec(start_from=str(tmp_path / "policy/adapter"))).build()
    assert torch.equal(again(pack(make_pairs(2))).logps, policy(pack(make_pairs(2))).logps)
    own, other = ({name for name, p in each.named_parameters() if p.requires_grad} for each in (policy, again))
    assert own == other


def test_what_does_not_fit_is_refused_in_words(base: Path, tmp_path: Path) -> None:
    trained(base, LoraSpec(r=2)).save(tmp_path / "policy")
    folder = str(tmp_path / "policy/adapter")
    with pytest.raises(ValueError, match=r"expected lora\.r: 2, as the adapter in .* has it, got 8\. Leave it out"):
        PretrainedPolicy(str(base), lora=LoraSpec(r=8, start_from=folder)).build()
    other = replace(TINY, config=TINY.config | {"num_hidden_layers": 1}, lora=LoraSpec(start_from=folder))
    with pytest.raises(ValueError, match=r"an adapter of LlamaForCausalLM in .*, got one of another model: 14 weights do not fit"):
        other.build()
    with pytest.raises(ValueError, match=r"expected an adapter that PEFT saved .* in .*base, got none"):
        PretrainedPolicy(str(base), lora=LoraSpec(start_from=str(base))).build()
    (Path(folder) / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="Files of pickles are not opened"):
        PretrainedPolicy(str(base), lora=LoraSpec(start_from=folder)).build()


def test_no_adapter_is_written_over_a_base_that_is_in_no_folder(base: Path, tmp_path: Path) -> None:
    trained(base, LoraSpec(r=2)).save(tmp_path / "first")
    second = PretrainedPolicy(str(tmp_path / "first/adapter"), lora=LoraSpec(r=2)).build()
    second.save(tmp_path / "second")
    assert not (tmp_path / "second/adapter").exists()
    assert (tmp_path / "second/model.safetensors").is_file()
