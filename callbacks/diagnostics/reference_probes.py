"""Draws probes from the policy before training: likely responses that are in no pair."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from callbacks.answers.samples import NO_END
from callbacks.answers.texts import decoder_of, prompts_and_completions
from datamodules.contracts.prompts import Sampling
from datamodules.contracts.ranges import require_at_least
from datamodules.contracts.stores import ProbeStore, data_of, require
from lightning_modules.contracts import HasPolicy
from lightning_modules.models.policy import Policy

KIND = "reference_sample"
"""Kind of these probes."""


class ReferenceProbes(Callback):
    """Samples responses to the bank's prompts once, before the first step, and watches them (docs/derivations.md 6.5).

    They are what dispersion moves mass to if it stays in distribution: unlike permuted text they were likely at the start. Kept in
    the checkpoint. Every rank draws, since a sharded policy needs them all.

    Args:
        num_samples: of each prompt of the bank; one that is among its completions already is left out.
        sampling: how they are drawn.
        seed: of the draws.
    """

    def __init__(self, num_samples: int = 2, sampling: Sampling | None = None, seed: int = 0) -> None:
        if num_samples < 1:
            raise ValueError(f"expected num_samples >= 1, got {num_samples}. Leave the callback out to switch it off.")
        require_at_least(0, seed=seed)
        self.num_samples = num_samples
        self.sampling = sampling or Sampling(max_new_tokens=128)
        self.seed = seed
        self._drawn: list[list[list[int]]] | None = None

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A sharded policy gets a checkpoint's weights later than this, any other sooner, but then together with what was drawn.
        store = require(data_of(trainer), ProbeStore)
        prompts = [prompt for batch in store.probe_batches() for prompt, _ in prompts_and_completions(batch)]
        if prompts and self._drawn is None:
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                self._drawn = self._draw(require(pl_module, HasPolicy).policy, prompts, _end(trainer))
        if prompts and self._drawn is not None:
            store.add_probes(KIND, self._drawn)

    def _draw(self, policy: Policy, prompts: list[list[int]], eos: int) -> list[list[list[int]]]:
        groups = policy.generate(prompts, self.sampling, num_samples=self.num_samples, eos_token_id=eos, seed=self.seed)
        return [[list(sample.token_ids) for sample in group] for group in groups]

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self._drawn}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._drawn = state_dict["drawn"]


def _end(trainer: Trainer) -> int:
    decoder = decoder_of(trainer)
    return NO_END if decoder is None or decoder.eos_token_id is None else decoder.eos_token_id
