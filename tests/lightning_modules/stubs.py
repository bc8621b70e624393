"""A tiny real policy and an in-memory data module for the tests of the modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.contracts.batches import CompletionBatch, Role, StepShare
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack
from datamodules.loading.loader import SplitDataset
from lightning_modules.models.specs import RandomPolicy

TINY = RandomPolicy(
    config={
        "model_type": "llama",
        "vocab_size": 31,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "eos_token_id": 0,
        "bos_token_id": 0,
        "pad_token_id": 0,
    },
    seed=3,
)


def make_pairs(count: int, seed: int = 0) -> list[Example]:
    generator = torch.Generator().manual_seed(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (), generator=generator))
        return tuple(torch.randint(1, 31, (length,), generator=generator).tolist())

    return [
        Example(
            tokens(2, 6),
            (
                TokenizedCompletion(tokens(1, 7), Role.CHOSEN, "chosen"),
                TokenizedCompletion(tokens(1, 7), Role.REJECTED, "rejected"),
            ),
            row_number=row,
        )
        for row in range(count)
    ]


class InMemoryPairs(LightningDataModule):
    """Fixed microbatches, `accumulate` to a step, with the reference store a preference module asks for."""

    def __init__(self, examples: list[Example], microbatches: Sequence[Sequence[int]], accumulate: int) -> None:
        super().__init__()
        self.examples, self.microbatches, self.accumulate = examples, microbatches, accumulate
        self.reference: dict[str, Tensor] = {}

    max_tokens_per_batch = 8192

    def dataset(self, split: str) -> SplitDataset:
        raise ValueError("expected no data set of in-memory pairs to be asked for.")

    def packed(self, split: str, examples: Sequence[int], share: StepShare) -> CompletionBatch:
        return self._pack(examples, share)

    def _pack(
        self, indices: Sequence[int], share: StepShare | None = None, step: tuple[tuple[int, ...], ...] = ()
    ) -> CompletionBatch:
        chosen = [self.examples[i] for i in indices]
        reference = None
        if "train" in self.reference:
            counts = [example.num_targets for example in self.examples]
            parts = self.reference["train"].split(counts)
            reference = torch.cat([parts[i] for i in indices])
        return pack(chosen, share=share, example_index=indices, reference_token_logps=reference, step_examples=step)

    def _batches(self) -> Iterator[CompletionBatch]:
        for start in range(0, len(self.microbatches), self.accumulate):
            group = self.microbatches[start : start + self.accumulate]
            members = [self.examples[i] for microbatch in group for i in microbatch]
            share = StepShare(len(members), sum(e.num_targets for e in members), len(group))
            for microbatch in group:
                yield self._pack(microbatch, share, tuple(map(tuple, group)))

    def train_dataloader(self) -> DataLoader[CompletionBatch]:
        return DataLoader(cast("Dataset[CompletionBatch]", list(self._batches())), batch_size=None)

    def splits(self) -> list[str]:
        return ["train"]

    def data_fingerprint(self, split: str) -> str:
        return f"{split}-{hash(tuple(self.examples))}"

    def planned_passes(self, split: str) -> list[tuple[int, ...]] | None:
        return None

    def scoring_dataloader(self, split: str, passes: list[tuple[int, ...]] | None = None) -> DataLoader[CompletionBatch]:
        batches = [self._pack([i]) for i in range(len(self.examples))]
        return DataLoader(cast("Dataset[CompletionBatch]", batches), batch_size=None)

    def set_reference_logps(self, split: str, token_logps: Tensor, examples: Sequence[int] | None = None) -> None:
        self.reference[split] = token_logps

    def probe_batches(self) -> Iterator[CompletionBatch]:
        yield self._pack([0, 1])

    def add_probes(self, kind: str, groups: Sequence[Sequence[Sequence[int]]]) -> None:
        raise NotImplementedError
