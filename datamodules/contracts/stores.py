"""Protocols that modules and callbacks may ask of a data module; `require` refuses an object that lacks one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from typing_extensions import TypeIs, get_protocol_members

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from torch import Tensor
    from torch.utils.data import DataLoader

    from datamodules.contracts.batches import CompletionBatch, StepShare
    from datamodules.contracts.prompts import PromptBatch, TaskPrompt
    from datamodules.contracts.records import Text
    from datamodules.loading.loader import SplitDataset
    from datamodules.tasks.base import Task
    from judges.base import Judge

ContractT = TypeVar("ContractT")


class Tokenizer(Protocol):
    """A tokenizer."""

    @property
    def eos_token_id(self) -> int | None:
        """Id of the token that ends a completion; None where nothing does."""

    def decode(self, token_ids: list[int]) -> str:
        """Text of the ids, special tokens included."""


class SplitStore(Protocol):
    """A data module of packed examples (one of datamodules/)."""

    max_tokens_per_batch: int

    def splits(self) -> Iterable[str]:
        """Names of the splits that are set up."""

    def dataset(self, split: str) -> SplitDataset:
        """The packed split; an error where there is no such data."""

    def packed(self, split: str, examples: Sequence[int], share: StepShare) -> CompletionBatch:
        """These examples of a split as a microbatch, with reference log-probs where they are known."""


class ReferenceStore(Protocol):
    """A data module whose completions can be scored by a reference (one of datamodules/)."""

    def data_fingerprint(self, split: str) -> str:
        """Hex digest of the tokenised content of a split: same digest, same scored positions in the same order."""

    def splits(self) -> Iterable[str]:
        """Names of the splits that are set up."""

    def planned_passes(self, split: str) -> list[tuple[int, ...]] | None:
        """The examples of the split that this run reads, in passes; None for all."""

    def scoring_dataloader(self, split: str, passes: list[tuple[int, ...]] | None = None) -> DataLoader[CompletionBatch]:
        """A packed batch for each of these passes; by default every example of the split once, in order. The same on every rank."""

    def set_reference_logps(self, split: str, token_logps: Tensor, examples: Sequence[int] | None = None) -> None:
        """Attach `[all scored positions of the examples]` float32 reference log-probs; by default of all, in order."""


class ProbeStore(Protocol):
    """A data module with a probe bank (one of datamodules/)."""

    def probe_batches(self) -> Iterator[CompletionBatch]:
        """The frozen probe bank: fixed prompts with chosen, rejected and probes; the same at every call, may be empty."""

    def add_probes(self, kind: str, groups: Sequence[Sequence[Sequence[int]]]) -> None:
        """Put further completions into the bank, as token ids, a group for each of its prompts in order."""


class TaskStore(Protocol):
    """A data module with the problems of a task (datamodules.pool, datamodules.sampling, datamodules.tasks)."""

    @property
    def task(self) -> Task | None:
        """Where the problems come from."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What makes text of ids."""

    def task_prompts(self) -> Sequence[TaskPrompt]:
        """The held-out problems, the same at every call and on every rank; may be empty."""

    @property
    def judge(self) -> Judge | None:
        """What scores responses to the problems; None if the data names none."""


class PromptStore(TaskStore, Protocol):
    """A data module that gives prompts to sample for (datamodules.pool.rollouts.RolloutDataModule)."""

    def rollout_prompts(self, number: int) -> PromptBatch:
        """Prompts of rollout `number` (0-based), with how to answer them: a pure function of the data's seed and the number."""


class SampledStore(TaskStore, Protocol):
    """A data module whose prompts are answered by `predict` (datamodules.sampling.SamplingDataModule)."""

    @property
    def task(self) -> Task:
        """Where the prompts come from."""

    def leave_out(self, prompts: Collection[Text]) -> None:
        """Skip prompts that have their responses already."""


def meets(given: object, contract: type[ContractT]) -> TypeIs[ContractT]:
    """Whether an object has every member of a contract, a protocol; their types are not looked at."""
    return not _lacks(given, contract)


def require(given: object, contract: type[ContractT]) -> ContractT:
    """The object itself, as what the contract says it is.

    Args:
        given: anything.
        contract: a protocol whose docstring says, in a line, what meets it.

    Raises:
        ValueError: if it lacks a member.
    """
    if meets(given, contract):
        return given
    got = "none" if given is None else f"{type(given).__name__}, which has no {', '.join(_lacks(given, contract))}"
    wanted = (contract.__doc__ or contract.__name__).splitlines()[0].rstrip(".")
    raise ValueError(f"expected {wanted[:1].lower()}{wanted[1:]}, got {got}.")


def data_of(trainer: Trainer) -> object:
    """The run's data module; None where it was given loaders alone."""
    return getattr(trainer, "datamodule", None)


def _lacks(given: object, contract: type) -> list[str]:
    # The class first: to ask an object for a property would compute it, as a tokenizer that is loaded when it is asked for.
    return sorted(name for name in get_protocol_members(contract) if not (hasattr(type(given), name) or hasattr(given, name)))
