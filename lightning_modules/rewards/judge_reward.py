"""Rewards from a judge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from typing_extensions import override

from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.stores import PromptStore
from judges.base import Judge, JudgeError, Verdict
from lightning_modules.rewards.base import Rewards, RewardSource
from lightning_modules.rewards.samples import Samples

Item = tuple[str, str, str | None]
"""Prompt, response, gold answer."""


class JudgeReward(RewardSource):
    """The judge's score of the text, on [0, 1] (`Judge.to_unit`).

    What the judge cannot score through no fault of the response has no reward and is counted.

    Args:
        judge: scores a response; null takes the judge of the data's task.
        weight: factor on its rewards.
    """

    name = "judge"

    def __init__(self, judge: Judge | None = None, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.judge = judge
        self._prepared: tuple[Judge, PromptStore] | None = None

    @override
    def prepare(self, store: PromptStore, device: torch.device) -> None:
        if (judge := self.judge or store.judge) is None:
            raise ValueError("expected a judge of the task's problems, got none. Name one: data.task.judge (docs/judges.md).")
        self._prepared = judge, store

    @override
    def rewards(self, samples: Samples, batches: Sequence[CompletionBatch]) -> Rewards:
        assert self._prepared is not None, "prepare comes first"
        judge, store = self._prepared
        texts = [store.tokenizer.decode(ids) for ids in samples.token_ids()]
        problems = [prompt.item for prompt, group in zip(samples.prompts, samples.groups, strict=True) for _ in group]
        items = [(problem.prompt, text, problem.answer) for problem, text in zip(problems, texts, strict=True)]
        verdicts, failures = _verdicts(judge, items)
        scores = [judge.to_unit(verdicts[number].score) if number in verdicts else math.nan for number in range(len(items))]
        return Rewards(torch.tensor(scores, dtype=torch.float32), failures=failures)


def _verdicts(judge: Judge, items: Sequence[Item]) -> tuple[Mapping[int, Verdict], Mapping[int, str]]:
    try:
        return dict(enumerate(judge.judge_many(*map(list, zip(*items, strict=True))))), {}
    except JudgeError as error:
        if error.verdicts or error.failures:
            return error.verdicts, error.failures
    # A judge that goes through responses one by one stops at the first that fails, and has no verdict on the others.
    return _one_by_one(judge, items)


def _one_by_one(judge: Judge, items: Sequence[Item]) -> tuple[Mapping[int, Verdict], Mapping[int, str]]:
    verdicts, failures = {}, {}
    for number, item in enumerate(items):
        try:
            verdicts[number] = judge.judge(*item)
        except JudgeError as error:
            failures[number] = str(error)
    return verdicts, failures
