"""Monitor of a task: the policy answers held-out problems while it trains, and the answers are judged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.answers.judging import require_judge
from callbacks.base import PolicyDiagnostic
from callbacks.readings import Values
from datamodules.contracts.prompts import Sampling, TaskPrompt
from datamodules.contracts.ranges import require_at_least
from datamodules.contracts.stores import TaskStore, Tokenizer, data_of, require
from judges.base import Judge
from lightning_modules.contracts import HasPolicy
from lightning_modules.models.policy import Policy


def examine(
    policy: Policy, problems: Sequence[TaskPrompt], judge: Judge, tokenizer: Tokenizer, parameters: Sampling
) -> dict[str, Tensor]:
    """Responses to the problems, judged.

    Returns:
        `[problems]` each of `task/<column>` (a column of the judge's results that not all have is shorter), `task/score` (on the
        judge's scale) and `task/length` (tokens).
    """
    eos = tokenizer.eos_token_id
    assert eos is not None, "data modules of text refuse a tokenizer without one"
    completions = policy.sample([problem.prompt_ids for problem in problems], parameters, eos_token_id=eos, seed=0)
    texts = [tokenizer.decode(policy.without_end(ids, eos)) for ids in completions]
    verdicts = [judge.judge(prompt.item.prompt, text, prompt.item.answer) for prompt, text in zip(problems, texts, strict=True)]
    results = [judge.results(verdict) for verdict in verdicts]
    columns = dict.fromkeys(column for result in results for column in result)
    return {
        **{f"task/{name}": torch.tensor([result[name] for result in results if name in result]) for name in columns},
        "task/score": torch.tensor([verdict.score for verdict in verdicts]),
        "task/length": torch.tensor([float(len(ids)) for ids in completions]),
    }


class AccuracyMonitor(PolicyDiagnostic):
    """Decodes the task's held-out problems greedily before training, at a cadence and after it, and has them judged.

    Metrics: `task/<column>` for the columns that the judge's results have (of an exact judge `task/accuracy`, the share whose
    final answer is right), `task/score` (mean, on the judge's scale), `task/length` (mean tokens of a response), `task/problems`
    (how many were judged). Step 0 is the policy as training starts from it.

    Args:
        judge: scores a response; null takes the judge of the data's task.
        every_n_steps: cadence in optimizer steps.
        num_problems: of the held-out problems the first so many; all by default.
        max_new_tokens: tokens of a response at the most.
    """

    name = "accuracy"

    def __init__(
        self,
        judge: Judge | None = None,
        every_n_steps: int = 50,
        num_problems: int | None = None,
        max_new_tokens: int = 256,
    ) -> None:
        super().__init__(every_n_steps)
        require_at_least(1, num_problems=num_problems)
        self.judge = judge
        self.num_problems = num_problems
        self._parameters = Sampling(max_new_tokens=max_new_tokens, temperature=0.0)
        self._num_judged = 0

    @override
    def measure_policy(self, trainer: Trainer, pl_module: LightningModule) -> list[Values]:
        store = require(data_of(trainer), TaskStore)
        problems = store.task_prompts()[: self.num_problems]
        self._num_judged = len(problems)
        own = problems[trainer.global_rank :: trainer.world_size]
        policy, judge = require(pl_module, HasPolicy).policy, require_judge(trainer, self.judge)
        # On every rank, also one without a problem: a sharded policy needs them all to be gathered.
        with policy.gathered(), trainer.precision_plugin.forward_context():
            return [examine(policy, own, judge, store.tokenizer, self._parameters)] if own else []

    @override
    def finish(self, means: dict[str, float]) -> dict[str, float]:
        # How sure a share is depends on it.
        return means | ({"task/problems": float(self._num_judged)} if means else {})
