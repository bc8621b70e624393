"""A pool's prompts for modules that sample while they train, with the frozen pairs that monitors read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from datamodules.contracts.batches import Demand
from datamodules.contracts.prompts import PromptBatch, Sampling, TaskPrompt, demand_of_prompts
from datamodules.contracts.ranges import require_at_least
from datamodules.contracts.records import Record, Text
from datamodules.loading.planned import require_whole_steps
from datamodules.pool.data import PoolDataModule
from datamodules.pool.schema import PoolRow
from datamodules.tasks.base import TaskItem
from datamodules.text import encode_prompts
from datamodules.tokens.encoding import EncodedRecord, PromptEncoder

_MAX_SEED = 2**62


class RolloutDataModule(PoolDataModule):
    """Every prompt of a pool, rollout after rollout; its pairs are the probe bank and the validation data, and train nothing.

    The pairs, their order and the probe bank are those of `PoolDataModule` with the same arguments, so that a run of PPO and one
    of DPO are watched on the same responses. Each pass over the prompts has an order of its own; those that do not fill a last
    rollout sit out that pass.

    Args:
        prompts_per_rollout: prompts answered between two updates of what the policy is sampled from.
        num_samples: responses to each prompt.
        max_new_tokens: tokens of a response at the most.
        prompt_source: "pool" asks the prompts of the pool; "task" asks those of the task's pool split, which need no responses yet
            and may be more.
        **pool: arguments of `PoolDataModule`.

    Raises:
        ValueError: if a count is below 1, there are fewer prompts than one rollout needs, or no task to ask for them.
    """

    # jsonargparse reads the arguments of the base class through **pool.
    def __init__(
        self,
        prompts_per_rollout: int = 32,
        num_samples: int = 4,
        max_new_tokens: int = 256,
        prompt_source: Literal["pool", "task"] = "pool",
        **pool: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**pool)
        require_at_least(1, prompts_per_rollout=prompts_per_rollout, num_samples=num_samples, max_new_tokens=max_new_tokens)
        if prompt_source == "task" and self.task is None:
            raise ValueError("expected a task to take prompts from, got none. Set data.init_args.task, or prompt_source: pool.")
        self.prompts_per_rollout = prompts_per_rollout
        self.num_samples = num_samples
        self.max_new_tokens = max_new_tokens
        self.prompt_source = prompt_source

    def rollout_prompts(self, number: int) -> PromptBatch:
        """Prompts of rollout `number` (see `PromptStore`)."""
        passes, position = divmod(number, len(self._prompts) // self.prompts_per_rollout)
        order = np.random.default_rng([self.seed, passes]).permutation(len(self._prompts))
        chosen = order[position * self.prompts_per_rollout :][: self.prompts_per_rollout].tolist()
        return PromptBatch(
            prompts=tuple(self._prompts[index] for index in chosen),
            sampling=Sampling(self.max_new_tokens),
            num_samples=self.num_samples,
            seed=int(np.random.default_rng([self.seed, number]).integers(_MAX_SEED)),
            eos_token_id=self.tokenizer.eos_token_id,
        )

    @override
    def demands(self) -> Iterator[Demand]:
        yield from super().demands()
        if self.trainer and self.trainer.training:
            yield demand_of_prompts(self._prompts, self.max_new_tokens, "prompts with their answers")

    @override
    def training_content(self) -> dict[str, str]:
        asked = repr([prompt.prompt_ids for prompt in self._prompts]).encode()
        return {"prompts": hashlib.sha256(asked).hexdigest()}

    @override
    def planned_passes(self, split: str) -> None:
        """None: steps read what is sampled, not the split."""

    @override
    def train_dataloader(self) -> StepTicks:  # type: ignore[override]
        if self.trainer and isinstance(limit := self.trainer.limit_train_batches, int):
            require_whole_steps(self.trainer, limit)
        return StepTicks()

    @cached_property
    def _prompts(self) -> list[TaskPrompt]:
        held_out = {example.prompt_ids for example in self.examples("val") or ()}
        asked = self._pool_prompts() if self.prompt_source == "pool" else self._drawn_prompts()
        kept = [prompt for prompt in asked if prompt.prompt_ids not in held_out]
        if len(kept) < self.prompts_per_rollout:
            raise ValueError(
                f"expected at least prompts_per_rollout = {self.prompts_per_rollout} prompts in the {self.prompt_source}, "
                f"got {len(kept)}."
            )
        for prompt in kept:
            self._require_room(prompt)
        return kept

    def _pool_prompts(self) -> list[TaskPrompt]:
        rows = list(self.pairs.rows.values())
        if several := sum(not isinstance(row.prompt, str) and len(row.prompt) > 1 for row in rows):
            rank_zero_warn(
                f"{several} of {len(rows)} prompts of {self.pairs.pool} are conversations of several messages. A judge reads the "
                "last message only; a reward model (ModelReward) reads all."
            )
        encoded = PromptEncoder(self.tokenizer).encode([Record(row.prompt, (), number) for number, row in enumerate(rows)])
        return [_prompt(row, record) for row, record in zip(rows, encoded, strict=True)]

    def _drawn_prompts(self) -> list[TaskPrompt]:
        assert self.task is not None, "checked by the constructor"
        return encode_prompts(list(self.task.items("pool")), self.tokenizer)

    def _require_room(self, prompt: TaskPrompt) -> None:
        room = self.text.limits.max_length
        if room - len(prompt.prompt_ids) < self.max_new_tokens:
            raise ValueError(
                f"expected room for max_new_tokens = {self.max_new_tokens} after every prompt within max_length = "
                f"{room}, got a prompt of {len(prompt.prompt_ids)} tokens: {prompt.item.prompt[:60]!r}. Raise "
                "max_length (as far as the model's positions go), lower max_new_tokens, or drop the prompt."
            )


class StepTicks:
    """An endless loader of nothing: what a step trains on is made by the module, and so is its resumption."""

    def __iter__(self) -> Iterator[int]:
        while True:
            yield 0

    def state_dict(self) -> dict[str, int]:
        """Nothing; that there is one tells Lightning that a resumed run misses no batch."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing to restore."""


def _prompt(row: PoolRow, record: EncodedRecord | Exception) -> TaskPrompt:
    if isinstance(record, Exception):
        raise ValueError(f"expected prompts that the tokenizer can encode, got {row.prompt!r}: {record}")
    return TaskPrompt(TaskItem(_plain(row.prompt), row.answer), tuple(record.prompt_ids))


def _plain(prompt: Text) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1].content
