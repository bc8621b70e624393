"""Whole runs of PPO on a tiny policy: it learns, it is watched, its pieces add up, and bad input has a name."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import SGD, AdamW

from callbacks.diagnostics.dispersion import DispersionMonitor
from callbacks.diagnostics.likelihood import LikelihoodMonitor
from callbacks.diagnostics.softmax_gradient import SoftmaxGradientMonitor
from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.packing import pack
from lightning_modules.models.policy import SampledCompletion
from lightning_modules.models.scalars.critic import SharedBody
from lightning_modules.ppo.collect import Collector, Models
from lightning_modules.ppo.estimators import GAE, RLOO, AdvantageEstimator, ReMax
from lightning_modules.ppo.kl_penalty import KLPenalty
from lightning_modules.ppo.settings import PPOSettings
from lightning_modules.references.frozen import FrozenPolicy
from lightning_modules.rewards.base import RewardSource
from lightning_modules.rewards.judge_reward import JudgeReward
from lightning_modules.rewards.token_reward import TokenReward
from run_folder.rows import read_rows
from tests.lightning_modules.ppo.rig import EvenJudge, OddJudge, Prompts, fit, module
from tests.lightning_modules.stubs import TINY, make_pairs

pytestmark = [
    pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`"),
    # What a random policy says seldom ends; tests that are about an event ask for its warning.
    pytest.mark.filterwarnings("ignore:Rollout"),
]
adam = partial(AdamW, lr=0.02)


def logged(trainer: Trainer) -> list[dict[str, float]]:
    for logger in trainer.loggers:
        logger.save()
    assert trainer.log_dir is not None
    with (Path(trainer.log_dir) / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def column(rows: list[dict[str, float]], name: str) -> list[float]:
    return [row[name] for row in rows if name in row]


@pytest.mark.parametrize("estimator", [GAE(gae_lambda=1.0), RLOO(), ReMax()], ids=lambda estimator: type(estimator).__name__)
def test_the_score_rises(estimator: AdvantageEstimator, tmp_path: Path) -> None:
    """A judge that likes even numbers: half of what a random policy says, most of what a trained one does."""
    ppo = module(optimizer=adam, advantages=estimator, kl=KLPenalty(0.0), settings=PPOSettings(num_minibatches=1))
    scores = column(logged(fit(tmp_path, ppo, max_steps=60)), "objective/scores")
    assert sum(scores[:5]) / 5 < 0.65 < 0.8 < sum(scores[-5:]) / 5


def test_what_the_field_logs_is_logged_and_consistent(tmp_path: Path) -> None:
    settings = PPOSettings(num_epochs=1, num_minibatches=1)
    rows = logged(fit(tmp_path, module(optimizer=partial(SGD, lr=1.0), kl=KLPenalty(0.3), settings=settings), max_steps=3))
    for row in rows:
        assert row["objective/rlhf_reward"] == pytest.approx(row["objective/scores"] + row["objective/non_score_reward"], abs=1e-5)
        assert row["objective/non_score_reward"] == pytest.approx(-0.3 * row["objective/kl"], abs=1e-5)
        # One update a rollout: the policy is still the one that sampled.
        assert row["policy/ratio"] == pytest.approx(1, abs=1e-5)
        assert row["policy/clipfrac"] == 0
        assert 0 <= row["rollout/eos_share"] <= 1 <= row["rollout/length"] <= 6
    assert rows[0]["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert rows[0]["val/explained_var"] == pytest.approx(0, abs=1e-5)
    assert {"policy/approxkl", "policy/entropy", "loss/policy", "loss/value"} <= rows[0].keys()
    assert {"val/clipfrac", "train/grad_norm", "objective/kl_coef"} <= rows[0].keys()


def test_the_diagnostics_read_samples_and_the_frozen_bank(tmp_path: Path) -> None:
    monitors = [LikelihoodMonitor(1, 2), SoftmaxGradientMonitor(1, 2), DispersionMonitor(1, 2)]
    trainer = fit(tmp_path, module(), callbacks=monitors, max_steps=4)
    assert trainer.log_dir is not None
    rows = {name: read_rows(Path(trainer.log_dir), name) for name in ("likelihood", "softmax_grad", "dispersion")}
    bank = [row for row in rows["likelihood"] if "likelihood/bank/chosen/change" in row]
    assert [row["step"] for row in bank] == [0, 2, 4]
    assert bank[0]["likelihood/bank/rejected/change"] == 0 != bank[-1]["likelihood/bank/rejected/change"]
    gradients = {name for row in rows["softmax_grad"] for name in row}
    assert {"softmax_grad/sample_above/l2", "softmax_grad/sample_below/l2"} <= gradients
    assert any("dispersion/bank/off_pair_mass" in row for row in rows["dispersion"])


class Gradients(Callback):
    """Keeps the token gradients and the weights' after each step."""

    def __init__(self) -> None:
        self.tokens: list[torch.Tensor] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: CompletionBatch, batch_idx: int
    ) -> None:
        gradients = outputs["step"].token_gradients()  # type: ignore[index]
        assert gradients.shape == batch.target_ids.shape
        self.tokens.append(gradients)


