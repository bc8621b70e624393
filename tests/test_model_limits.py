"""Every stage holds its data against what its models can read before anything is trained, scored or drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch.optim import SGD
from transformers import AutoTokenizer

from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.models.scalars.critic import OwnBody
from lightning_modules.models.specs import RandomPolicy
from lightning_modules.on_policy import OnPolicyPreferenceModule
from lightning_modules.ppo.module import PPOModule
from lightning_modules.rewards.judge_reward import JudgeReward
from lightning_modules.rewards.model_reward import ModelReward
from tests import tiny
from tests.lightning_modules.ppo.rig import EvenJudge, Prompts, fit
from tests.lightning_modules.stubs import TINY
from tests.test_sampling import sampling_config

Run = Callable[..., Any]
Write = Callable[[Mapping[str, Any], str], Path]
SHORT = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 11, "bos_token_id": 1, "eos_token_id": 2}
REFUSED = {
    "positions": ({**SHORT, "vocab_size": 31}, r"at most 11 tokens .*positions of GPT2\w+, got \d+ in the \w+"),
    "embedding": ({**SHORT, "vocab_size": 12, "n_positions": 64}, r"token ids below 12, .* of GPT2\w+, got (2|3)\d in the \w+"),
}


def recipe(fields: dict[str, Any]) -> dict[str, Any]:
    return {"class_path": "lightning_modules.models.specs.RandomPolicy", "init_args": {"config": fields}}


def reward_model(folder: Path, fields: dict[str, Any]) -> dict[str, Any]:
    RandomPolicy(fields).build().save(folder / "model")
    return {
        "class_path": "lightning_modules.reward.RewardModule",
        "init_args": {
            "reward_model": {"path": str(folder / "model")},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
        },
    }


@pytest.mark.parametrize("limit", REFUSED)
@pytest.mark.parametrize("stage", ["sft", "dpo", "rm", "reference", "validate", "test"])
def test_stages_on_frozen_data(stage: str, limit: str, tmp_path: Path, run: Run, write_config: Write) -> None:
    fields, words = REFUSED[limit]
    data = tiny.pair_data(tmp_path, supervised=stage == "sft")
    if stage == "rm":
        model = reward_model(tmp_path, fields)
    elif stage == "reference":
        model = tiny.module(tmp_path, reference=recipe(fields))
    else:
        model = tiny.module(tmp_path, supervised=stage == "sft", policy=recipe(fields))
    if stage == "test":
        data["init_args"]["test"] = data["init_args"]["train"]
    config = {"trainer": tiny.trainer(tmp_path, max_steps=2), "model": model, "data": data}
    command = stage if stage in ("validate", "test") else "fit"
    with pytest.raises(ValueError, match=words):
        run(command, "--config", write_config(config, stage))
    assert not list(tmp_path.rglob("*.ckpt"))


def test_predict_holds_prompts_with_their_answers_against_the_positions(tmp_path: Path, run: Run, write_config: Write) -> None:
    config = sampling_config(tmp_path, "pool.jsonl")
    config["model"]["init_args"]["policy"] = recipe({**SHORT, "vocab_size": 76, "n_positions": 16})
    with pytest.raises(ValueError, match=r"at most 16 tokens .* in the prompts with their answers\. Lower max_new_tokens \(12\)"):
        run("predict", "--config", write_config(config, "predict"))


def test_a_tokenizer_with_more_tokens_than_rows_is_said_and_trains_on_data_without_them(
    tmp_path: Path, run: Run, write_config: Write
) -> None:
    data = tiny.pair_data(tmp_path, supervised=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    tokenizer.add_tokens(["unused"])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    config = {"trainer": tiny.trainer(tmp_path, max_steps=1), "model": tiny.module(tmp_path, supervised=True), "data": data}
    with pytest.warns(UserWarning, match="tokenizer has 32 tokens and the embedding of LlamaForCausalLM 31 rows"):
        run("fit", "--config", write_config(config, "sft"))


SMALL = RandomPolicy({**SHORT, "vocab_size": 31})
MODULES = {
    "ppo": lambda path: PPOModule(SMALL, [JudgeReward(EvenJudge())], partial(SGD, lr=0.1)),
    "on-policy": lambda path: OnPolicyPreferenceModule(SMALL, DPOLoss(), [JudgeReward(EvenJudge())], partial(SGD, lr=0.1)),
    "reference": lambda path: PPOModule(TINY, [JudgeReward(EvenJudge())], partial(SGD, lr=0.1), reference=SMALL),
    "critic": lambda path: PPOModule(TINY, [JudgeReward(EvenJudge())], partial(SGD, lr=0.1), critic=OwnBody(path)),
    "reward": lambda path: PPOModule(TINY, [ModelReward(path)], partial(SGD, lr=0.1)),
}


@pytest.mark.parametrize("part", MODULES)
def test_every_model_of_a_run_that_samples(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # transformers makes up a tokenizer for a GPT-2 without one.
    monkeypatch.setattr("lightning_modules.rewards.model_reward.require_same_tokens", lambda *_: None)
    SMALL.build().save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"at most 11 tokens .*positions of GPT2\w+, got 12 in the prompts with their answers"):
        fit(tmp_path, MODULES[part](str(tmp_path / "model")), Prompts(max_new_tokens=9))  # type: ignore[no-untyped-call]
