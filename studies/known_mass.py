"""Measures the probability of all responses that the pool has for a prompt; the rest is the off-data mass of docs/results/alarm."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from callbacks.diagnostics.probe_bank import BankBatch, BankDiagnostic
from callbacks.readings import Values
from datamodules.contracts.batches import CompletionBatch

KNOWN = ("chosen", "rejected", "leftover")
"""Kinds of the bank's completions that were drawn from a model or stand in the data; each text once a prompt."""


def known_mass(batch: CompletionBatch, sequence_logps: Tensor) -> Tensor:
    """`[prompts]` summed probability, in [0, 1], of the known responses to each prompt.

    Args:
        batch: the bank's completions.
        sequence_logps: `[Q]` nats.
    """
    known = torch.tensor([kind in KNOWN for kind in batch.kinds], device=sequence_logps.device)
    probs = sequence_logps.detach().double().exp() * known
    return probs.new_zeros(batch.num_prompts).index_add(0, batch.prompt_number, probs)


class KnownMass(BankDiagnostic):
    """Writes `known_mass/known`, mean over the bank's prompts."""

    name = "known_mass"

    @override
    def measure_bank(self, bank: BankBatch) -> Values:
        return {"known_mass/known": known_mass(bank.batch, bank.stats.sum_by_sequence())}
