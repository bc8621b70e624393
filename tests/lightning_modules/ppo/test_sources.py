"""Rewards from models, the check before training, and pairs that the policy makes itself."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nan, tensor
from torch.optim import AdamW
from transformers import AutoTokenizer

from datamodules.contracts.batches import Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.plackett_luce import PlackettLuceLoss
from lightning_modules.models.scalars.reward_model import RewardModelSpec
from lightning_modules.models.scalars.scalar_model import load_scalar
from lightning_modules.models.specs import PretrainedPolicy
from lightning_modules.on_policy import OnPolicyPreferenceModule, groups_of
from lightning_modules.ppo.estimators import RLOO
from lightning_modules.ppo.kl_penalty import KLPenalty
from lightning_modules.ppo.module import PPOModule
from lightning_modules.ppo.settings import PPOSettings
from lightning_modules.rewards.base import Rewards, RewardSource, total_rewards
from lightning_modules.rewards.checks import check_rewards, require_same_tokens
from lightning_modules.rewards.judge_reward import JudgeReward
from lightning_modules.rewards.model_reward import ModelReward
from lightning_modules.rewards.samples import draw
from tests import tiny
from tests.lightning_modules.ppo.rig import EOS, EvenJudge, OddJudge, Prompts, fit, samples
from tests.lightning_modules.stubs import TINY

pytestmark = [
    pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`"),
    pytest.mark.filterwarnings("ignore:Rollout"),
]
CPU = torch.device("cpu")


class Fixed(RewardSource):
    """Says what it is told to."""

    def __init__(self, name: str, rewards: Rewards, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.name, self._rewards = name, rewards

    def rewards(self, *_: object) -> Rewards:
        return self._rewards


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the tiny policy's size, without a tokenizer, with a head that says something."""
    folder = tmp_path_factory.mktemp("models")
    TINY.build().save(folder / "policy")
    scalar = load_scalar(str(folder / "policy"))
    torch.nn.init.normal_(scalar.head.weight, generator=torch.Generator().manual_seed(1))
    scalar.save(folder / "reward_model")
    return folder / "reward_model"


def test_sources_add_up_and_one_of_weight_zero_is_only_watched() -> None:
    drawn = samples([[5, 6], [7]])
    judge = Fixed("judge", Rewards(tensor([1.0, 0.0])), 2.0)
    tokens = Fixed("dpo", Rewards(torch.zeros(2), tensor([0.1, 0.2, 0.3])), 10.0)
    watched = Fixed("watched", Rewards(tensor([nan, 5.0])), 0.0)
    total = total_rewards([judge, tokens, watched], drawn, [])
    assert total.scores.tolist() == [2.0, 0.0]
    torch.testing.assert_close(total.tokens, tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(total.by_source["dpo"], tensor([0.3, 0.3]))
    assert total.failures == {"watched: the score is nan": 1}


def test_a_reward_model_is_standardised_by_the_frozen_completions(reward_model: Path) -> None:
    store, source = Prompts(), ModelReward(str(reward_model))
    source.prepare(store, CPU)
    (frozen,) = store.scoring_dataloader("train")
    scores = source.pair_scores(frozen)
    assert scores.mean().item() == pytest.approx(0, abs=1e-5)
    assert scores.std().item() == pytest.approx(1, abs=1e-4)
    with torch.no_grad():
        raw = RewardModelSpec(str(reward_model)).build()(frozen)
    torch.testing.assert_close(scores, (raw - raw.mean()) / raw.std(), atol=1e-5, rtol=1e-4)


def test_a_reward_model_reads_the_end_that_it_was_trained_on(reward_model: Path) -> None:
    """The policy may end at another token of its own (here 9); data ends with the tokenizer's end of sequence."""
    drawn = samples([[5, 6, 9], [7, EOS]], [[8, 5]])
    stopped = (replace(drawn.groups[0][0], finished=True), drawn.groups[0][1])
    drawn = replace(drawn, groups=(stopped, drawn.groups[1]))
    source = ModelReward(str(reward_model))
    source.prepare(Prompts(), CPU)
    found = source.rewards(drawn, list(drawn.batches(8))).scores
    completions: list[list[tuple[int, ...]]] = [[(5, 6, 9, EOS), (7, EOS)], [(8, 5)]]
    data = [
        Example(prompt.prompt_ids, tuple(TokenizedCompletion(ids, Role.SAMPLE, "sample") for ids in group))
        for prompt, group in zip(drawn.prompts, completions, strict=True)
    ]
    torch.testing.assert_close(found, source.pair_scores(pack(data)), atol=1e-5, rtol=1e-5)


def test_the_policy_follows_a_reward_model_while_a_judge_looks_on(reward_model: Path, tmp_path: Path) -> None:
    sources = [ModelReward(str(reward_model)), JudgeReward(EvenJudge(), weight=0.0)]
    settings = PPOSettings(num_minibatches=1)
    ppo = PPOModule(TINY, sources, partial(AdamW, lr=0.02), advantages=RLOO(), kl=KLPenalty(0.0), settings=settings)
    trainer = fit(tmp_path, ppo, max_steps=60)
    trainer.loggers[0].save()
    lines = (Path(str(trainer.log_dir)) / "metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    scores = [float(line.split(",")[names.index("objective/score/model")] or "nan") for line in lines[1:]]
    scores = [score for score in scores if score == score]
    assert sum(scores[-5:]) / 5 > sum(scores[:5]) / 5 + 0.5
    assert {"objective/score/judge", "reward_check/model/accuracy", "reward_check/model/spread"} <= set(names)


def test_a_reward_that_does_not_separate_the_data_is_warned_of(reward_model: Path) -> None:
    """The sign of a reward model decides which: one of r and -r orders at most half of the pairs as the data does."""
    store, source = Prompts(), ModelReward(str(reward_model))
    source.prepare(store, CPU)
    (frozen,) = store.scoring_dataloader("train")
    scores = source.pair_scores(frozen)[frozen.pairs]
    right = (scores[:, 0] > scores[:, 1]).float().mean().item()
    source._std *= -1 if right > 0.5 else 1
    with pytest.warns(UserWarning, match="The reward model does not separate the data it is used on: it orders .* of 8 pairs"):
        found = check_rewards([source], store, CPU)
    assert found["reward_check/model/accuracy"] == pytest.approx(min(right, 1 - right))
    assert check_rewards([JudgeReward(EvenJudge())], store, CPU) == {}


def test_models_with_another_tokenizer_are_refused(tmp_path: Path) -> None:
    """The store's ids mean numbers, the folder's words."""
    tiny.write_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"expected the reward model at {tmp_path} to have the policy's tokenizer")):
        require_same_tokens("reward model", str(tmp_path), Prompts())
    alike = Prompts()
    alike.tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    require_same_tokens("reward model", str(tmp_path), alike)


