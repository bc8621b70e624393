"""The answers to the held-out prompts of a fold, and what a model gives for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.alpaca_pairs import Fold
from datamodules.batches import CompletionBatch
from datamodules.loading.loader import EvaluationLoader
from datamodules.loading.sampler import evaluation_plan
from datamodules.preference import PreferenceDataModule
from datamodules.sources.readers import DataSource
from datamodules.sources.scored import ScoredResponses

FILE = "held_out.npy"
"""Rewards of the answers to the held-out prompts, beside a run's rows."""
MAX_TOKENS = 4096
"""Of a forward pass, or what the largest prompt needs with all its answers."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Rewards = Callable[[CompletionBatch], Tensor]
"""`[Q]` of a batch, or `[Q, d]`."""


@dataclass(frozen=True)
class Answers:
    """In the order of `batches`."""

    prompts: Integers
    """`[answers]` number of the prompt."""
    scores: Integers
    """`[answers]` 1 better than the baseline's, 0 the baseline's, -1 worse."""

    @property
    def against_baseline(self) -> tuple[Integers, Integers]:
        """`[pairs]` every other answer, and its prompt's baseline."""
        baseline = np.zeros(self.prompts.max() + 1, dtype=np.int64)
        baseline[self.prompts[self.scores == 0]] = np.flatnonzero(self.scores == 0)
        others = np.flatnonzero(self.scores)
        return others, baseline[self.prompts[others]]

    def margins(self, rewards: Floats) -> Floats:
        """`[pairs]` reward of the better answer of each of those less that of the worse."""
        others, baseline = self.against_baseline
        return self.scores[others] * (rewards[others] - rewards[baseline])


def batches(model: str, fold: Fold) -> Iterator[CompletionBatch]:
    """All answers to the held-out prompts."""
    source = DataSource(str(fold.folder / "held_out_groups.jsonl"))
    data = PreferenceDataModule(model, source, ScoredResponses(as_chat=True), val_fraction=0.0, on_bad_row="skip")
    data.setup("fit")
    dataset = data.dataset("train")
    rows = dataset.lengths.rows
    yield from EvaluationLoader(dataset, evaluation_plan(rows, max_tokens=max(MAX_TOKENS, int(rows.max()))))


def answers(model: str, fold: Fold) -> Answers:
    """Whose they are and how they were judged."""
    scores, prompts, offset = [], [], 0
    for batch in batches(model, fold):
        assert batch.scores is not None, "the file has scores"
        scores.append(batch.scores.numpy().astype(np.int64))
        prompts.append(batch.prompt_number.numpy() + offset)
        offset += batch.num_prompts
    return Answers(np.concatenate(prompts), np.concatenate(scores))


def scored(reward: Rewards, model: str, fold: Fold) -> Floats:
    """`[answers]` or `[answers, d]`."""
    with torch.no_grad():
        values = torch.cat([reward(batch) for batch in batches(model, fold)])
    return values.double().numpy()


def kept(file: Path, build: Callable[[], Rewards], model: str, fold: Fold) -> Floats:
    """The same, which takes minutes: from the file, or else into it."""
    if not file.exists():
        np.save(file, scored(build(), model, fold))
    values: Floats = np.load(file)
    return values


def right(margins: Floats) -> Floats:
    """`[pairs]` 1, 1/2 or 0."""
    return (np.sign(margins) + 1) / 2
