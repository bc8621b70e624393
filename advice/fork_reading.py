"""The callback of a fork: reads the policy at some steps, prompt by prompt, and says how far the fork has come."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, distributed
from typing_extensions import override

from advice.measures import (
    SAMPLED_PROMPTS,
    Values,
    answer_loss,
    bank_mass,
    judged,
    neutral,
    pair_logps,
    passages_of,
    ranked,
    rewarded,
    sampled,
)
from callbacks.answers.texts import hub_tokenizer_of
from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.prompts import TaskPrompt
from datamodules.contracts.ranges import require_at_least
from datamodules.contracts.stores import SplitStore, TaskStore, data_of, meets, require
from datamodules.loading.loader import EvaluationLoader, SplitDataset
from datamodules.loading.sampler import evaluation_plan
from judges.base import Judge
from lightning_modules.contracts import HasPolicy, HasRewardModel
from lightning_modules.models.policy import Policy

PROGRESS = "progress"
"""File with the last step that was taken."""

MAX_PAIRS = 256


class ForkReading(Callback):
    """Writes `<folder>/step_<n>.json`: one value a prompt of every measure that this run has, and the seconds since the last one.

    With a judge and held-out problems it reads greedy answers; without, held-out pairs (of supervised runs: answers), samples and
    neutral text. The probe bank is read in any case; of a reward model nothing but held-out pairs. It draws from generators of
    its own, so that the fork goes on as if nobody had looked.

    Args:
        folder: where to.
        at: optimizer steps; the one that training starts from is read before it.
        judge: scores answers; null takes the judge of the data's task.
        max_new_tokens: of an answer.
        num_problems: of the held-out problems the first so many.
        neutral_text: a text file that has nothing to do with the task; null for none.
    """

    def __init__(
        self,
        folder: str,
        at: list[int],
        judge: Judge | None = None,
        max_new_tokens: int = 256,
        num_problems: int | None = None,
        neutral_text: str | None = None,
    ) -> None:
        require_at_least(1, max_new_tokens=max_new_tokens, num_problems=num_problems)
        self.folder = Path(folder)
        self.at = frozenset(at)
        self.judge = judge
        self.max_new_tokens = max_new_tokens
        self.num_problems = num_problems
        self.neutral_text = neutral_text
        self._reference_pairs: Tensor | None = None
        self._since = time.perf_counter()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter()
        if trainer.global_step in self.at:
            self._read(trainer, pl_module)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / PROGRESS).write_text(str(trainer.global_step), encoding="utf-8")
        if trainer.global_step in self.at:
            self._read(trainer, pl_module)

    def _read(self, trainer: Trainer, pl_module: LightningModule) -> None:
        began = time.perf_counter()
        with _looking_at(trainer, pl_module):
            values = self._values(trainer, pl_module)
        if trainer.is_global_zero:
            seconds = {"steps": began - self._since, "reading": time.perf_counter() - began}
            content = {"step": trainer.global_step, "seconds": seconds, "measures": values}
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"step_{trainer.global_step}.json"
            # In one move: a reading that is there is whole.
            path.with_suffix(".part").write_text(json.dumps(content), encoding="utf-8")
            path.with_suffix(".part").replace(path)
        self._since = time.perf_counter()

    def _values(self, trainer: Trainer, pl_module: LightningModule) -> Values:
        if not meets(pl_module, HasPolicy):
            batches = [batch for batch in _held_out(trainer) if _is_paired(batch)]
            return rewarded(require(pl_module, HasRewardModel).reward_model, batches, pl_module.device) if batches else {}
        values = bank_mass(pl_module.probe_evaluation())
        store = data_of(trainer)
        problems, judge = (
            (store.task_prompts()[: self.num_problems], self.judge or store.judge) if meets(store, TaskStore) else ([], None)
        )
        if judge is not None and problems:
            return self._judged(trainer, pl_module.policy, problems, judge) | values
        return self._unjudged(trainer, pl_module) | values

    def _judged(self, trainer: Trainer, policy: Policy, problems: Sequence[TaskPrompt], judge: Judge) -> Values:
        tokenizer = require(data_of(trainer), TaskStore).tokenizer
        rank, ranks = trainer.global_rank, trainer.world_size
        own = problems[rank::ranks]
        with policy.gathered():
            values = judged(policy, own, judge, tokenizer, self.max_new_tokens) if own else {}
        return _interleaved(values)

    def _unjudged(self, trainer: Trainer, module: HasPolicy) -> Values:
        held_out, store, values = list(_held_out(trainer)), data_of(trainer), Values()
        batches = [batch for batch in held_out if _is_paired(batch)]
        if held_out and not getattr(store, "holds_rejected", False):
            values |= answer_loss(module.policy, held_out, module.device)
        decoder = hub_tokenizer_of(trainer)
        eos = None if decoder is None else decoder.eos_token_id
        reference = module.reference_policy().to(module.device) if batches else None
        if reference is not None:
            if self._reference_pairs is None:
                self._reference_pairs = pair_logps(reference, batches, module.device)
            values |= ranked(pair_logps(module.policy, batches, module.device), self._reference_pairs)
        if reference is not None and eos is not None:
            examples = require(store, SplitStore).dataset("val").examples
            prompts = [example.prompt_ids for example, _ in zip(examples, range(SAMPLED_PROMPTS), strict=False)]
            values |= sampled(module.policy, reference, prompts, eos, module.device)
        if self.neutral_text is not None and decoder is not None:
            limits = getattr(module.policy, "limits", None)
            longest = getattr(limits, "positions", None) or 10**6
            text = Path(self.neutral_text).read_text(encoding="utf-8")
            values |= neutral(module.policy, list(passages_of(text, decoder, longest)), module.device)
        return values


@contextmanager
def _looking_at(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """Evaluation mode and the run's precision, and the mode that was afterwards."""
    model = pl_module.policy if meets(pl_module, HasPolicy) else require(pl_module, HasRewardModel).reward_model
    mode = model.training
    model.eval()
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        yield
    model.train(mode)


def _held_out(trainer: Trainer) -> Iterator[CompletionBatch]:
    """Held-out pairs, or answers, in an order of their own; none where there are none."""
    store = data_of(trainer)
    if not meets(store, SplitStore) or "val" not in store.splits():
        return
    examples = store.dataset("val").examples
    dataset = SplitDataset(examples.select(list(range(min(MAX_PAIRS, len(examples))))))
    batches = EvaluationLoader(dataset, evaluation_plan(dataset.lengths.rows, max_tokens=store.max_tokens_per_batch))
    yield from batches


def _is_paired(batch: CompletionBatch) -> bool:
    return len(batch.pairs) == batch.num_prompts


def _interleaved(own: Values) -> Values:
    """The values of all ranks in the order of the problems. Rank r of n had the problems r, r + n, r + 2n, ..."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return own
    parts: list[Values] = [{} for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(parts, own)
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: _woven([part.get(name, []) for part in parts]) for name in names}


def _woven(parts: Sequence[Sequence[float]]) -> list[float]:
    longest = max(map(len, parts))
    return [part[place] for place in range(longest) for part in parts if place < len(part)]
