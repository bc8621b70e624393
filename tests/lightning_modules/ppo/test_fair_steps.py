"""Steps that sample: every pair weighs the same, baselines are of the same prompt under the same rules, ratios begin at 1."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import tensor
from torch.nn.functional import logsigmoid
from torch.optim import SGD

from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.prompts import PromptBatch
from judges.base import JudgeError, Verdict
from lightning_modules.losses.base import PreferenceLoss
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.simpo import SimPOLoss
from lightning_modules.models.policy import SampledCompletion
from lightning_modules.models.specs import RandomPolicy
from lightning_modules.on_policy import OnPolicyPreferenceModule
from lightning_modules.optimization.stochastic_rounding import StochasticAdamW
from lightning_modules.ppo.collect import Collector, Models
from lightning_modules.ppo.estimators import ReMax
from lightning_modules.ppo.kl_penalty import KLPenalty
from lightning_modules.ppo.settings import PPOSettings
from lightning_modules.references.frozen import FrozenPolicy
from lightning_modules.rewards.base import RewardSource
from lightning_modules.rewards.judge_reward import JudgeReward
from lightning_modules.rewards.token_reward import TokenReward
from lightning_modules.token_stats import TokenStats
from tests.lightning_modules.ppo.rig import EOS, EvenJudge, Numbers, Prompts, fit, module
from tests.lightning_modules.ppo.test_module import logged
from tests.lightning_modules.stubs import TINY

pytestmark = [
    pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`"),
    pytest.mark.filterwarnings("ignore:Rollout"),
]
CPU = torch.device("cpu")


class Seen(Callback):
    """Keeps the batches of a run."""

    def __init__(self) -> None:
        self.batches: list[CompletionBatch] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: CompletionBatch, batch_idx: int) -> None:
        self.batches.append(batch)


def on_policy(loss: PreferenceLoss, *sources: RewardSource) -> OnPolicyPreferenceModule:
    return OnPolicyPreferenceModule(TINY, loss, [JudgeReward(EvenJudge()), *sources], partial(SGD, lr=1.0))


def test_pairs_of_uneven_microbatches_weigh_the_same(tmp_path: Path) -> None:
    """The step of three rollouts against the gradient of the mean over all their pairs, taken one pair at a time in float64."""
    seen, trained = Seen(), on_policy(DPOLoss(beta=0.5))
    fit(tmp_path, trained, callbacks=[seen], max_steps=1, accumulate_grad_batches=3)
    assert len({len(batch.pairs) for batch in seen.batches}) > 1, "even microbatches would prove nothing"
    start = TINY.build()
    policy = copy.deepcopy(start).double()
    losses = []
    for batch in seen.batches:
        assert batch.reference_logps is not None
        ratios = policy(batch).sum_by_sequence() - batch.reference_logps
        losses.append(-logsigmoid(0.5 * (ratios[batch.pairs[:, 0]] - ratios[batch.pairs[:, 1]])))
    torch.cat(losses).mean().backward()
    for before, after, expected in zip(start.parameters(), trained.policy.parameters(), policy.parameters(), strict=True):
        assert expected.grad is not None
        torch.testing.assert_close(before - after, expected.grad.float(), atol=1e-6, rtol=1e-4)


def test_a_reference_is_built_for_those_who_read_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    answer = FrozenPolicy._asked

    def noted(self: FrozenPolicy, batch: CompletionBatch) -> TokenStats:
        asked.append(self)
        return answer(self, batch)

    monkeypatch.setattr(FrozenPolicy, "_asked", noted)
    seen, module = Seen(), on_policy(SimPOLoss())
    fit(tmp_path, module, callbacks=[seen], max_steps=1)
    assert (asked, module._frozen._policy, seen.batches[0].reference_token_logps) == ([], None, None)
    rewarded = on_policy(SimPOLoss(), TokenReward(TINY))
    fit(tmp_path, rewarded, callbacks=[seen], max_steps=1)
    assert rewarded._frozen in asked


class Scripted(JudgeReward):
    """Scores by a table of texts; a text that is not in it cannot be scored."""

    def __init__(self, scores: dict[str, float]) -> None:
        class Table(EvenJudge):
            def judge(self, prompt: str, response: str, answer: str | None = None) -> Verdict:
                if response not in scores:
                    raise JudgeError("not in the table")
                return Verdict(scores[response], "looked up")

        super().__init__(Table())


def scripted(monkeypatch: pytest.MonkeyPatch, sampled: Sequence[Sequence[Sequence[int]]], greedy: dict[int, Sequence[int]]) -> None:
    """Let the policy say what the test wants: groups in order when sampling, by the prompt's first token when greedy."""

    def generate(self: object, prompts: Any, parameters: Any, **_: object) -> list[list[SampledCompletion]]:
        groups = [[greedy[prompt[0]]] for prompt in prompts] if parameters.temperature == 0 else sampled
        return [[SampledCompletion(tuple(ids), torch.zeros(len(ids)), ids[-1] == EOS) for ids in group] for group in groups]

    monkeypatch.setattr("lightning_modules.models.causal_lm.CausalLMPolicy.generate", generate)


