"""What trainers leave, as their sources lay it out: found in step order, whole or not, with base and tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from lightning_modules.models.adapters.peft_format import base_of, is_adapter
from lightning_modules.models.files.checkpoint_folders import checkpoints_in, fault_of, step_numbers, tokenizer_at
from lightning_modules.models.specs import PretrainedPolicy, RandomPolicy
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def model_at(folder: Path, seed: int = 3) -> Path:
    RandomPolicy(**(tiny.POLICY["init_args"] | {"seed": seed})).load().save_pretrained(folder)
    return folder


def adapter_at(folder: Path, base: Path, seed: int = 0, **options: Any) -> Path:
    """An adapter whose factors are both random, as PEFT saves it."""
    torch.manual_seed(seed)
    config = LoraConfig(r=2, **({"target_modules": "all-linear"} | options))
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_at(tmp_path_factory.mktemp("base") / "model")


def names(path: Path) -> list[str]:
    return [str(Path(found).relative_to(path)) for found in checkpoints_in(str(path))]


def test_the_model_beside_checkpoints_is_the_last(tmp_path: Path) -> None:
    for step in (9, 10):
        model_at(tmp_path / f"checkpoint-{step}", step)
    model_at(tmp_path, 11)
    assert names(tmp_path) == ["checkpoint-9", "checkpoint-10", "."]
    assert step_numbers(checkpoints_in(str(tmp_path))) == [9, 10, 11]
    (tmp_path / "trainer_state.json").write_text('{"global_step": 14}')
    assert step_numbers(checkpoints_in(str(tmp_path))) == [9, 10, 14]
    # The trainer saved its last step twice: one reading is enough.
    shutil.copy(tmp_path / "checkpoint-10" / "model.safetensors", tmp_path)
    assert names(tmp_path) == ["checkpoint-9", "checkpoint-10"]


def test_layouts_of_other_trainers(tmp_path: Path, base: Path) -> None:
    verl, openrlhf, axolotl = (tmp_path / name for name in ("verl", "openrlhf", "axolotl"))
    for step in (5, 10):
        model_at(verl / f"global_step_{step}" / "actor" / "huggingface")
        model_at(openrlhf / f"global_step{step}_hf")
        adapter_at(axolotl / f"checkpoint-{step}", base, seed=step)
    adapter_at(verl / "global_step_20" / "actor" / "lora_adapter", base)
    (openrlhf / "_actor" / "global_step5").mkdir(parents=True)
    adapter_at(axolotl, base, seed=20)
    model_at(axolotl / "merged")
    assert names(verl)[-2:] == ["global_step_10/actor/huggingface", "global_step_20/actor/lora_adapter"]
    assert step_numbers(checkpoints_in(str(verl))) == [5, 10, 20]
    assert names(openrlhf) == ["global_step5_hf", "global_step10_hf"]
    assert step_numbers(checkpoints_in(str(openrlhf))) == [5, 10]
    assert names(axolotl) == ["checkpoint-5", "checkpoint-10", "."]


def test_what_is_not_whole_is_named(tmp_path: Path, base: Path) -> None:
    cut = model_at(tmp_path / "checkpoint-1")
    assert fault_of(str(cut)) == ""
    assert fault_of("some/hub-name") == ""
    weights = (cut / "model.safetensors").read_bytes()
    for length in (0, 4, 100, len(weights) - 1):
        (cut / "model.safetensors").write_bytes(weights[:length])
        assert "model.safetensors" in fault_of(str(cut)), length
    (cut / "model.safetensors").unlink()
    assert "model.safetensors is not there" in fault_of(str(cut))
    (cut / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    (cut / "one.safetensors").write_bytes(weights)
    assert "two.safetensors is not there" in fault_of(str(cut))
    (cut / "two.safetensors").write_bytes(weights)
    assert fault_of(str(cut)) == ""
    pieces = tmp_path / "global_step_5" / "actor"
    (pieces / "huggingface").mkdir(parents=True)
    (pieces / "huggingface" / "config.json").write_text("{}")
    (pieces / "model_world_size_2_rank_0.pt").write_bytes(b"")
    assert "verl.model_merger" in fault_of(str(pieces / "huggingface"))
    adapter = adapter_at(tmp_path / "adapter", base)
    (adapter / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors is not there" in fault_of(str(adapter))


def test_an_adapter_is_read_as_peft_runs_it(tmp_path: Path, base: Path) -> None:
    folder = adapter_at(tmp_path / "adapter", base, use_rslora=True)
    assert is_adapter(str(folder))
    assert base_of(str(folder)) == str(base)
    ids = torch.tensor([[1, 5, 9, 7, 2]])
    read = PretrainedPolicy(path=str(folder)).load()
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder))
    with torch.no_grad():
        expected = theirs(ids).logits
        assert not torch.allclose(AutoModelForCausalLM.from_pretrained(base)(ids).logits, expected, atol=1e-2)
        assert torch.allclose(read(ids).logits, expected, atol=1e-5)
    moved = tmp_path / "moved"
    shutil.copytree(base, moved)
    with torch.no_grad():
        assert torch.equal(PretrainedPolicy(path=str(folder), base=str(moved)).load()(ids).logits, read(ids).logits)


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path, base: Path) -> None:
    folder = adapter_at(tmp_path / "adapter", base, target_modules=["q_proj", "v_proj"])
    wide = tiny.POLICY["init_args"]["config"] | {"hidden_size": 32}
    RandomPolicy(config=wide).load().save_pretrained(tmp_path / "wide")
    with pytest.raises(ValueError, match="expected an adapter that fits"):
        PretrainedPolicy(path=str(folder), base=str(tmp_path / "wide")).load()
    for layers, fault in ((3, "are missing"), (1, "have no place")):
        other = tiny.POLICY["init_args"]["config"] | {"num_hidden_layers": layers}
        RandomPolicy(config=other).load().save_pretrained(tmp_path / str(layers))
        with pytest.raises(ValueError, match=f"expected an adapter that fits .* {fault}"):
            PretrainedPolicy(path=str(folder), base=str(tmp_path / str(layers))).load()
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match="pickles are not opened"):
        PretrainedPolicy(path=str(folder)).load()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="expected base_model_name_or_path"):
        base_of(str(folder))


def test_the_tokenizer_is_where_it_is(tmp_path: Path, base: Path) -> None:
    run = tmp_path / "run"
    for step in (1, 2):
        model_at(run / f"checkpoint-{step}", step)
    assert tokenizer_at("some/hub-name") == "some/hub-name"
    assert tokenizer_at(str(run)) == str(run), "none anywhere: the reader says so"
    other = tiny.write_tokenizer(tmp_path / "other")
    assert tokenizer_at(str(run), str(other)) == str(other)
    tiny.write_tokenizer(run)
    assert tokenizer_at(str(run)) == str(run)
    tiny.write_tokenizer(run / "checkpoint-2")
    assert tokenizer_at(str(run)) == str(run / "checkpoint-2")
    (run / "checkpoint-2" / "chat_template.jinja").unlink()
    assert tokenizer_at(str(run)) == str(run), "the chat template is there"
    adapter = adapter_at(tmp_path / "adapter", base, target_modules=["q_proj", "v_proj"])
    assert tokenizer_at(str(adapter)) == str(adapter)
    tiny.write_tokenizer(base)
    assert tokenizer_at(str(adapter)) == str(base)
