"""The label of SmolLM2's runs: how well neutral text is predicted, and whether samples degenerate."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from callbacks.base import PolicyDiagnostic
from callbacks.mathematics.sample_statistics import repetition
from callbacks.readings import Values
from datamodules.contracts.batches import Role, sum_by_sequence
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack
from datamodules.contracts.prompts import Sampling
from datamodules.contracts.stores import require
from lightning_modules.contracts import HasPolicy
from run_folder.files import append_row
from studies.verdict.outcome import END_ROWS, OUTCOME_ROWS

PROMPT_TOKENS = 8
"""Of a text: what is given of it before it is to be predicted, and before it is gone on with."""


class NeutralText(PolicyDiagnostic):
    """Likelihood of texts that nobody trains on and nobody prefers, and samples that go on from their beginnings.

    Rows `outcome`: `neutral/nll` (nats per token of each text) and `neutral/repetition` (share of 4-grams of each sample that it
    had before); rows `ended` when the run is whole.

    Args:
        texts: JSONL with the column `question`.
        num_texts: the first so many.
        num_samples: beginnings that are gone on with.
        every_n_steps: cadence in optimizer steps; also before the first step and after the last.
        max_length: tokens of a text.
        max_new_tokens: tokens of a sample.
    """

    name = "neutral"

    def __init__(
        self,
        texts: str,
        num_texts: int = 24,
        num_samples: int = 12,
        every_n_steps: int = 5,
        max_length: int = 48,
        max_new_tokens: int = 40,
    ) -> None:
        super().__init__(every_n_steps)
        self._texts, self._num_texts, self._num_samples, self._max_length = Path(texts), num_texts, num_samples, max_length
        self._sampling = Sampling(max_new_tokens=max_new_tokens, temperature=1.0)

    @override
    def measure_policy(self, trainer: Trainer, pl_module: LightningModule) -> list[Values]:
        policy, tokenizer = require(pl_module, HasPolicy).policy, trainer.datamodule.tokenizer  # type: ignore[attr-defined]
        ids = [tokenizer(text)["input_ids"][: self._max_length] for text in self._read()]
        beginnings, rest = [list(text[:PROMPT_TOKENS]) for text in ids], [tuple(text[PROMPT_TOKENS:]) for text in ids]
        texts = [
            Example(tuple(start), (TokenizedCompletion(end, Role.SAMPLE, "neutral"),))
            for start, end in zip(beginnings, rest, strict=True)
        ]
        batch = pack(texts).to(pl_module.device)
        with torch.no_grad():
            nll = -sum_by_sequence(policy(batch).logps, batch.target_sequence, batch.num_sequences) / batch.lengths
        drawn = policy.sample(beginnings[: self._num_samples], self._sampling, eos_token_id=tokenizer.eos_token_id, seed=0)
        repeated = torch.tensor([repetition(sample) for sample in drawn])
        values = {"neutral/nll": nll, "neutral/repetition": repeated}
        append_row(trainer, OUTCOME_ROWS, {"step": trainer.global_step, **{name: value.tolist() for name, value in values.items()}})
        return [values]

    def _read(self) -> list[str]:
        lines = self._texts.read_text(encoding="utf-8").splitlines()[: self._num_texts]
        return [json.loads(line)["question"] for line in lines]

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        append_row(trainer, END_ROWS, {"step": trainer.global_step})
