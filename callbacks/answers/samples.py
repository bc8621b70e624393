"""Answers a few fixed prompts again and again while the policy trains, for people to read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.answers.texts import decoder_of, prompts_and_completions, text_of
from callbacks.mathematics.sample_statistics import Groups, Prompts, divergence, floor_of, logps_under, score, shape
from callbacks.schedule import Schedule, Scheduled
from datamodules.contracts.prompts import Sampling
from datamodules.contracts.ranges import require_at_least
from datamodules.contracts.stores import ProbeStore, Tokenizer, data_of, require
from lightning_modules.contracts import HasPolicy
from lightning_modules.models.policy import Policy
from run_folder.files import append_row
from run_folder.shown import show_text

NO_END = -1
"""Stands for the end-of-sequence token of a policy that has none: no token has this id."""


FLOOR_FACTOR = 4
"""A percentile takes more samples than a mean."""

ON_POLICY_ROWS = "on_policy"
"""Name of the rows that hold what the samples measure."""


class SampleLogger(Scheduled):
    """Writes a greedy and a sampled completion of a few prompts beside the chosen one: TensorBoard text and rows.

    Of all that is sampled it measures the distance to the reference, repetition, variety and length (`on_policy/...`, see
    docs/metrics.md); for as long as that takes there is a second copy of the weights.

    The prompts are the first of the probe bank; the draws at every step use the same seed, so that what changes is the policy.
    Runs when training starts, ends, and at a cadence of its own, because generating takes longer than a step. Every rank
    generates, since a sharded policy needs them all; rank 0 writes.

    Args:
        every_n_steps: cadence in optimizer steps.
        num_prompts: prompts that are answered.
        sampling: of the sampled completion; the greedy one differs in its temperature alone.
        seed: of the draws.
        num_samples: sampled completions of each prompt; the first one is written out.
        against_reference: whether samples are scored by the reference, and at the start its own drawn, four times as many, for
            the percentile below which a sample is not one of its own. Without it nothing is measured.
    """

    def __init__(
        self,
        every_n_steps: int = 200,
        num_prompts: int = 4,
        sampling: Sampling | None = None,
        seed: int = 0,
        num_samples: int = 4,
        against_reference: bool = True,
    ) -> None:
        require_at_least(1, num_prompts=num_prompts, num_samples=num_samples)
        require_at_least(0, seed=seed)
        self.schedule = Schedule(every_n_steps)
        self.num_prompts = num_prompts
        self.sampling = sampling or Sampling(max_new_tokens=128)
        self.seed = seed
        self.num_samples = num_samples
        self.against_reference = against_reference
        self._floor: float | None = None

    @override
    def act(self, trainer: Trainer, pl_module: LightningModule) -> None:
        decoder, module = decoder_of(trainer), require(pl_module, HasPolicy)
        examples = list(islice(_examples(trainer), self.num_prompts))
        if not examples:
            return
        prompts = [prompt for prompt, _ in examples]
        eos = _end_of(decoder)
        with module.policy.gathered(), trainer.precision_plugin.forward_context():
            greedy = module.policy.sample(prompts, replace(self.sampling, temperature=0.0), eos_token_id=eos, seed=self.seed)
            groups = self._draw(module.policy, prompts, self.num_samples, decoder)
            logps = logps_under(module.policy, prompts, groups, pl_module.device) if self.against_reference else None
        for number, (prompt, chosen) in enumerate(examples):
            ids = {"prompt": prompt, "chosen": chosen, "greedy": greedy[number], "sampled": groups[number][0].token_ids}
            self._write_texts(trainer, number, {name: text_of(decoder, tokens) for name, tokens in ids.items()})
        # The others have nothing to add: what the reference scores is the same on every rank, and the reference is whole.
        if self.against_reference and trainer.is_global_zero:
            self._measure(trainer, module, prompts, groups, logps)

    def _write_texts(self, trainer: Trainer, number: int, texts: dict[str, str]) -> None:
        append_row(trainer, "samples", {"step": trainer.global_step, "example": number, **texts})
        show_text(trainer, f"samples/{number}", as_markdown(texts), trainer.global_step)

    def _draw(self, policy: Policy, prompts: Prompts, number: int, decoder: Tokenizer | None) -> Groups:
        return policy.generate(prompts, self.sampling, num_samples=number, eos_token_id=_end_of(decoder), seed=self.seed)

    def _measure(self, trainer: Trainer, module: HasPolicy, prompts: Prompts, groups: Groups, logps: Tensor | None) -> None:
        reference, device = module.reference_policy(), module.device
        with trainer.precision_plugin.forward_context():
            if self._floor is None:
                own = self._draw(reference.to(device), prompts, FLOOR_FACTOR * self.num_samples, decoder_of(trainer))
                self._floor = floor_of(score(reference, prompts, own, device))
            samples = score(reference, prompts, groups, device, logps)
        values = shape(samples, self._floor)
        if self.sampling.temperature == 1 and self.sampling.top_p == 1:
            values |= divergence(samples)
        named = {f"on_policy/{name}": value for name, value in values.items()}
        for logger in trainer.loggers:
            logger.log_metrics(named, step=trainer.global_step)
        append_row(trainer, ON_POLICY_ROWS, {"step": trainer.global_step, **named})

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"floor": self._floor}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._floor = state_dict.get("floor")


def _end_of(decoder: Tokenizer | None) -> int:
    eos = None if decoder is None else decoder.eos_token_id
    return NO_END if eos is None else eos


def as_markdown(texts: dict[str, str]) -> str:
    """Each text under its name, as it stands: indented, so that nothing in it is read as markup."""
    return "\n\n".join(f"**{name}**\n\n" + "\n".join(f"    {line}" for line in text.split("\n")) for name, text in texts.items())


def _examples(trainer: Trainer) -> Iterator[tuple[list[int], list[int]]]:
    """Prompts of the probe bank with their first completion, which is the chosen one."""
    store = data_of(trainer)
    for batch in () if store is None else require(store, ProbeStore).probe_batches():
        for prompt, completions in prompts_and_completions(batch):
            yield prompt, completions[0]
