"""What the policy writes, for eyes: a few fixed prompts answered again and again while it trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from callbacks.decoding import Decoder, decoder_of, prompts_and_completions, text_of
from callbacks.run_files import append_row, tensorboard_writer
from datamodules.batches import ProbeStore
from lightning_modules.models.policy import Policy, SamplingParameters

NO_END = -1
"""Stands for the end-of-sequence token of a policy that has none: no token has this id."""


class SamplingModule(Protocol):
    """What the logger needs of a module."""

    policy: Policy


class SampleLogger(Callback):
    """Writes a greedy and a sampled completion of a few prompts beside the chosen one: TensorBoard text and rows.

    The prompts are the first of the probe bank; the draws at every step use the same seed, so that what changes is the policy.
    Runs when training starts, ends, and at a cadence of its own, because generating takes longer than a step. Every rank
    generates, since a sharded policy needs them all; rank 0 writes.

    Args:
        every_n_steps: cadence in optimizer steps.
        num_prompts: prompts that are answered.
        sampling: of the sampled completion; the greedy one differs in its temperature alone.
        seed: of the draws.
    """

    def __init__(
        self,
        every_n_steps: int = 200,
        num_prompts: int = 4,
        sampling: SamplingParameters | None = None,
        seed: int = 0,
    ) -> None:
        if min(every_n_steps, num_prompts) < 1:
            raise ValueError(
                f"expected every_n_steps and num_prompts >= 1, got {every_n_steps} and {num_prompts}. "
                "Leave the callback out to switch it off."
            )
        self.every_n_steps = every_n_steps
        self.num_prompts = num_prompts
        self.sampling = sampling or SamplingParameters(max_new_tokens=128)
        self.seed = seed
        self._written_at = -1

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:
            self._write(trainer, pl_module)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        completes = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if completes and trainer.global_step % self.every_n_steps == 0:
            self._write(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._written_at != trainer.global_step:
            self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._written_at = trainer.global_step
        decoder = decoder_of(trainer)
        examples = list(islice(_examples(trainer), self.num_prompts))
        policy = cast(SamplingModule, pl_module).policy
        greedy, sampled = (
            self._answers(policy, [prompt for prompt, _ in examples], decoder, parameters)
            for parameters in (replace(self.sampling, temperature=0.0), self.sampling)
        )
        for number, (prompt, chosen) in enumerate(examples):
            texts = {"prompt": text_of(decoder, prompt), "chosen": text_of(decoder, chosen)}
            texts |= {"greedy": greedy[number], "sampled": sampled[number]}
            append_row(trainer, "samples", {"step": trainer.global_step, "example": number, **texts})
            writer = tensorboard_writer(trainer)
            if writer is not None:
                writer.add_text(f"samples/{number}", as_markdown(texts), trainer.global_step)

    def _answers(
        self, policy: Policy, prompts: list[list[int]], decoder: Decoder | None, parameters: SamplingParameters
    ) -> list[str]:
        eos = None if decoder is None else decoder.eos_token_id
        if not prompts:
            return []
        answers = policy.sample(prompts, parameters, eos_token_id=NO_END if eos is None else eos, seed=self.seed)
        return [text_of(decoder, answer) for answer in answers]


def as_markdown(texts: dict[str, str]) -> str:
    """Each text under its name, as it stands: indented, so that nothing in it is read as markup."""
    return "\n\n".join(f"**{name}**\n\n" + "\n".join(f"    {line}" for line in text.split("\n")) for name, text in texts.items())


def _examples(trainer: Trainer) -> Iterator[tuple[list[int], list[int]]]:
    """Prompts of the probe bank with their first completion, which is the chosen one."""
    store = cast("ProbeStore | None", getattr(trainer, "datamodule", None))
    for batch in store.probe_batches() if store is not None else ():
        for prompt, completions in prompts_and_completions(batch):
            yield prompt, completions[0]
