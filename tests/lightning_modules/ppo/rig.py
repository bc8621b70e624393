"""A tiny policy, prompts, and judges for the tests of PPO; nothing is read from a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.optim import SGD

from datamodules.contracts.batches import CompletionBatch, Demand
from datamodules.contracts.examples import Example
from datamodules.contracts.packing import pack
from datamodules.contracts.prompts import PromptBatch, Sampling, TaskPrompt, demand_of_prompts
from datamodules.pool.rollouts import StepTicks
from datamodules.tasks.base import TaskItem
from judges.base import Judge, JudgeError, Verdict
from lightning_modules.models.policy import SampledCompletion
from lightning_modules.ppo.module import PPOModule
from lightning_modules.rewards.judge_reward import JudgeReward
from lightning_modules.rewards.samples import Samples
from lightning_modules.trained import TrainedModule
from tests.lightning_modules.stubs import TINY, make_pairs

EOS = 0


class Numbers:
    """A tokenizer of a sort: the text of ids is their numbers."""

    eos_token_id = EOS

    def decode(self, token_ids: Sequence[int]) -> str:
        return " ".join(map(str, token_ids))


class Prompts(LightningDataModule):
    """Four prompts a rollout, two answers each; frozen pairs as the probe bank."""

    task = None
    judge = None

    def __init__(self, pairs: Sequence[Example] | None = None, max_new_tokens: int = 6) -> None:
        super().__init__()
        self.tokenizer, self.pairs, self.max_new_tokens = Numbers(), list(pairs or make_pairs(8)), max_new_tokens

    def rollout_prompts(self, number: int) -> PromptBatch:
        generator = torch.Generator().manual_seed(number)
        rows = torch.randint(1, 31, (4, 3), generator=generator).tolist()
        prompts = tuple(TaskPrompt(TaskItem(" ".join(map(str, ids)), "7"), tuple(ids)) for ids in rows)
        return PromptBatch(prompts, Sampling(self.max_new_tokens), 2, number, EOS)

    def task_prompts(self) -> Sequence[TaskPrompt]:
        return ()

    def train_dataloader(self) -> StepTicks:
        return StepTicks()

    def val_dataloader(self) -> list[CompletionBatch]:
        return [pack(self.pairs)]

    def demands(self) -> Iterator[Demand]:
        yield demand_of_prompts(self.rollout_prompts(0).prompts, self.max_new_tokens, "prompts with their answers")

    def splits(self) -> list[str]:
        return ["train"]

    def scoring_dataloader(self, split: str) -> list[CompletionBatch]:
        return [pack(self.pairs)]

    def data_fingerprint(self, split: str) -> str:
        raise NotImplementedError

    planned_passes = set_reference_logps = data_fingerprint

    def probe_batches(self) -> Iterator[CompletionBatch]:
        yield pack(self.pairs[:2])

    def add_probes(self, kind: str, groups: Sequence[Sequence[Sequence[int]]]) -> None:
        raise NotImplementedError


class EvenJudge(Judge):
    """The share of even tokens, of [0, 1]."""

    name, version, scale = "even", "1", (0.0, 1.0)

    def judge(self, prompt: str, response: str, answer: str | None = None) -> Verdict:
        numbers = [int(word) for word in response.split()]
        return Verdict(sum(number % 2 == 0 for number in numbers) / max(1, len(numbers)), "counted")


class OddJudge(EvenJudge):
    """One that fails where `fails` says so, and else gives what `gives` says."""

    def __init__(self, fails: Callable[[str], bool] = lambda _: False, gives: float | None = None) -> None:
        self.fails, self.gives = fails, gives

    def judge(self, prompt: str, response: str, answer: str | None = None) -> Verdict:
        if self.fails(response):
            raise JudgeError("the judge is asleep")
        return super().judge(prompt, response, answer) if self.gives is None else Verdict(self.gives, "always")


def module(judge: Judge | None = None, **options: Any) -> PPOModule:
    return PPOModule(TINY, [JudgeReward(judge or EvenJudge())], options.pop("optimizer", partial(SGD, lr=0.5)), **options)


def fit(
    folder: Path,
    ppo: TrainedModule,
    data: LightningDataModule | None = None,
    callbacks: Sequence[Callback] = (),
    ckpt_path: Path | None = None,
    **options: Any,
) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        logger=CSVLogger(folder),
        callbacks=list(callbacks),
        max_epochs=-1,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_steps": 8, "log_every_n_steps": 1, "limit_val_batches": 0, "enable_checkpointing": False} | options,
    )
    trainer.fit(ppo, datamodule=data or Prompts(), ckpt_path=ckpt_path)
    return trainer


def samples(*groups: Sequence[Sequence[int]]) -> Samples:
    """Samples of given token ids with log-probs -0.1, -0.2, ... a token; those that end with EOS are finished."""
    prompts = tuple(TaskPrompt(TaskItem(f"p{number}", "7"), (number + 1, 2)) for number in range(len(groups)))
    completions = tuple(
        tuple(SampledCompletion(tuple(ids), -0.1 * torch.arange(1, len(ids) + 1), ids[-1] == EOS) for ids in group)
        for group in groups
    )
    return Samples(prompts, completions, EOS)
