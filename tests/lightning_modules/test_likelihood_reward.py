"""A causal LM as a reward model: its number against transformers, its folder, its gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from datamodules.contracts.packing import pack
from judges.reward_model import RewardModelJudge
from lightning_modules.models.scalars.reward_model import LikelihoodReward, RewardModelSpec
from tests import tiny
from tests.lightning_modules.stubs import make_pairs


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny causal LM with its tokenizer."""
    return tiny.write_model(tmp_path_factory.mktemp("policy") / "policy")


@pytest.mark.parametrize("per_token", [False, True])
def test_the_reward_is_the_log_likelihood_of_transformers(model: Path, per_token: bool) -> None:
    plain = AutoModelForCausalLM.from_pretrained(model)
    expected = []
    for example in make_pairs(3):
        for completion in example.completions:
            ids = tensor([[*example.prompt_ids, *completion.token_ids]])
            with torch.no_grad():
                logps = plain(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
            own = logps[-len(completion.token_ids) :]
            expected.append(0.25 * float(own.mean() if per_token else own.sum()))
    reward = RewardModelSpec(str(model), likelihood_scale=0.25, per_token=per_token).build()
    torch.testing.assert_close(reward(pack(make_pairs(3))).detach(), tensor(expected), atol=1e-5, rtol=1e-5)
    assert max(expected) - min(expected) > 0.001


@pytest.mark.parametrize("per_token", [False, True])
def test_a_saved_one_knows_what_it_is(model: Path, tmp_path: Path, per_token: bool) -> None:
    reward = RewardModelSpec(str(model), likelihood_scale=0.25, per_token=per_token).build()
    reward.save(tmp_path / "reward_model")
    again = RewardModelSpec(str(tmp_path / "reward_model")).build()
    assert isinstance(again, LikelihoodReward)
    batch = pack(make_pairs(3))
    assert torch.equal(again(batch), reward(batch))
    assert again.fingerprint() == reward.fingerprint()


def test_its_gradient_reaches_every_weight(model: Path) -> None:
    reward = RewardModelSpec(str(model), likelihood_scale=0.25).build()
    reward(pack(make_pairs(3))).sum().backward()
    assert all(parameter.grad is not None for parameter in reward.parameters())


def test_the_judge_refuses_it_rather_than_invent_a_head(model: Path, tmp_path: Path) -> None:
    RewardModelSpec(str(model), likelihood_scale=0.25).build().save(tmp_path / "reward_model")
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "reward_model")
    judge = RewardModelJudge(str(tmp_path / "reward_model"))
    with pytest.raises(ValueError, match="a reward model with one output"):
        judge.judge("w1", "w2")


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_a_scale_that_is_not_positive_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="likelihood_scale > 0"):
        RewardModelSpec("anywhere", likelihood_scale=scale)


def test_a_saved_one_is_read_per_token_where_that_is_asked_for(model: Path, tmp_path: Path) -> None:
    summed = RewardModelSpec(str(model), likelihood_scale=0.25).build()
    summed.save(tmp_path / "reward_model")
    batch = pack(make_pairs(3))
    mean = RewardModelSpec(str(tmp_path / "reward_model"), per_token=True).build()
    torch.testing.assert_close(mean(batch) * batch.lengths, summed(batch))


def test_a_head_is_not_per_token(model: Path) -> None:
    with pytest.raises(ValueError, match="expected a likelihood to take per token"):
        RewardModelSpec(str(model), per_token=True).build()


def test_there_is_no_head_to_train_alone(model: Path) -> None:
    with pytest.raises(ValueError, match="no head to train alone"):
        RewardModelSpec(str(model), freeze_body=True, likelihood_scale=1.0).build()
