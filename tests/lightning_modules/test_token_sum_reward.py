"""A scalar head read at every token, over the first layers of a body: against transformers, its folder, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn, tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.packing import pack
from judges.reward_model import RewardModelJudge
from lightning_modules.models.scalars.critic import OwnBody
from lightning_modules.models.scalars.reward_model import LastTokenReward, RewardModelSpec, TokenSumReward, completion_rows
from lightning_modules.models.specs import RandomPolicy
from tests import tiny
from tests.lightning_modules.models.architectures import PACKABLE
from tests.lightning_modules.stubs import make_pairs


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny causal LM with its tokenizer."""
    return tiny.write_model(tmp_path_factory.mktemp("policy") / "policy")


def summed(model: Path, num_layers: int | None = None) -> TokenSumReward:
    """With a head that says something."""
    reward = RewardModelSpec(str(model), pooling="sum", num_layers=num_layers).build()
    assert isinstance(reward, TokenSumReward)
    nn.init.normal_(reward.head.weight, generator=torch.Generator().manual_seed(1))
    return reward


def one_by_one(body: nn.Module, head: nn.Module) -> list[float]:
    """What transformers gives for the pairs, each completion alone behind its prompt."""
    rewards = []
    for example in make_pairs(3):
        for completion in example.completions:
            hidden = body(tensor([[*example.prompt_ids, *completion.token_ids]])).last_hidden_state[0]
            rewards.append(head(hidden)[-len(completion.token_ids) :].sum().item())
    return rewards


@torch.no_grad()
def test_the_reward_is_the_sum_of_the_scalars_of_transformers(model: Path, tmp_path: Path) -> None:
    reward = summed(model)
    reward.save(tmp_path / "reward_model")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward_model")
    expected = one_by_one(plain.model, plain.score)
    torch.testing.assert_close(reward(pack(make_pairs(3))), tensor(expected), atol=1e-5, rtol=1e-5)
    assert max(expected) - min(expected) > 0.1


def test_rows_hold_the_tokens_that_are_scored() -> None:
    batch: CompletionBatch = pack(make_pairs(3))
    assert torch.equal(batch.input_ids[completion_rows(batch)], batch.target_ids)
    assert len(set(completion_rows(batch).tolist())) == batch.num_targets


@torch.no_grad()
@pytest.mark.parametrize(("architecture", "layers"), [("llama", "layers"), ("gemma2", "layers"), ("gpt2", "h")])
def test_a_body_cut_is_its_first_layers_and_its_last_norm(architecture: str, layers: str, tmp_path: Path) -> None:
    """Also where each layer has a kind of its own in the configuration (Gemma 2)."""
    RandomPolicy({"model_type": architecture, **PACKABLE[architecture]}).build().save(tmp_path / "policy")
    cut = summed(tmp_path / "policy", num_layers=1)
    body = AutoModelForCausalLM.from_pretrained(tmp_path / "policy").base_model.eval()
    whole = one_by_one(body, cut.head)
    setattr(body, layers, getattr(body, layers)[:1])
    expected = one_by_one(body, cut.head)
    torch.testing.assert_close(cut.eval()(pack(make_pairs(3))), tensor(expected), atol=1e-5, rtol=1e-5)
    assert (tensor(whole) - tensor(expected)).abs().max() > 0.01


@torch.no_grad()
def test_a_saved_one_knows_what_it_is(model: Path, tmp_path: Path) -> None:
    reward = summed(model, num_layers=1)
    reward.save(tmp_path / "reward_model")
    again = RewardModelSpec(str(tmp_path / "reward_model")).build()
    assert isinstance(again, TokenSumReward)
    assert len(again.model.base_model.layers) == 1
    batch = pack(make_pairs(3))
    assert torch.equal(again(batch), reward(batch))
    assert again.fingerprint() == reward.fingerprint()
    assert isinstance(RewardModelSpec(str(model)).build(), LastTokenReward)


def test_the_head_alone_is_trained_over_a_frozen_body(model: Path) -> None:
    reward = RewardModelSpec(str(model), freeze_body=True, pooling="sum", num_layers=1).build()
    reward(pack(make_pairs(3))).square().sum().backward()
    assert [name for name, parameter in reward.named_parameters() if parameter.grad is not None] == ["model.score.weight"]


def test_a_trained_head_is_not_read_otherwise(model: Path, tmp_path: Path) -> None:
    summed(model).save(tmp_path / "sum")
    RewardModelSpec(str(model)).build().save(tmp_path / "last")
    with pytest.raises(ValueError, match=r"expected pooling: sum, as .*sum was trained, got last"):
        RewardModelSpec(str(tmp_path / "sum"), pooling="last").build()
    with pytest.raises(ValueError, match=r"expected pooling: last, as .*last was trained, got sum"):
        RewardModelSpec(str(tmp_path / "last"), pooling="sum").build()


def test_the_judge_reads_last_tokens_and_refuses_it(model: Path, tmp_path: Path) -> None:
    summed(model).save(tmp_path / "reward_model")
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "reward_model")
    with pytest.raises(ValueError, match="expected a reward model that is read at the last token"):
        RewardModelJudge(str(tmp_path / "reward_model")).judge("w1", "w2")


@torch.no_grad()
def test_a_critic_takes_its_body_under_a_new_head(model: Path, tmp_path: Path) -> None:
    """What adds up to a reward is no value."""
    summed(model, num_layers=1).save(tmp_path / "reward_model")
    critic = OwnBody(str(tmp_path / "reward_model")).build(RandomPolicy(**tiny.POLICY["init_args"]).build())
    assert len(critic.model.model.base_model.layers) == 1
    assert critic(pack(make_pairs(3)), None).abs().max() == 0


@pytest.mark.parametrize("num_layers", [0, 3])
def test_a_body_is_not_cut_to_more_layers_than_it_has(model: Path, num_layers: int) -> None:
    with pytest.raises(ValueError, match=f"expected num_layers .*1.*, got {num_layers}"):
        RewardModelSpec(str(model), num_layers=num_layers).build()


def test_a_likelihood_is_neither_pooled_nor_cut(model: Path) -> None:
    with pytest.raises(ValueError, match="expected pooling: null and num_layers: null with a likelihood"):
        RewardModelSpec(str(model), likelihood_scale=1.0, num_layers=1).build()
