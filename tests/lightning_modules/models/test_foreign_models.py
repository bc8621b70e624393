"""Models that bring their own code, encode and decode, or see: refused in our words, before transformers asks or fails."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from datamodules.tokens.tokenization import load_tokenizer
from judges.reward_model import RewardModelJudge
from lightning_modules.models.scalars.critic import OwnBody
from lightning_modules.models.scalars.reward_model import RewardModelSpec
from lightning_modules.models.specs import PretrainedPolicy, RandomPolicy
from tests import tiny
from tests.lightning_modules.models.architectures import config, make_batch, sequences

CODE = """
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

class OwnConfig(LlamaConfig):
    model_type = "own_kind"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig

class OwnClassifier(LlamaForSequenceClassification):
    config_class = OwnConfig
"""
OWN = {
    "AutoConfig": "code.OwnConfig",
    "AutoModelForCausalLM": "code.OwnModel",
    "AutoModelForSequenceClassification": "code.OwnClassifier",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Llama under a name that transformers does not know, with its code; a question to the terminal is an error."""
    folder = tmp_path / "own"
    RandomPolicy(config("llama"), seed=1).build().save(folder)
    tiny.write_tokenizer(folder)
    (folder / "code.py").write_text(CODE, encoding="utf-8")
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    fields |= {"model_type": "own_kind", "architectures": ["OwnModel"], "auto_map": OWN}
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("transformers asks at the terminal"))
    return folder


ROLES: dict[str, Callable[[str], Any]] = {
    "policy": lambda path: PretrainedPolicy(path).build(),
    "reward model": lambda path: RewardModelSpec(path).build(),
    "likelihood": lambda path: RewardModelSpec(path, likelihood_scale=1.0).build(),
    "critic": lambda path: OwnBody(path).build(PretrainedPolicy(path, trust_remote_code=True).build()),
    "judge": lambda path: RewardModelJudge(path).judge("w1", "w2"),
}


@pytest.mark.parametrize("role", ROLES)
def test_code_that_comes_with_a_model_is_not_run_unless_trusted_by_name(own: Path, role: str) -> None:
    with pytest.raises(ValueError, match=r"its own Python files .*all your rights.*trust_remote_code: true"):
        ROLES[role](str(own))


def test_trusted_code_gives_the_model_that_it_is(own: Path) -> None:
    batch = make_batch()
    trusted = PretrainedPolicy(str(own), trust_remote_code=True).build()
    torch.testing.assert_close(trusted(batch).logps, RandomPolicy(config("llama"), seed=1).build()(batch).logps)
    assert type(trusted.model).__name__ == "OwnModel"


NORM_HEAD = """
import torch
from torch import nn

class NormHead(nn.Module):
    def __init__(self, hidden_size, vocab_size):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))

    def forward(self, hidden):
        return nn.functional.linear(hidden, nn.functional.normalize(self.weight))

class NormModel(OwnModel):
    def __init__(self, config):
        super().__init__(config)
        self.lm_head = NormHead(config.hidden_size, config.vocab_size)
        self.post_init()
"""


def test_a_normalised_head_as_baichuan2_has_it_is_refused_and_its_divided_rows_are_read(own: Path, tmp_path: Path) -> None:
    with (own / "code.py").open("a", encoding="utf-8") as code:
        code.write(NORM_HEAD)
    fields = json.loads((own / "config.json").read_text(encoding="utf-8"))
    fields["auto_map"] |= {"AutoModelForCausalLM": "code.NormModel"}
    (own / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(ValueError, match=r"linear output layer, got NormHead.*rows divided by their norms"):
        PretrainedPolicy(str(own), trust_remote_code=True).build()
    model = AutoModelForCausalLM.from_pretrained(own, trust_remote_code=True)
    plain = RandomPolicy(config("llama"), seed=1).build()
    with torch.no_grad():
        plain.model.get_output_embeddings().weight.copy_(torch.nn.functional.normalize(model.lm_head.weight))
    plain.save(tmp_path / "plain")
    batch = make_batch()
    expected = []
    for prompt, completion in sequences(batch):
        logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
        expected.append(logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0])
    torch.testing.assert_close(PretrainedPolicy(str(tmp_path / "plain")).build()(batch).logps, torch.cat(expected))


def test_code_that_comes_with_a_tokenizer_is_not_run_unless_trusted_by_name(own: Path) -> None:
    fields = json.loads((own / "tokenizer_config.json").read_text(encoding="utf-8"))
    fields |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "code.OwnTokenizer"]}}
    (own / "tokenizer_config.json").write_text(json.dumps(fields), encoding="utf-8")
    with (own / "code.py").open("a", encoding="utf-8") as code:
        code.write("\nfrom transformers import PreTrainedTokenizerFast\nclass OwnTokenizer(PreTrainedTokenizerFast):\n    pass\n")
    with pytest.raises(ValueError, match=r"its own Python files .*data\.init_args\.trust_remote_code: true"):
        load_tokenizer(str(own))
    assert type(load_tokenizer(str(own), trust_remote_code=True)).__name__ == "OwnTokenizer"


FOREIGN = {
    "t5": ("encoder-decoder 't5'", {"d_model": 8, "num_layers": 1, "num_heads": 2, "d_kv": 4, "d_ff": 8, "vocab_size": 31}),
    "llava": ("text alone, got 'llava'", {}),
    "qwen2_vl": ("text alone, got 'qwen2_vl'", {}),
    "vit": ("causal LM in transformers, got 'vit'", {}),
}


@pytest.mark.parametrize("model_type", FOREIGN)
def test_models_of_other_kinds_are_refused_by_name(model_type: str, tmp_path: Path) -> None:
    words, fields = FOREIGN[model_type]
    AutoConfig.for_model(model_type, **fields).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=words):
        PretrainedPolicy(str(tmp_path)).build()
    with pytest.raises(ValueError, match=words):
        RandomPolicy({"model_type": model_type, **fields}).build()
    with pytest.raises(ValueError, match="a sequence classifier in transformers, got vit" if model_type == "vit" else words):
        RewardModelSpec(str(tmp_path)).build()


def test_an_unknown_kind_without_code_is_refused_in_a_line(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**config("llama"))).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) | {"model_type": "of_tomorrow"}
    (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(ValueError, match=r"this version of transformers knows, got .*of_tomorrow"):
        PretrainedPolicy(str(tmp_path)).build()