def test_the_best_and_the_worst_make_the_pair() -> None:
    drawn = samples([[3, EOS], [4, EOS], [5, EOS]], [[6], [7]], [[8], [9]])
    examples = list(groups_of(drawn, tensor([0.5, 1.0, 0.0, 0.3, 0.3, nan, 1.0]), min_gap=0.1, keeps_all=False))
    (pair,) = examples
    assert [(c.token_ids, c.role, c.score) for c in pair.completions] == [
        ((4, EOS), Role.CHOSEN, 1.0),
        ((5, EOS), Role.REJECTED, 0.0),
    ]


def test_a_loss_of_groups_gets_all_that_are_scored(tmp_path: Path) -> None:
    drawn = samples([[3, EOS], [4, EOS], [5, EOS], [6, EOS]])
    (group,) = groups_of(drawn, tensor([0.5, 1.0, 0.0, nan]), min_gap=0.1, keeps_all=True)
    assert [(c.token_ids, c.kind, c.score) for c in group.completions] == [
        ((4, EOS), "chosen", 1.0),
        ((5, EOS), "rejected", 0.0),
        ((3, EOS), "ranked", 0.5),
    ]
    module = OnPolicyPreferenceModule(TINY, PlackettLuceLoss(), [JudgeReward(EvenJudge())], partial(AdamW, lr=0.02))
    fit(tmp_path, module, max_steps=2)


def on_policy(judge: EvenJudge, lr: float = 0.02) -> OnPolicyPreferenceModule:
    return OnPolicyPreferenceModule(TINY, DPOLoss(beta=0.1), [JudgeReward(judge)], partial(AdamW, lr=lr))


def test_on_policy_dpo_learns_what_the_judge_likes(tmp_path: Path) -> None:
    module = on_policy(EvenJudge())
    fit(tmp_path, module, max_steps=20)
    drawn = draw(module.policy, Prompts().rollout_prompts(1000))
    judge = JudgeReward(EvenJudge())
    judge.prepare(Prompts(), CPU)
    assert judge.rewards(drawn, []).scores.mean() > 0.7


def test_answers_that_all_score_alike_stop_on_policy_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected answers that a judge tells apart, got none to 8 rollouts"):
        fit(tmp_path, on_policy(OddJudge(gives=0.5)))


def test_a_critic_may_start_from_a_reward_model(reward_model: Path, tmp_path: Path) -> None:
    from lightning_modules.models.scalars.critic import OwnBody

    policy = PretrainedPolicy(str(reward_model.parent / "policy")).build()
    (batch,) = Prompts().scoring_dataloader("train")
    with torch.no_grad():
        assert OwnBody().build(policy)(batch, None).abs().max() == 0
        values = OwnBody(str(reward_model)).build(policy)(batch, None)
        expected = RewardModelSpec(str(reward_model)).build()(batch, batch.target_index)
    torch.testing.assert_close(values, expected)
