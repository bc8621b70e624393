"""The paper's toy data (Sec. 3.2): four prompts, ten responses, and the four initial rows of Fig. 3.

Responses 0-3 are the chosen ones (response p for prompt p), 4-7 the rejected ones, 8 and 9 are in no pair. Every prompt starts
from the same row. Rows are whole hundredths, read off the paper's plot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from datamodules.contracts.batches import Role
from datamodules.contracts.examples import Example, TokenizedCompletion

NUM_PROMPTS = 4
NUM_RESPONSES = 10

FIXED_REJECTED = (4, 6, 7, 5)
"""Rejected response of each prompt in the paper's Fig. 1."""

Rejected = Literal["fixed", "random"]
"""`fixed`: as in Fig. 1. `random`: one of 4-7 for each prompt, drawn once for each seed."""


@dataclass(frozen=True, slots=True)
class ToyScenario:
    """Where the chosen and the rejected responses stand before preference training."""

    title: str
    """Name in words."""
    hundredths: tuple[int, ...]
    """`[NUM_RESPONSES]` initial probabilities in hundredths; they sum to 100."""

    @property
    def row(self) -> tuple[float, ...]:
        """`[NUM_RESPONSES]` initial probabilities, the same for every prompt."""
        return tuple(share / 100 for share in self.hundredths)

    @property
    def demonstrations(self) -> tuple[int, ...]:
        """`[NUM_RESPONSES]` smallest whole counts in the proportions of the row."""
        divisor = math.gcd(*self.hundredths)
        return tuple(share // divisor for share in self.hundredths)


SCENARIOS = MappingProxyType(
    {
        1: ToyScenario("both on-policy", (12,) * 8 + (3, 1)),
        2: ToyScenario("chosen off-policy, rejected on-policy", (2,) * 4 + (12,) * 4 + (40, 4)),
        3: ToyScenario("chosen on-policy, rejected off-policy", (12,) * 4 + (2,) * 4 + (40, 4)),
        4: ToyScenario("both off-policy", (2,) * 8 + (80, 4)),
    }
)


def scenario_of(number: int) -> ToyScenario:
    """The scenario with this number.

    Raises:
        ValueError: if there is none.
    """
    if number not in SCENARIOS:
        raise ValueError(f"expected scenario 1, 2, 3 or 4, got {number}. The paper's Table 4 numbers them.")
    return SCENARIOS[number]


def initial_row(scenario: object) -> tuple[float, ...]:
    """The row a toy policy starts preference training from; uniform where `scenario` is not one of the toy's.

    The command line links it to the policy. Other data modules name scenarios too; their policies do not take the value.
    """
    known = SCENARIOS.get(scenario) if isinstance(scenario, int) else None
    return known.row if known else (1 / NUM_RESPONSES,) * NUM_RESPONSES


def rejected_responses(rule: Rejected, seed: int) -> tuple[int, ...]:
    """`[NUM_PROMPTS]` rejected response of each prompt, for the replica of this seed."""
    if rule == "fixed":
        return FIXED_REJECTED
    drawn = np.random.default_rng(seed).integers(NUM_PROMPTS, 2 * NUM_PROMPTS, size=NUM_PROMPTS)
    return tuple(drawn.tolist())


def pair(number: int, prompt: int, rejected: int) -> Example:
    """Prompt `prompt` of replica `number` with its chosen and its rejected response."""
    return _example(number, prompt, [(prompt, Role.CHOSEN, "chosen"), (rejected, Role.REJECTED, "rejected")])


def demonstrations(number: int, prompt: int, scenario: ToyScenario) -> Example:
    """Prompt `prompt` of replica `number` with every response as often as the scenario's row has it.

    So the mean negative log-likelihood over the responses is the cross-entropy to the row: hard labels in the right
    proportions are soft labels.
    """
    repeated = [response for response, count in enumerate(scenario.demonstrations) for _ in range(count)]
    return _example(number, prompt, [(response, Role.CHOSEN, "chosen") for response in repeated])


def whole_row(number: int, prompt: int, rejected: tuple[int, ...]) -> Example:
    """Prompt `prompt` of replica `number` with all responses once, each labelled with its class: an exact probe.

    Classes: "chosen" and "rejected" of this prompt, "other_chosen" and "other_rejected" of the replica's other prompts,
    and "unseen", which are in no pair at all.

    Args:
        number: of the replica.
        prompt: in [0, NUM_PROMPTS).
        rejected: rejected response of each of the replica's prompts.
    """
    pair_roles = {prompt: (Role.CHOSEN, "chosen"), rejected[prompt]: (Role.REJECTED, "rejected")}
    others = dict.fromkeys(rejected, "other_rejected") | dict.fromkeys(range(NUM_PROMPTS), "other_chosen")
    classes = [pair_roles.get(response, (Role.PROBE, others.get(response, "unseen"))) for response in range(NUM_RESPONSES)]
    return _example(number, prompt, [(response, *label) for response, label in enumerate(classes)])


def _example(number: int, prompt: int, responses: list[tuple[int, Role, str]]) -> Example:
    completions = tuple(TokenizedCompletion((response,), role, kind) for response, role, kind in responses)
    # Every replica has a table of its own, so that the row number tells the prompt apart from the replica.
    return Example((number * NUM_PROMPTS + prompt,), completions, row_number=prompt)
