"""Prompts to draw responses for, which `python train.py predict` turns into a response pool."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property

from typing_extensions import override

from datamodules.answering import Answering, PromptLoader
from datamodules.contracts.batches import Demand
from datamodules.contracts.examples import Example
from datamodules.contracts.prompts import TaskPrompt
from datamodules.contracts.records import Text
from datamodules.tasks.base import Task
from datamodules.tasks.data import TaskDataModule
from datamodules.text import encode_prompts


class SamplingDataModule(TaskDataModule):
    """The "pool" problems of a task, a batch at a time.

    A response depends on the seed, its prompt and its number, and on no other prompt of its batch: a run that goes on after it
    was killed draws what it would have drawn.

    Args:
        task: where the problems come from.
        tokenizer: folder, hub name, or `.gguf` file; null takes the policy's, which the command line fills in.
        num_samples: responses to each prompt.
        temperature: of the draw; 0 means greedy decoding.
        top_p: nucleus, in (0, 1].
        max_new_tokens: tokens of a response at the most.
        prompts_per_batch: prompts in one call of the policy.
        seed: of the draw.
        test_decoding: how `test` draws responses to the "test" problems; greedy by default.
        trust_remote_code: run the Python files that come with the tokenizer, with all your rights: read them first.
    """

    task: Task

    def __init__(
        self,
        task: Task,
        tokenizer: str | None,
        num_samples: int = 8,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_new_tokens: int = 256,
        prompts_per_batch: int = 32,
        seed: int = 0,
        test_decoding: Answering | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(
            tokenizer, task, seed=seed, num_probe_prompts=0, test_decoding=test_decoding, trust_remote_code=trust_remote_code
        )
        self._answering = Answering(max_new_tokens, temperature, top_p, num_samples, prompts_per_batch, seed)
        self._answered: frozenset[Text] = frozenset()

    @override
    def examples(self, split: str) -> Sequence[Example] | None:
        return None

    def leave_out(self, prompts: Collection[Text]) -> None:
        """Skip prompts that have their responses already; call it before the first batch is asked for."""
        self._answered = frozenset(prompts)
        if self.trainer and all(item.text in self._answered for item in self.task.items("pool")):
            # An empty loader would do too, but Lightning warns of it.
            self.trainer.limit_predict_batches = 0

    @override
    def predict_dataloader(self) -> PromptLoader:  # type: ignore[override]
        missing = [prompt for prompt in self._prompts if prompt.item.text not in self._answered]
        return self._answering.loader(missing, self.tokenizer.eos_token_id, self.step_part)

    @override
    def demands(self) -> Iterator[Demand]:
        yield from super().demands()
        if self.trainer and self.trainer.predicting and self._prompts:
            yield self._answering.demand(self._prompts, "prompts with their answers")

    @cached_property
    def _prompts(self) -> list[TaskPrompt]:
        return encode_prompts(list(self.task.items("pool")), self.tokenizer)
