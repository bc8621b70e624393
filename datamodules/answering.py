"""Settings of answering a split's prompts: the draw, the number of answers, and the batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from datamodules.contracts.batches import Demand
from datamodules.contracts.prompts import PromptBatch, Sampling, TaskPrompt, demand_of_prompts
from datamodules.contracts.ranges import require_at_least


@dataclass(frozen=True)
class Answering(Sampling):
    """Sampling, greedy by default, of a whole split of prompts.

    Raises:
        ValueError: if a field is out of its range.
    """

    temperature: float = 0.0
    """0 means greedy decoding."""
    num_samples: int = 1
    """Responses to each prompt."""
    prompts_per_batch: int = 32
    """Prompts in one call of the policy."""
    seed: int = 0
    """Seed of sampling."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(1, num_samples=self.num_samples, prompts_per_batch=self.prompts_per_batch)
        require_at_least(0, seed=self.seed)

    def loader(self, prompts: Sequence[TaskPrompt], eos_token_id: int, part: tuple[int, int] = (0, 1)) -> PromptLoader:
        """The prompts in order, a batch at a time.

        Args:
            prompts: of all ranks.
            eos_token_id: the tokenizer's.
            part: rank and number of ranks. Rank r of k has batches r, r + k, ...; as many on each, so that the last may be empty.
        """
        rank, size = part
        batches = list(self._batches(prompts, eos_token_id, min(self.prompts_per_batch, -(-len(prompts) // size))))
        batches += [self._batch((), eos_token_id)] * (-len(batches) % size)
        return PromptLoader(batches[rank::size])

    def demand(self, prompts: Sequence[TaskPrompt], source: str) -> Demand:
        """What answering the prompts asks of a model."""
        return demand_of_prompts(prompts, self.max_new_tokens, source)

    def _batches(self, prompts: Sequence[TaskPrompt], eos_token_id: int, size: int) -> Iterator[PromptBatch]:
        for start in range(0, len(prompts), max(size, 1)):
            yield self._batch(prompts[start : start + size], eos_token_id)

    def _batch(self, prompts: Sequence[TaskPrompt], eos_token_id: int) -> PromptBatch:
        return PromptBatch(
            prompts=tuple(prompts),
            sampling=Sampling(self.max_new_tokens, self.temperature, self.top_p),
            num_samples=self.num_samples,
            seed=self.seed,
            eos_token_id=eos_token_id,
        )


class PromptLoader:
    """Batches of prompts, in order. Not a DataLoader, so that Lightning does not split among the ranks what is split already.

    Args:
        batches: of this rank.
    """

    def __init__(self, batches: Sequence[PromptBatch]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[PromptBatch]:
        return iter(self._batches)
