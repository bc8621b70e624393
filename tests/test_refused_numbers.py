"""A number of a config that cannot be meant is refused when its object is made, in words that name it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from torch.optim import SGD

from callbacks.answers.results_table import ResultsTable
from callbacks.answers.samples import SampleLogger
from callbacks.answers.sampling_bar import SamplingBar
from callbacks.diagnostics.accuracy import AccuracyMonitor
from callbacks.diagnostics.disentanglement import DisentanglementMonitor
from callbacks.diagnostics.mass_gains import MassMonitor
from callbacks.diagnostics.reference_probes import ReferenceProbes
from callbacks.saving.checkpoint import RunCheckpoint
from datamodules.answering import Answering
from datamodules.formats.columns import PairColumns
from datamodules.mixture import MixtureDataModule, MixturePart
from datamodules.pool.data import PoolDataModule
from datamodules.pool.rollouts import RolloutDataModule
from datamodules.pool.scenarios import PairRules
from datamodules.preference import PreferenceDataModule
from datamodules.sampling import SamplingDataModule
from datamodules.sources.readers import DataSource
from datamodules.tasks.arithmetic.task import ArithmeticTask
from datamodules.tasks.rows import TaskRows
from datamodules.tasks.sft import TaskSFTDataModule
from datamodules.toy.data import ToyPreferenceDataModule
from judges.chat.batch import ChatLimits, Prices
from judges.chat.server import ChatServer
from judges.maths import MathsJudge
from lightning_modules.losses.bradley_terry import BradleyTerry
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.models.adapters.lora import LoraSpec
from lightning_modules.models.scalars.reward_model import RewardModelSpec
from lightning_modules.models.toy.specs import ToyPolicySpec
from lightning_modules.on_policy import OnPolicyPreferenceModule
from lightning_modules.ppo.estimators import GAE
from lightning_modules.ppo.kl_penalty import KLPenalty
from lightning_modules.ppo.module import PPOModule
from lightning_modules.ppo.settings import PPOSettings
from lightning_modules.rewards.judge_reward import JudgeReward
from tests.lightning_modules.ppo.rig import EvenJudge
from tests.lightning_modules.stubs import TINY

JUDGE = EvenJudge()
ROWS = DataSource("rows.jsonl")
optimizer = partial(SGD, lr=0.1)
pairs = partial(PreferenceDataModule, "tokenizer", ROWS, PairColumns())
mixture = partial(MixtureDataModule, "tokenizer", {"one": MixturePart(ROWS, PairColumns(), 1.0)})
pool = partial(PoolDataModule, "pool.jsonl", 1, "tokenizer")
rollouts = partial(RolloutDataModule, pool="pool.jsonl", scenario=1, tokenizer="tokenizer")
sampling = partial(SamplingDataModule, ArithmeticTask(), "tokenizer")
ppo = partial(PPOModule, TINY, [JudgeReward(JUDGE)], optimizer)
on_policy = partial(OnPolicyPreferenceModule, TINY, DPOLoss(), [JudgeReward(JUDGE)], optimizer)

COUNTS: list[tuple[Callable[..., object], str]] = [
    (make, name)
    for makes, names in (
        ((pairs, mixture, pool, partial(TaskSFTDataModule, "tokenizer", ArithmeticTask())), "batch_size max_tokens_per_batch"),
        ((pairs, pool), "limit"),
        ((mixture,), "num_examples"),
        ((rollouts,), "prompts_per_rollout num_samples max_new_tokens"),
        ((sampling, Answering), "num_samples max_new_tokens prompts_per_batch"),
        ((ToyPreferenceDataModule,), "num_seeds"),
        ((ToyPolicySpec,), "num_seeds num_prompts num_responses width"),
        ((partial(TaskRows, "rows.jsonl"),), "limit"),
        ((partial(AccuracyMonitor, JUDGE),), "every_n_steps num_problems max_new_tokens"),
        ((RunCheckpoint,), "every_n_train_steps"),
        ((DisentanglementMonitor, MassMonitor), "max_columns every_n_steps"),
        ((MassMonitor,), "max_positions"),
        ((SampleLogger,), "every_n_steps num_prompts num_samples"),
        ((partial(ResultsTable, JUDGE),), "num_resamples"),
        ((partial(ChatServer, "model"),), "max_tokens"),
        ((ChatLimits,), "concurrency requests_per_minute tokens_per_minute max_attempts give_up_after"),
        ((MathsJudge,), "timeout workers"),
        ((LoraSpec,), "r alpha"),
        ((partial(RewardModelSpec, "path"),), "num_layers likelihood_scale"),
        ((PPOSettings,), "num_epochs num_minibatches max_tokens_per_batch clip_range value_clip_range max_grad_norm"),
        ((KLPenalty,), "target horizon"),
        ((ppo,), "critic_lr"),
        ((on_policy,), "min_gap max_tokens_per_batch"),
        ((PairRules,), "min_gap"),
    )
    for make in makes
    for name in names.split()
]
"""What takes a number, and its name: 0 and -1 are refused."""

AMOUNTS: list[tuple[Callable[..., object], str]] = [
    (make, name)
    for makes, names in (
        ((pairs, mixture, pool), "num_workers seed num_probe_prompts val_fraction"),
        ((pool,), "num_leftovers mix"),
        ((sampling, Answering), "seed temperature"),
        ((ArithmeticTask,), "num_train num_pool num_val num_test num_slips seed terse_share"),
        ((partial(TaskRows, "rows.jsonl"),), "skip shuffle_seed"),
        ((SampleLogger, ReferenceProbes, partial(ResultsTable, JUDGE)), "seed"),
        ((SamplingBar,), "refresh_rate"),
        ((partial(ChatServer, "model"),), "temperature"),
        ((ChatLimits,), "first_delay max_delay"),
        ((Prices,), "prompt completion"),
        ((BradleyTerry,), "margin_per_point centring"),
        ((GAE,), "gamma gae_lambda"),
        ((KLPenalty,), "coefficient"),
        ((PPOSettings,), "missing_eos_penalty seed"),
    )
    for make in makes
    for name in names.split()
]
"""What takes a number from 0 on, and its name: -1 is refused."""

FLOATS = {
    "temperature", "val_fraction", "mix", "terse_share", "first_delay", "max_delay", "prompt", "completion", "margin_per_point",
    "centring", "gamma", "gae_lambda", "coefficient", "missing_eos_penalty", "timeout", "alpha", "likelihood_scale", "clip_range",
    "value_clip_range", "max_grad_norm", "target", "critic_lr", "min_gap", "requests_per_minute", "tokens_per_minute",
}  # fmt: skip


def cases() -> list[Any]:
    found: list[tuple[Callable[..., object], str, float]] = [(make, name, value) for make, name in COUNTS for value in (0, -1)]
    found += [(make, name, -1) for make, name in AMOUNTS]
    found += [(make, name, math.nan) for make, name in (*COUNTS, *AMOUNTS) if name in FLOATS]
    return [pytest.param(*case, id=f"{getattr(case[0], 'func', case[0]).__name__}-{case[1]}-{case[2]}") for case in found]


@pytest.mark.parametrize(("make", "name", "value"), cases())
def test_a_number_out_of_range_is_refused_by_name(make: Callable[..., object], name: str, value: float) -> None:
    with pytest.raises(ValueError, match=r"^expected .*, got ") as refused:
        make(**{name: value})
    assert name in str(refused.value)


def test_what_the_table_takes_for_granted_is_accepted() -> None:
    """An object that could not be made at all would pass for one that refuses."""
    for make, _ in (*COUNTS, *AMOUNTS):
        make()