def test_remax_takes_off_the_score_of_the_same_prompts_greedy_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt 5 stands twice and its first copy is lost; prompt 7's greedy answer is cut, prompt 9's has no score."""
    sampled: list[list[tuple[int, ...]]] = [[(30, EOS)], [(2, EOS)], [(4, EOS), (6,)], [(8, EOS), (10, 3, EOS)]]
    scripted(monkeypatch, sampled, {5: (12, EOS), 7: (14,), 9: (30, EOS)})
    source = Scripted({"2": 1.0, "4": 0.75, "6": 0.5, "8": 0.25, "10 3": 0.75, "12": 0.125, "14": 0.5})
    store = Prompts()
    source.prepare(store, CPU)
    prompts = store.rollout_prompts(0)
    rows = [replace(prompt, prompt_ids=(first, 3, 4)) for first, prompt in zip((5, 5, 7, 9), prompts.prompts, strict=True)]
    settings = PPOSettings(missing_eos_penalty=0.25, whiten_advantages=False)
    collector = Collector(Models(TINY.build(), FrozenPolicy(TINY), None), [source], ReMax(), KLPenalty(0.0), settings)
    collected = collector.collect(replace(prompts, prompts=tuple(rows)), 0.0, CPU)
    assert [ids[0] for ids in collected.rollout.prompts] == [5, 7, 9]
    # 1 - 1/8; greedy of 7: 1/2 - 1/4, so 3/4 - 1/4 and (1/2 - 1/4) - 1/4; of 9 the mean of its samples, (1/4 + 3/4) / 2.
    per_token = [0.875] * 2 + [0.5] * 2 + [0.0] + [-0.25] * 2 + [0.25] * 3
    torch.testing.assert_close(collected.rollout.table.advantages, tensor(per_token), atol=1e-6, rtol=0)


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed", "bf16-true"])
def test_the_ratios_of_a_policy_that_has_not_moved_are_one(precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder rounds otherwise than the forward pass: in bfloat16 it is off by hundredths of a nat."""
    sharp = RandomPolicy(TINY.config | {"initializer_range": 0.5, "num_hidden_layers": 4}, seed=3)
    monkeypatch.setattr("tests.lightning_modules.ppo.rig.TINY", sharp)
    trained = module(settings=PPOSettings(num_minibatches=1), optimizer=partial(StochasticAdamW, lr=0.0))
    rows = logged(fit(tmp_path, trained, Prompts(max_new_tokens=24), max_steps=1, precision=precision))
    assert rows[0]["policy/approxkl"] < 1e-9
    assert rows[0]["policy/clipfrac"] == 0
    # The reference is the policy as it starts.
    assert abs(rows[0]["objective/kl"]) < 1e-4


class Warm(Prompts):
    tokenizer: Numbers

    def __init__(self, temperature: float, top_p: float) -> None:
        super().__init__()
        self._temperature, self._top_p = temperature, top_p

    def rollout_prompts(self, number: int) -> PromptBatch:
        batch = super().rollout_prompts(number)
        return replace(batch, sampling=replace(batch.sampling, temperature=self._temperature, top_p=self._top_p))


@pytest.mark.parametrize(("temperature", "top_p"), [(0.7, 1.0), (1.0, 0.9), (0.0, 1.0)])
def test_ppo_on_another_distribution_than_the_policys_is_refused(temperature: float, top_p: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"temperature 1 and top_p 1, got {temperature} and {top_p}"):
        fit(tmp_path, module(), Warm(temperature, top_p))
    # Pairs may come from wherever they like: no ratio is taken of them.
    if temperature:
        fit(tmp_path, on_policy(DPOLoss()), Warm(temperature, top_p), max_steps=1)
