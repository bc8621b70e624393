"""Judges sampled responses and appends them to a response pool, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from callbacks.answers.judging import judge_groups, judge_of
from datamodules.contracts.prompts import PromptBatch
from datamodules.contracts.records import Text
from datamodules.contracts.stores import SampledStore, data_of, require
from datamodules.pool.files import PoolAppender
from datamodules.pool.schema import DATASET, POLICY, PoolRow, Response
from datamodules.tasks.base import TaskItem
from judges.base import Judge, Verdict
from lightning_modules.contracts import HasPolicy
from lightning_modules.models.policy import Policy
from lightning_modules.processes.ranks import of_all_ranks


class PoolWriter(Callback):
    """Writes the responses of `predict` to a pool, each with its score and where it came from.

    A killed run loses at most the batch in hand. A second run goes on where the first one stopped, and samples no prompt
    twice. A row has the data set's own solution, and what other models' responses come with the data, beside the sampled
    responses, judged like them. Of several processes each samples and judges its batches, and the first one writes them in the
    order of the prompts: the pool is that of one process.

    Args:
        pool: a `.jsonl` file; made when missing, appended to when not. By default `runs/<experiment>/pool.jsonl`.
        source: `policy` for the model that will be aligned, or a name for another model.
        judge: scores the responses; null takes the judge of the data's task. Where there is none either, they have no score.
    """

    def __init__(self, pool: str | None = None, source: str = POLICY, judge: Judge | None = None) -> None:
        if source == DATASET:
            raise ValueError(f"expected policy or the name of another model, got {source!r}: that is the data set's own solutions.")
        self.pool = pool
        self.source = source
        self.judge = judge

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.pool = pool = self.pool or _beside_runs(trainer)
        self._judge = judge_of(trainer, self.judge)
        self._store = require(data_of(trainer), SampledStore)
        # The first process has the file, and tells the others what is in it.
        self._answers, *_ = of_all_ranks(lambda: self._open(pool) if trainer.is_global_zero else [])
        answered = [prompt for prompt, _ in self._answers]
        self._store.leave_out(answered)
        if answered:
            rank_zero_info(f"{self.pool} has responses to {len(answered)} prompts; going on with the others.")

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            self._appender.close()

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._model = require(pl_module, HasPolicy).policy.fingerprint()
        known = {model for _, models in self._answers for model in models}
        if known - {self._model}:
            raise ValueError(
                f"expected {self.pool} to hold responses of one model as {self.source!r}, got those of {sorted(map(str, known))} "
                f"and now {self._model}. Write to another file, or under another source."
            )

    @override
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: PromptBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        groups: Sequence[Sequence[list[int]]] = outputs
        policy = require(pl_module, HasPolicy).policy
        rows = [self._row(prompt.item, group, batch, policy) for prompt, group in zip(batch.prompts, groups, strict=True)]
        parts = of_all_ranks(lambda: self._judged(rows, [prompt.item for prompt in batch.prompts]))
        if trainer.is_global_zero:
            self._appender.append(row for part in parts for row in part)

    def _open(self, pool: str) -> list[tuple[Text, list[str | None]]]:
        """Prompts that need no sampling, and the models that answered; rows of other sources alone do not count."""
        self._appender = PoolAppender(pool)
        own = [(row.prompt, row.by_source(self.source)) for row in self._appender.rows]
        return [(prompt, [response.model for response in responses]) for prompt, responses in own if responses]

    def _row(self, item: TaskItem, completions: Sequence[list[int]], batch: PromptBatch, policy: Policy) -> PoolRow:
        sampled = [self._sampled(completion, batch, policy) for completion in completions]
        own = [] if item.solution is None else [Response(item.solution, DATASET)]
        others = [Response(text, model) for model, text in item.others]
        return PoolRow(item.text, (*own, *others, *sampled), item.answer, self._store.task.name)

    def _sampled(self, completion: list[int], batch: PromptBatch, policy: Policy) -> Response:
        return Response(
            text=self._store.tokenizer.decode(policy.without_end(completion, batch.eos_token_id)),
            source=self.source,
            model=self._model,
            sampling=batch.sampling,
            seed=batch.seed,
            is_cut=not policy.is_finished(completion, batch.eos_token_id),
        )

    def _judged(self, rows: Sequence[PoolRow], items: Sequence[TaskItem]) -> list[PoolRow]:
        verdicts = judge_groups(self._judge, items, [[response.text for response in row.responses] for row in rows])
        scored = [tuple(map(self._scored, row.responses, given)) for row, given in zip(rows, verdicts, strict=True)]
        return [replace(row, responses=responses) for row, responses in zip(rows, scored, strict=True)]

    def _scored(self, response: Response, verdict: Verdict | None) -> Response:
        if self._judge is None or verdict is None:
            return response
        return replace(response, score=verdict.score, judge=self._judge.name, judge_version=self._judge.version)


def _beside_runs(trainer: Trainer) -> str:
    """All runs of an experiment write to one pool, so that a killed one is gone on with."""
    folder = getattr(trainer.logger, "root_dir", None)
    if folder is None:
        raise ValueError("expected a file to write the pool to, got none, and the run has no logger with a folder. Name it: pool.")
    return str(Path(folder) / "pool.jsonl")
