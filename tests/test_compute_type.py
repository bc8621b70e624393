"""What must not depend on who calls it under autocast, nor on the type of the weights, against float64 or float32."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from callbacks.answers.samples import SampleLogger
from datamodules.contracts.packing import pack
from datamodules.contracts.prompts import Sampling
from judges.reward_model import RewardModelJudge
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.models.scalars.critic import SharedBody
from lightning_modules.models.scalars.reward_model import RewardModelSpec
from lightning_modules.models.specs import RandomPolicy
from lightning_modules.models.toy.specs import ToyPolicySpec
from lightning_modules.optimization.stochastic_rounding import StochasticAdamW
from lightning_modules.ppo.module import PPOModule
from lightning_modules.preference import PreferenceModule
from lightning_modules.rewards.judge_reward import JudgeReward
from lightning_modules.rewards.token_reward import TokenReward
from run_folder.rows import read_rows
from tests import tiny
from tests.judges.test_reward_model import save_model
from tests.lightning_modules.models.architectures import config
from tests.lightning_modules.ppo import rig
from tests.lightning_modules.stubs import TINY, InMemoryPairs, make_pairs
from tests.toy_rig import pair_batch

bf16 = partial(torch.autocast, "cpu", torch.bfloat16)
BOTH = pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=["bf16-mixed", "bf16-true"])


def exact(layer: nn.Linear, rows: Tensor) -> Tensor:
    """A layer in float64."""
    product = rows.detach().double() @ layer.weight.detach().double().T
    return product if layer.bias is None else product + layer.bias.detach().double()


def test_a_policy_is_tested_as_it_is_under_autocast_too() -> None:
    # With weights as large as these autocast rounds log-probs by 0.009 nats, which the test would take for a leak.
    spec = RandomPolicy({**config("llama"), "initializer_range": 0.5}, seed=1)
    with bf16():
        inside = spec.build()
    assert inside.fingerprint() == spec.build().fingerprint()


@BOTH
def test_rewards_are_not_rounded_to_three_digits(weights: torch.dtype, tmp_path: Path) -> None:
    model = RewardModelSpec(str(tiny.write_model(tmp_path / "model"))).build().to(weights)
    assert isinstance(model, nn.Module)
    head, body = model.get_submodule("model.score"), model.get_submodule("model.model")
    assert isinstance(head, nn.Linear)
    nn.init.normal_(head.weight)
    seen: list[Tensor] = []
    body.register_forward_hook(lambda _module, _inputs, output: seen.append(output.last_hidden_state[0]))
    batch = pack(make_pairs(3))
    with bf16(enabled=weights == torch.float32), torch.no_grad():
        rewards = model(batch)
    assert rewards.dtype == torch.float32
    torch.testing.assert_close(rewards.double(), exact(head, seen[0])[batch.last_row, 0], rtol=1e-5, atol=1e-6)


@BOTH
def test_a_critic_on_the_policys_body_takes_any_weights(weights: torch.dtype) -> None:
    policy = TINY.build()
    critic = SharedBody().build(policy)
    nn.init.normal_(critic.head.weight)
    policy.to(weights)
    critic.to(weights)
    batch = pack(make_pairs(3))
    with bf16(enabled=weights == torch.float32), torch.no_grad():
        stats = policy(batch)
        values = critic(batch, stats)
    want = exact(critic.head, exact(critic.body, stats.hidden).tanh())
    torch.testing.assert_close(values.double(), want[:, 0], rtol=1e-4, atol=1e-5)


@BOTH
def test_the_toys_log_probs_are_those_of_its_head(weights: torch.dtype) -> None:
    policy, batch = ToyPolicySpec(num_seeds=2, width=16, seed=1).build().to(weights), pair_batch()
    with bf16(enabled=weights == torch.float32), torch.no_grad():
        stats = policy(batch)
    # Diagnostics read the head outside of autocast.
    logits = policy.output_head(batch).logits(stats.hidden, slice(None))
    torch.testing.assert_close(logits.double().log_softmax(-1).gather(1, batch.target_ids[:, None])[:, 0], stats.logps.double())


def test_a_judges_score_is_the_same_in_every_run(tmp_path: Path) -> None:
    save_model(tmp_path)
    judge = RewardModelJudge(str(tmp_path))
    with bf16():
        inside = judge.judge("what is two", "five").score
    assert inside == judge.judge("what is two", "five").score


def optimizer(parameters: Any) -> Optimizer:
    return StochasticAdamW(parameters, lr=0.01)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_samples_start_at_the_reference(precision: str, tmp_path: Path) -> None:
    module = PreferenceModule(TINY, DPOLoss(beta=0.5), optimizer, cache_dir=str(tmp_path / "cache"))
    data = InMemoryPairs(make_pairs(4), [[0, 1], [2, 3]], 1)
    logger = SampleLogger(2, sampling=Sampling(6), num_samples=3)
    trainer = rig.fit(tmp_path, module, data, [logger], precision=precision, max_steps=2)
    start, end = read_rows(Path(str(trainer.log_dir)), "on_policy")
    assert start["on_policy/kl"] == pytest.approx(0, abs=1e-6)
    assert abs(end["on_policy/kl"]) > 1e-3


@pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`", "ignore:Rollout")
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_a_policy_that_is_the_reference_earns_no_token_reward(precision: str, tmp_path: Path) -> None:
    found: list[Tensor | None] = []

    class Watched(TokenReward):
        def rewards(self, *arguments: Any) -> Any:
            rewards = super().rewards(*arguments)
            found.append(rewards.tokens)
            return rewards

    sources = [JudgeReward(rig.EvenJudge()), Watched(TINY)]
    ppo = PPOModule(TINY, sources, optimizer, critic=SharedBody())
    rig.fit(tmp_path, ppo, precision=precision, max_steps=2)
    assert found
    assert all(tokens is not None and (tokens == 0).all() for tokens in found)
