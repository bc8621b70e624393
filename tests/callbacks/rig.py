"""A policy whose logits can be looked at, data with probes, and a trainer that runs a few steps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from datamodules.contracts.batches import CompletionBatch, Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack
from datamodules.contracts.prompts import Sampling
from lightning_modules.models.policy import Policy, PolicySpec
from lightning_modules.objective_module import ObjectiveModule
from lightning_modules.token_stats import TokenStats
from tests.lightning_modules.stubs import InMemoryPairs

VOCABULARY = 11


class BigramPolicy(Policy):
    """p(next | previous, position) from a table: explicit `[K, V]` logits, kept with their gradient."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.vocab_size = VOCABULARY
        self.table = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=generator, dtype=torch.float64).to(dtype))
        self.position = nn.Parameter(torch.randn(32, VOCABULARY, generator=generator, dtype=torch.float64).to(dtype))
        self.logits: list[Tensor] = []

    def forward(self, batch: CompletionBatch) -> TokenStats:
        rows = batch.target_index
        logits = self.table[batch.input_ids[rows]] + self.position[batch.position_ids[rows]]
        if logits.requires_grad:
            logits.retain_grad()
            self.logits.append(logits)
        log_probs = logits.log_softmax(-1)
        probs = log_probs.detach().exp()
        return TokenStats(
            logps=log_probs.gather(1, batch.target_ids[:, None]).squeeze(1),
            entropy=-(probs * log_probs.detach()).sum(-1),
            sum_sq_probs=probs.square().sum(-1),
            top1_probs=probs.amax(-1),
            is_top1=probs.argmax(-1) == batch.target_ids,
            target_sequence=batch.target_sequence,
            num_sequences=batch.num_sequences,
        )

    def sample(self, prompts: Sequence[Sequence[int]], parameters: Sampling, *, eos_token_id: int, seed: int) -> list[list[int]]:
        length = min(3, parameters.max_new_tokens)
        ending = [eos_token_id] if eos_token_id >= 0 else []
        return [[int(parameters.temperature * 2) + 1] * length + ending for _ in prompts]

    def fingerprint(self) -> str:
        return hashlib.sha256(self.table.detach().numpy().tobytes()).hexdigest()

    def save(self, folder: Path) -> None:
        if folder.exists():
            raise FileExistsError(f"expected no {folder}, got one.")
        folder.mkdir(parents=True)
        torch.save(self.state_dict(), folder / "bigram.pt")


@dataclass(frozen=True)
class BigramSpec(PolicySpec):
    dtype: torch.dtype = torch.float32

    def build(self) -> BigramPolicy:
        return BigramPolicy(self.dtype)


class Letters:
    """Token n is the n-th letter."""

    eos_token_id = 0

    def decode(self, token_ids: list[int]) -> str:
        return "".join("." if token == 0 else chr(ord("a") + token - 1) for token in token_ids)


class ProbedPairs(InMemoryPairs):
    """Pairs whose first two carry probes in the bank."""

    tokenizer = Letters()

    def probe_batches(self) -> Iterator[CompletionBatch]:
        for example in self.examples[:2]:
            probes = (
                TokenizedCompletion((9, 8, 0), Role.PROBE, "other_chosen"),
                TokenizedCompletion((*example.completions[0].token_ids[::-1], 10), Role.PROBE, "permuted"),
            )
            yield pack([replace(example, completions=(*example.completions, *probes))])


def pair(prompt: Sequence[int], chosen: Sequence[int], rejected: Sequence[int]) -> Example:
    completions = (
        TokenizedCompletion(tuple(chosen), Role.CHOSEN, "chosen"),
        TokenizedCompletion(tuple(rejected), Role.REJECTED, "rejected"),
    )
    return Example(tuple(prompt), completions)


PAIRS = [
    pair([1, 2], [3, 4, 5, 0], [3, 4, 6, 5, 0]),
    pair([2], [7, 0], [8, 8, 0]),
    pair([3, 1, 4], [2, 6, 0], [2, 7, 7, 2, 0]),
    pair([5], [1, 1, 0], [9, 0]),
    pair([6, 6], [4, 3, 0], [4, 0]),
]


def supervised(pairs: Sequence[Example]) -> list[Example]:
    """The chosen sides alone."""
    return [replace(example, completions=example.completions[:1]) for example in pairs]


class Interrupted(Exception):
    pass


class InterruptAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            raise Interrupted


def fit(
    module: ObjectiveModule, callbacks: list[Callback], folder: Path, *, data: Any = None, accumulate: int = 1, **options: Any
) -> Trainer:
    """Train over the data once; by default two microbatches of the five pairs, twice."""
    data = data or ProbedPairs(PAIRS, [[0, 1, 2], [3, 4], [0, 1], [2, 3, 4]], accumulate)
    options = {"max_epochs": 1, "logger": TensorBoardLogger(folder, name="run"), **options}
    trainer = Trainer(
        accelerator="cpu",
        accumulate_grad_batches=accumulate,
        enable_checkpointing=any("Checkpoint" in type(callback).__name__ for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=callbacks,
        **{name: value for name, value in options.items() if name != "ckpt_path"},
    )
    trainer.fit(module, datamodule=data, ckpt_path=options.get("ckpt_path"))
    for logger in trainer.loggers:
        logger.finalize("success")
    return trainer


def events(trainer: Trainer) -> EventAccumulator:
    """What TensorBoard reads of the run."""
    accumulator = EventAccumulator(trainer.log_dir, size_guidance={"scalars": 0, "images": 0, "tensors": 0, "histograms": 0})
    accumulator.Reload()
    return accumulator
