"""Two processes take the steps of one where the module samples (on-policy preferences, PPO), replicated or sharded."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.optim import AdamW

from bench.gloo import together
from callbacks.diagnostics.likelihood import LikelihoodMonitor
from callbacks.diagnostics.softmax_gradient import SoftmaxGradientMonitor
from datamodules.contracts.prompts import PromptBatch
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.kto import KTOLoss
from lightning_modules.models.scalars.critic import SharedBody
from lightning_modules.models.sharding import whole
from lightning_modules.on_policy import OnPolicyPreferenceModule
from lightning_modules.policy_module import PolicyModule
from lightning_modules.ppo.estimators import RLOO, ReMax
from lightning_modules.ppo.kl_penalty import KLPenalty
from lightning_modules.ppo.settings import PPOSettings
from lightning_modules.rewards.judge_reward import JudgeReward
from run_folder.rows import read_rows
from tests.lightning_modules.ppo.rig import EvenJudge, OddJudge, Prompts, fit, module
from tests.lightning_modules.stubs import TINY

pytestmark = [
    # Python 3.12 warns of every fork of a process with threads.
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`"),
    pytest.mark.filterwarnings("ignore:Rollout"),
]
STEPS = 5


class OddPrompts(Prompts):
    """Three prompts: one process has two of them, and none of an update over the third alone."""

    def rollout_prompts(self, number: int) -> PromptBatch:
        whole = super().rollout_prompts(number)
        return replace(whole, prompts=whole.prompts[:3])


def on_policy() -> PolicyModule:
    # With one prompt in three that makes no pair, a process may have none.
    return OnPolicyPreferenceModule(TINY, DPOLoss(), [JudgeReward(EvenJudge())], partial(AdamW, lr=0.01))


def on_policy_kto() -> PolicyModule:
    """A loss over the whole step, of several microbatches."""
    return OnPolicyPreferenceModule(TINY, KTOLoss(), [JudgeReward(EvenJudge())], partial(AdamW, lr=0.01), min_gap=0.2)


def ppo(**options: Any) -> PolicyModule:
    settings = PPOSettings(num_minibatches=2, max_tokens_per_batch=options.pop("max_tokens_per_batch", 8192))
    return module(optimizer=partial(AdamW, lr=0.01), settings=settings, kl=KLPenalty(0.1, target=0.5, horizon=20), **options)


MODULES: Mapping[str, Callable[[], PolicyModule]] = {
    "on_policy": on_policy,
    "on_policy_kto": on_policy_kto,
    "gae": ppo,
    "rloo": partial(ppo, judge=OddJudge(fails=lambda text: text.startswith("1")), advantages=RLOO(), max_tokens_per_batch=12),
    "remax": partial(ppo, advantages=ReMax()),
    "shared_critic": partial(ppo, critic=SharedBody()),
}
WITH: Mapping[str, Callable[[int], Any]] = {
    "one": lambda size: "auto",
    "ddp": lambda size: DDPStrategy(),
    "fsdp2": lambda size: ModelParallelStrategy(data_parallel_size=size, tensor_parallel_size=1),
}


def train(folder: Path, strategies: list[str], size: int) -> None:
    """In each process: every module under every strategy, one after the other; the first one keeps what came of them."""
    torch.set_num_threads(1)
    for strategy in strategies:
        for name, make in MODULES.items():
            run = folder / f"{name}_{strategy}"
            trained, monitors = make(), [LikelihoodMonitor(1, 2), SoftmaxGradientMonitor(1)]
            options = {"strategy": WITH[strategy](size), "devices": size, "max_steps": STEPS}
            options |= {"accumulate_grad_batches": 2} if name == "on_policy_kto" else {}
            trainer = fit(run, trained, OddPrompts(), monitors, **options)
            weights = {key: whole(parameter.detach()) for key, parameter in trained.named_parameters()}
            if trainer.is_global_zero:
                torch.save(weights, run / "weights.pt")
                for logger in trainer.loggers:
                    logger.save()


def train_on(folder: Path, name: str, strategy: str, size: int, steps: tuple[int, int]) -> None:
    """In each process: PPO with a critic up to a step, from the checkpoint of another, and a checkpoint at its end."""
    torch.set_num_threads(1)
    trained, (first, last) = MODULES["gae"](), steps
    options = {"strategy": WITH[strategy](size), "devices": size, "max_steps": last}
    trainer = fit(folder / name, trained, OddPrompts(), ckpt_path=folder / f"{first}.ckpt" if first else None, **options)
    trainer.save_checkpoint(folder / f"{last}.ckpt")
    weights = {key: whole(parameter.detach()) for key, parameter in trained.named_parameters()}
    if trainer.is_global_zero:
        torch.save(weights, folder / name / "weights.pt")


@pytest.mark.parametrize("journey", [("ddp", "one", "ddp"), ("fsdp2", "fsdp2", "fsdp2")], ids=["ddp", "fsdp2"])
def test_ppo_goes_on_in_the_middle_of_a_rollout_on_another_number_of_processes(
    runs: Path, tmp_path: Path, journey: tuple[str, str, str]
) -> None:
    for number, (strategy, size, steps) in enumerate(zip(journey, (2, 1, 2), ((0, 1), (1, 3), (3, STEPS)), strict=True)):
        together(size, train_on, tmp_path, str(number), strategy, size, steps)
    expected, found = torch.load(runs / "gae_one" / "weights.pt"), torch.load(tmp_path / "2" / "weights.pt")
    for key, weight in expected.items():
        assert (found[key] - weight).norm() <= 1e-5 * weight.norm(), key


def points(run: Path) -> list[dict[str, float]]:
    with (run / "lightning_logs/version_0/metrics.csv").open(encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    together(1, train, folder, ["one"], 1)
    together(2, train, folder, ["ddp", "fsdp2"], 2)
    return folder


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("name", MODULES)
def test_two_processes_take_the_steps_of_one(runs: Path, name: str, strategy: str) -> None:
    alone, both = runs / f"{name}_one", runs / f"{name}_{strategy}"
    weights, others = torch.load(alone / "weights.pt"), torch.load(both / "weights.pt")
    start = {f"policy.{key}": value for key, value in TINY.build().state_dict().items() if f"policy.{key}" in weights}
    assert max(float((weights[key] - value).norm() / value.norm()) for key, value in start.items()) > 1e-2
    for key, weight in weights.items():
        assert (others[key] - weight).norm() <= 1e-5 * weight.norm(), key
    one, two = points(alone), points(both)
    assert len(one) >= STEPS
    for expected, point in zip(one, two, strict=True):
        assert point == pytest.approx(expected, rel=1e-4, abs=1e-5)
    for monitor in ("likelihood", "softmax_grad"):
        for row, other in zip(*(read_rows(run / "lightning_logs/version_0", monitor) for run in (alone, both)), strict=True):
            assert other == pytest.approx(row, rel=1e-3, abs=1e-5)
