"""Data loaders over step plans: a rank's batches in order, from any position on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.packing import pack
from datamodules.loading.lengths import Ints
from datamodules.loading.sampler import Microbatch, StepPlan
from datamodules.sources.store import ExampleStore

_OF_DATA = {"number of prompts", "lengths of the prompts"}
"""Parts of a plan that come from the data."""


class SplitDataset(Dataset[CompletionBatch]):
    """The examples of a split, packed on request; carries the reference log-probs once they are known.

    Args:
        examples: of the split.
    """

    def __init__(self, examples: ExampleStore) -> None:
        self.examples = examples
        self.lengths = examples.lengths()
        self.scored: Ints | None = None
        """The examples with reference log-probs, in order, where not all have them."""
        self._reference: Tensor | None = None
        self._first_target = [0, *self.lengths.targets.cumsum().tolist()]

    @property
    def num_targets(self) -> int:
        """Scored positions of the whole split."""
        return int(self._first_target[-1])

    def set_reference(self, token_logps: Tensor, examples: Sequence[int] | None = None) -> None:
        """Attach float32 reference log-probs (nats) of the scored positions of the examples, by default of all in order.

        Raises:
            ValueError: if their number is another.
        """
        counts = self.lengths.targets if examples is None else self.lengths.targets[list(examples)]
        if token_logps.shape != (counts.sum(),):
            raise ValueError(
                f"expected {counts.sum()} reference log-probs for the split, got {list(token_logps.shape)}. "
                "The cache belongs to other data: delete it and compute it again."
            )
        self.scored = None if examples is None else np.unique(np.asarray(examples, dtype=np.int64))
        self._reference = token_logps.detach().float().cpu()
        if examples is not None:
            parts = self._reference.split(counts.tolist())
            self._reference = torch.full((self.num_targets,), torch.nan)
            for index, part in zip(examples, parts, strict=True):
                self._reference[self._first_target[index] : self._first_target[index + 1]] = part

    @override
    def __getitem__(self, microbatch: Microbatch) -> CompletionBatch:
        indices = microbatch.indices
        return pack(
            [self.examples[index] for index in indices],
            share=microbatch.share,
            example_index=indices,
            reference_token_logps=self._reference_of(indices),
            step_examples=microbatch.step,
        )

    def _reference_of(self, indices: Sequence[int]) -> Tensor | None:
        if self._reference is None or (self.scored is not None and not np.isin(indices, self.scored).all()):
            return None
        return torch.cat([self._reference[self._first_target[i] : self._first_target[i + 1]] for i in indices])


class EvaluationLoader:
    """Microbatches in a fixed order, each its own step. Starts its workers when the first batch is asked for.

    Not a DataLoader, so that Lightning neither replaces its sampler nor starts workers before reference log-probs are set.

    Args:
        dataset: of the split.
        plan: index tuples of this rank's microbatches.
        num_workers: processes that pack ahead; 0 packs in this one.
    """

    def __init__(self, dataset: SplitDataset, plan: Sequence[tuple[int, ...]], num_workers: int = 0) -> None:
        self._dataset = dataset
        self._microbatches = [Microbatch(indices, dataset.lengths.share([indices])) for indices in plan]
        self._num_workers = num_workers

    def __len__(self) -> int:
        return len(self._microbatches)

    def __iter__(self) -> Iterator[CompletionBatch]:
        yield from packing_loader(self._dataset, self._microbatches, self._num_workers)


class ResumableLoader:
    """Training batches of one rank, epoch after epoch, whose position is saved and restored in the middle of an epoch.

    The position counts batches handed out, not batches packed ahead, so it is right with any number of workers. Nothing
    starts before the first batch is asked for: Lightning may call `iter` early and set the epoch afterwards.

    Iterating goes on from the position, or starts the next epoch if the last one is over.

    Args:
        dataset: of the split.
        plan: steps of the whole run over all ranks.
        rank: of this process.
        world_size: ranks; rank r takes the microbatches r, r + world_size, ... of each step.
        num_workers: processes that pack ahead; 0 packs in this one.
        accepts_changes: whether a position in other data is taken up.
    """

    def __init__(
        self,
        dataset: SplitDataset,
        plan: StepPlan,
        *,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        accepts_changes: bool = False,
    ) -> None:
        self._dataset = dataset
        self._plan = plan
        self._rank = rank
        self._world_size = world_size
        self._num_workers = num_workers
        self._accepts_changes = accepts_changes
        self._epoch = 0
        self._position = 0
        self._announced: int | None = None

    @property
    def sampler(self) -> ResumableLoader:
        """Itself: where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """The trainer is at this epoch: a number other than the last one ends an epoch that has begun, complete or not.

        The number itself counts only as long as the loader knows nothing better (Lightning 2.6 restores no loader state at the
        end of an epoch under `max_epochs`); there, under `max_steps`, Lightning counts one epoch twice.
        """
        if self._announced is None:
            self._epoch = epoch
        elif epoch != self._announced and self._position:
            self._start_next_epoch()
        self._announced = epoch

    def state_dict(self) -> dict[str, Any]:
        """Position, and the plan it is a position in."""
        return {
            "epoch": self._epoch,
            "position": self._position,
            "announced": self._announced,
            "accumulation": self._accumulation,
            "plan": self._plan.parts(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved position.

        Raises:
            ValueError: if the steps are not those that the position was saved in; how a rank cuts them may differ.
        """
        now, then = self._plan.parts(), state["plan"]
        changed = {name for name in now if then.get(name) != now[name]} - (_OF_DATA if self._accepts_changes else set())
        if changed:
            named = "; ".join(f"{name}: {then.get(name)}, now {now[name]}" for name in now if name in changed)
            raise ValueError(
                f"expected a checkpoint written with this data and order, got another one ({named}). Resume with the data, seed "
                "and batch size of the run that wrote it (without a batch size, a step is number of processes x "
                "accumulate_grad_batches microbatches: keep that product), or start a new run from its "
                "weights. Other data alone are accepted with "
                "--allow_changed_data."
            )
        then_taken, cut = state["position"], state["accumulation"]
        # Of a step that is cut otherwise, whole ones: a checkpoint is written between two of them.
        position = then_taken if cut == self._accumulation else then_taken // cut * self._accumulation
        self._epoch, self._position, self._announced = state["epoch"], min(position, len(self)), state["announced"]

    def __len__(self) -> int:
        return self._plan.steps_per_epoch * self._accumulation

    def __iter__(self) -> Iterator[CompletionBatch]:
        if self._position >= len(self):
            self._start_next_epoch()
        for batch in packing_loader(self._dataset, self._remaining(), self._num_workers):
            self._position += 1
            yield batch

    def _start_next_epoch(self) -> None:
        self._epoch, self._position = self._epoch + 1, 0

    @property
    def _accumulation(self) -> int:
        return self._plan.microbatches // self._world_size

    def _remaining(self) -> list[Microbatch]:
        steps = self._plan.steps(self._epoch)
        own = (step[self._rank :: self._world_size] for step in steps)
        return [microbatch for step in own for microbatch in _with_step(step)][self._position :]


def _with_step(microbatches: Sequence[Microbatch]) -> list[Microbatch]:
    indices = tuple(microbatch.indices for microbatch in microbatches)
    return [replace(microbatch, step=indices) for microbatch in microbatches]


def packing_loader(dataset: SplitDataset, microbatches: Sequence[Microbatch], num_workers: int = 0) -> DataLoader[CompletionBatch]:
    """A plain DataLoader over the given microbatches, in order."""
    return DataLoader(
        dataset,
        # A sampler may yield any index; batch_size None hands it to the data set as it is.
        sampler=microbatches,
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        # Its own, or starting an epoch would move the global random state, and a resumed run would differ.
        generator=torch.Generator(),
    )


def _as_it_is(batch: object) -> object:
    return batch