def test_accumulation_takes_the_step_of_one_pass(tmp_path: Path) -> None:
    """Microbatches of one prompt each, against the whole minibatch at once: the same gradients, tokens and weights."""
    runs, weights = [], []
    for max_tokens in (8192, 1):
        seen = Gradients()
        ppo = module(settings=PPOSettings(num_minibatches=2, max_tokens_per_batch=max_tokens))
        fit(tmp_path, ppo, callbacks=[seen], max_steps=3)
        runs.append(seen.tokens)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in ppo.parameters()]))
    for one, other in zip(*runs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(weights[0], weights[1], atol=1e-5, rtol=1e-4)


def test_a_shared_critic_learns_and_its_gradient_stops_at_the_policy(tmp_path: Path) -> None:
    ppo = module(OddJudge(gives=0.7), critic=SharedBody(), kl=KLPenalty(0.0), optimizer=adam, advantages=GAE(gae_lambda=1.0))
    with pytest.warns(UserWarning, match="rewards are all the same"):
        trainer = fit(tmp_path, ppo, max_steps=40)
    losses = column(logged(trainer), "loss/value")
    assert losses[-1] < losses[0] / 4
    batch = next(Prompts().probe_batches())
    assert ppo.critic is not None
    ppo.zero_grad()
    ppo.critic(batch, ppo.policy(batch)).sum().backward()
    assert all(parameter.grad is None for parameter in ppo.policy.parameters())
    assert all(parameter.grad is not None for parameter in ppo.critic.parameters())


def collector(sources: list[RewardSource]) -> tuple[Collector, Prompts]:
    store = Prompts()
    for source in sources:
        source.prepare(store, torch.device("cpu"))
    models = Models(TINY.build(), FrozenPolicy(TINY), None)
    return Collector(models, sources, RLOO(), KLPenalty(0.0), PPOSettings(whiten_advantages=False)), store


def test_rto_adds_what_dpo_says_of_each_token() -> None:
    """A DPO policy equal to the reference adds nothing; any other adds its log-ratios, times the weight."""
    judged, store = collector([JudgeReward(EvenJudge())])
    same, _ = collector([JudgeReward(EvenJudge()), TokenReward(TINY, weight=2.0)])
    prompts, cpu = store.rollout_prompts(0), torch.device("cpu")
    plain, unchanged = (c.collect(prompts, 0.0, cpu) for c in (judged, same))
    torch.testing.assert_close(plain.rollout.table.advantages, unchanged.rollout.table.advantages)
    other, _ = collector([JudgeReward(EvenJudge()), TokenReward(type(TINY)(TINY.config, seed=9), weight=2.0)])
    shifted = other.collect(prompts, 0.0, cpu)
    expected = plain.metrics["objective/rlhf_reward"] + 2.0 * shifted.metrics["objective/score/dpo"]
    torch.testing.assert_close(shifted.metrics["objective/rlhf_reward"], expected)
    assert shifted.metrics["objective/score/dpo"].abs().max() > 0.01


def test_unscored_completions_are_left_out_and_counted(tmp_path: Path) -> None:
    judge = OddJudge(fails=lambda text: text.startswith("1"))
    with pytest.warns(UserWarning, match="completions have no finite reward and are left out .*asleep"):
        rows = logged(fit(tmp_path, module(judge), max_steps=8))
    assert 0 < max(column(rows, "rollout/events/unscored")) < 0.5


def test_a_judge_that_never_answers_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected rewards for at least half of the 8 completions.*judge: the judge is asleep"):
        fit(tmp_path, module(OddJudge(fails=lambda _: True)))


def test_a_reward_that_is_not_a_number_stops_the_run(tmp_path: Path) -> None:
    for score in ("nan", "inf"):
        with pytest.raises(ValueError, match=f"expected a numeric score.* got score {score}"):
            fit(tmp_path, module(OddJudge(gives=float(score))))


def test_a_constant_reward_has_a_name_and_no_nan(tmp_path: Path) -> None:
    ppo = module(OddJudge(gives=0.5), advantages=RLOO())
    before = [parameter.detach().clone() for parameter in TINY.build().parameters()]
    with pytest.warns(UserWarning, match="rewards are all the same"):
        rows = logged(fit(tmp_path, ppo, max_steps=4))
    assert column(rows, "rollout/events/constant_reward")[0] == 1
    assert all(torch.isfinite(parameter).all() for parameter in ppo.parameters())
    # RLOO of equal scores is zero, and the first rollout has no KL to pay for.
    assert len(before) == len(list(ppo.policy.parameters()))


def test_completions_without_an_end_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = Prompts(max_new_tokens=2)
    monkeypatch.setattr("tests.lightning_modules.ppo.rig.EOS", 99)
    with pytest.warns(UserWarning, match="nothing ends with the end of sequence"):
        rows = logged(fit(tmp_path, module(settings=PPOSettings(missing_eos_penalty=1.0)), endless, max_steps=1))
    assert column(rows, "rollout/events/no_eos") == [1]
    assert column(rows, "rollout/eos_share") == [0]
    assert column(rows, "objective/scores")[0] < 0


def test_empty_completions_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ppo = module()

    def silent(prompts: list[list[int]], *_: object, num_samples: int, **__: object) -> list[list[SampledCompletion]]:
        return [[SampledCompletion((0,), torch.tensor([-3.4]), True)] * num_samples for _ in prompts]

    monkeypatch.setattr("lightning_modules.models.causal_lm.CausalLMPolicy.generate", lambda self, *a, **k: silent(*a, **k))
    with pytest.warns(UserWarning, match="hold nothing but the end of sequence"):
        rows = logged(fit(tmp_path, ppo, max_steps=2))
    assert column(rows, "rollout/events/empty")[0] == 1
    assert column(rows, "rollout/length")[0] == 1


def test_prompts_at_the_end_of_the_positions_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"within the 64 positions of LlamaForCausalLM .*, got up to 65 tokens"):
        fit(tmp_path, module(), Prompts(max_new_tokens=62))


def test_a_reference_with_other_tokens_is_refused(tmp_path: Path) -> None:
    other = type(TINY)(TINY.config | {"vocab_size": 40})
    with pytest.raises(ValueError, match="a reference over the policy's 31 tokens, got one over 40"):
        fit(tmp_path, module(reference=other))


def test_the_reference_has_the_precision_of_the_policy(tmp_path: Path) -> None:
    """In double precision policy and reference agree to its last digits before the first step: no KL from rounding."""
    rows = logged(fit(tmp_path, module(settings=PPOSettings(num_minibatches=1, num_epochs=1)), max_steps=1, precision="64-true"))
    assert abs(rows[0]["objective/kl"]) < 1e-5


def test_completions_are_refused_where_ppo_has_no_loss() -> None:
    completions = pack(make_pairs(1))
    with pytest.raises(ValueError, match="limit_val_batches to 0"):
        module().validation_step(completions, 0)
    with pytest.raises(ValueError, match="limit_test_batches to 0"):
        module().test_step(completions, 0)
