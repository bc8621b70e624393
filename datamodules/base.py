"""The base of all data modules: splits, step plans, loaders, reference log-probs and the probe bank."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from datamodules.contracts.batches import CompletionBatch, Demand, StepShare, demand_of
from datamodules.contracts.examples import Example
from datamodules.contracts.partition import greedy_runs
from datamodules.contracts.ranges import require_at_least
from datamodules.contracts.stores import Tokenizer
from datamodules.loading.loader import EvaluationLoader, ResumableLoader, SplitDataset, packing_loader
from datamodules.loading.planned import Passes, planned_passes, require_whole_steps, validated_passes
from datamodules.loading.sampler import Microbatch, StepPlan, evaluation_plan
from datamodules.loading.step_plans import FixedSizePlan, TokenBudgetPlan
from datamodules.probes import probe_examples, with_more_probes
from datamodules.sources.store import ExampleStore

_SPLITS_OF_STAGE = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}


class BaseDataModule(LightningDataModule, ABC):
    """Packed batches of prompts and completions, with the same optimizer steps on one rank and on many.

    A subclass says what the examples of a split are (`examples`) and how text is made of ids (`tokenizer`). It is a
    SplitStore, a ReferenceStore and a ProbeStore (datamodules.contracts.stores). `use_distributed_sampler` of the trainer has no
    effect: every rank takes its own microbatches of a common plan.

    Args:
        batch_size: prompts per optimizer step over all ranks and accumulation steps; null fills every microbatch to
            `max_tokens_per_batch` instead, a step being world size x accumulate_grad_batches microbatches.
        max_tokens_per_batch: tokens in one forward pass at the most, prompts counted once.
        num_workers: processes that pack ahead; 0 packs in the training process.
        seed: of the order of the data and of the probe bank.
        num_probe_prompts: prompts in the frozen probe bank; 0 for none.

    Raises:
        ValueError: if a number is out of its range.
    """

    holds_rejected = False  # whether a training example has a rejected completion, which supervised training would learn too
    allow_changed_data = False  # whether a checkpoint of a run on other data is resumed

    def __init__(
        self,
        batch_size: int | None = 32,
        max_tokens_per_batch: int = 8192,
        num_workers: int = 0,
        seed: int = 0,
        num_probe_prompts: int = 16,
    ) -> None:
        super().__init__()
        require_at_least(1, batch_size=batch_size, max_tokens_per_batch=max_tokens_per_batch)
        require_at_least(0, num_workers=num_workers, seed=seed, num_probe_prompts=num_probe_prompts)
        self.batch_size = batch_size
        self.max_tokens_per_batch = max_tokens_per_batch
        self.num_workers = num_workers
        self.seed = seed
        self.num_probe_prompts = num_probe_prompts
        self._datasets: dict[str, SplitDataset] = {}
        self._fingerprints: dict[str, str] = {}
        self._probes: list[CompletionBatch] | None = None
        self._further_probes: dict[str, Sequence[Sequence[Sequence[int]]]] = {}

    @property
    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """What turned text into token ids, and turns them back."""

    @abstractmethod
    def examples(self, split: str) -> Sequence[Example] | None:
        """Examples of "train", "val", "test" or "predict", the same at every call and on every rank; None if there are none."""

    @override
    def setup(self, stage: str) -> None:
        if self.trainer and self.trainer.overfit_batches:  # type: ignore[attr-defined]
            raise ValueError(
                f"expected overfit_batches: 0, got {self.trainer.overfit_batches}: steps are planned over all the data. To "  # type: ignore[attr-defined]
                "overfit, read a slice of it (`limit` of a file's data, or a split such as train[:32])."
            )
        for split in _SPLITS_OF_STAGE[stage]:
            if split not in self._datasets and (examples := self.examples(split)) is not None:
                self._datasets[split] = self.split_dataset(ExampleStore.of(examples))
        if stage == "fit" and "val" not in self._datasets and self.trainer:
            # An empty loader would do too, but Lightning warns of it.
            self.trainer.limit_val_batches = 0

    def split_dataset(self, examples: ExampleStore) -> SplitDataset:
        """A split that packs its microbatches; a subclass may know a quicker way."""
        return SplitDataset(examples)

    @override
    def train_dataloader(self) -> ResumableLoader:
        plan = self.step_plan()
        self._log_left_out(plan)
        rank, world_size = self.step_part
        part = {"rank": rank, "world_size": world_size, "num_workers": self.num_workers}
        loader = ResumableLoader(self.dataset("train"), plan, **part, accepts_changes=self.allow_changed_data)
        if self.trainer is not None:
            require_whole_steps(self.trainer, len(loader))
        return loader

    @override
    def val_dataloader(self) -> EvaluationLoader:
        return self._evaluation_loader("val")

    @override
    def test_dataloader(self) -> EvaluationLoader:
        return self._evaluation_loader("test")

    @override
    def predict_dataloader(self) -> EvaluationLoader:
        return self._evaluation_loader("predict")

    @property
    def step_part(self) -> tuple[int, int]:
        """The part of every step that this process takes, from 0, and the number of parts."""
        return self._rank, self._world_size

    def dataset(self, split: str) -> SplitDataset:
        """The packed split.

        Raises:
            ValueError: if it is not set up, or there is no such data.
        """
        if split not in self._datasets:
            raise ValueError(f"expected {split} data, got only {sorted(self._datasets)}. Give a source for it in the config.")
        return self._datasets[split]

    def step_plan(self) -> StepPlan:
        """The optimizer steps of the whole run, for the trainer's number of ranks and accumulation steps."""
        lengths, microbatches = self.dataset("train").lengths, self._world_size * self._accumulation
        options = {"microbatches": microbatches, "max_tokens": self.max_tokens_per_batch, "seed": self.seed}
        if self.batch_size is None:
            return TokenBudgetPlan(lengths, **options)
        return FixedSizePlan(lengths, batch_size=self.batch_size, world_size=self._world_size, **options)

    def demands(self) -> Iterator[Demand]:
        """What the data that is set up asks of a model: every split, and the probe bank."""
        for split, dataset in self._datasets.items():
            yield dataset.examples.demand(f"{split} data")
        if self._datasets:
            yield from (demand_of(batch, "probe bank") for batch in self.probe_batches())

    def data_fingerprint(self, split: str) -> str:
        """Hex digest of the tokenised content of a split."""
        if split not in self._fingerprints:
            self._fingerprints[split] = self.dataset(split).examples.fingerprint()
        return self._fingerprints[split]

    def training_content(self) -> dict[str, str]:
        """`{what: hex digest}` of what a run trains on, and a resumed one has to."""
        return {"training data": self.dataset("train").examples.content()}

    def splits(self) -> Iterable[str]:
        """Names of the splits that are set up."""
        return tuple(self._datasets)

    def planned_passes(self, split: str) -> Passes | None:
        """The examples that this run reads, in passes; None for the whole split, or most of it."""
        if self.trainer is None or self.allow_changed_data or split not in ("train", "val"):
            return None
        if split == "train":
            return planned_passes(self.trainer, self.step_plan())
        return validated_passes(self.trainer, self.dataset(split).lengths.rows, self.max_tokens_per_batch)

    def scoring_dataloader(self, split: str, passes: Passes | None = None) -> DataLoader[CompletionBatch]:
        """The examples of these passes; every example of the split once, in order, by default. The same on every rank."""
        dataset = self.dataset(split)
        plan = evaluation_plan(dataset.lengths.rows, max_tokens=self.max_tokens_per_batch) if passes is None else passes
        microbatches = [Microbatch(indices, dataset.lengths.share([indices])) for indices in plan]
        return packing_loader(dataset, microbatches, self.num_workers)

    def packed(self, split: str, examples: Sequence[int], share: StepShare) -> CompletionBatch:
        """These examples of a split as a microbatch (see `SplitStore`)."""
        return self.dataset(split)[Microbatch(tuple(examples), share)]

    def set_reference_logps(self, split: str, token_logps: Tensor, examples: Sequence[int] | None = None) -> None:
        """Attach `[scored positions]` reference log-probs (nats) of the examples, by default of all; batches then carry them."""
        self.dataset(split).set_reference(token_logps, examples)

    def probe_batches(self) -> Iterator[CompletionBatch]:
        """The probe bank, packed to the token budget; the same at every call."""
        if self._probes is None:
            self._probes = list(self._packed_probes())
        yield from self._probes

    def probe_bank(self) -> Sequence[Example]:
        """Fixed training examples (of the split at hand where none train), then probes outside the pair.

        Subclasses add kinds of probes.
        """
        if not self.num_probe_prompts:
            return []
        examples = self.bank_source("train" if "train" in self._datasets else next(iter(self._datasets), "train"))
        number = min(self.num_probe_prompts, len(examples))
        indices = np.sort(np.random.default_rng([self.seed, len(examples)]).choice(len(examples), number, replace=False))
        return probe_examples(examples, indices.tolist(), self.seed)

    def bank_source(self, split: str) -> Sequence[Example]:
        """The examples of a split that the probe bank is drawn from."""
        return self.dataset(split).examples

    def add_probes(self, kind: str, groups: Sequence[Sequence[Sequence[int]]]) -> None:
        """Put further completions into the probe bank, as token ids, a group for each of its prompts in order."""
        self._further_probes[kind], self._probes = groups, None

    def _packed_probes(self) -> Iterator[CompletionBatch]:
        bank = self.probe_bank()
        for kind, groups in self._further_probes.items():
            bank = with_more_probes(bank, kind, groups)
        if len(bank):
            dataset = SplitDataset(ExampleStore.of(bank))
            for first, last in greedy_runs(dataset.lengths.rows.tolist(), self.max_tokens_per_batch):
                indices = tuple(range(first, last))
                yield dataset[Microbatch(indices, dataset.lengths.share([indices]))]

    def _evaluation_loader(self, split: str) -> EvaluationLoader:
        dataset = self.dataset(split)
        plan = evaluation_plan(dataset.lengths.rows, max_tokens=self.max_tokens_per_batch, world_size=self._world_size)
        return EvaluationLoader(dataset, plan[self._rank :: self._world_size], self.num_workers)

    def _log_left_out(self, plan: StepPlan) -> None:
        left_out = plan.num_left_out()
        if left_out:
            rank_zero_info(
                f"Each epoch leaves out {left_out} of {len(plan.lengths.rows)} training prompts, because they do not fill a step; "
                "which ones changes from epoch to epoch."
            )

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _accumulation(self) -> int:
        return self.trainer.accumulate_grad_batches if self.trainer else 1
