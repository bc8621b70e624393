"""What tells good from bad without being trained on: one value a prompt, so that two policies can be compared prompt by prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus
from transformers import PreTrainedTokenizerBase

from callbacks.diagnostics.accuracy import examine
from callbacks.diagnostics.pair_accuracy import ordered
from callbacks.mathematics.sample_statistics import logps_under, repetition, score
from callbacks.mathematics.token_trie import off_data_mass, token_trie
from datamodules.contracts.batches import CompletionBatch, Role, sum_by_sequence
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack
from datamodules.contracts.prompts import Sampling, TaskPrompt
from datamodules.contracts.stores import Tokenizer
from judges.base import Judge
from lightning_modules.models.policy import Policy
from lightning_modules.models.scalars.reward_model import RewardModel
from lightning_modules.token_stats import TokenStats

Values = dict[str, list[float]]
"""Measure -> one value a prompt (pair, passage), in an order that does not depend on the policy."""


@dataclass(frozen=True)
class Measure:
    """How a measure is read."""

    words: str
    is_better_high: bool
    decides: bool
    """Whether a recommendation may rest on it; the others are shown."""
    is_share: bool = False
    """Whether a difference is said in points."""


MEASURES = {
    "accuracy": Measure("held-out problems solved", is_better_high=True, decides=True, is_share=True),
    "judge_score": Measure("judge's score", is_better_high=True, decides=True),
    "reward_accuracy": Measure("reward accuracy, held-out pairs", is_better_high=True, decides=True, is_share=True),
    "ranking": Measure("ranking by log pi, held-out pairs", is_better_high=True, decides=True, is_share=True),
    "preference_loss": Measure("log loss of held-out pairs, nats", is_better_high=False, decides=True),
    "held_out_loss": Measure("loss of held-out answers, nats per token", is_better_high=False, decides=True),
    "repetition": Measure("repetition in samples", is_better_high=False, decides=True, is_share=True),
    "neutral_nll": Measure("log perplexity of neutral text, nats per token", is_better_high=False, decides=True),
    "off_data_mass": Measure("mass off everything known, a token", is_better_high=False, decides=True, is_share=True),
    "sampled_kl": Measure("sampled KL to the reference, nats per token", is_better_high=False, decides=False),
}
"""A distance from the reference is no harm by itself, so that the sampled KL decides nothing."""

JUDGED = ("accuracy", "judge_score")
"""Where one of these was measured it alone decides: the others stand in for it."""

SAMPLED_PROMPTS, SAMPLED_TOKENS = 64, 64
_PASSAGE = 128
"""Tokens."""


def judged(policy: Policy, problems: Sequence[TaskPrompt], judge: Judge, tokenizer: Tokenizer, max_new_tokens: int) -> Values:
    """Greedy answers to held-out problems: `accuracy` of an exact judge, else `judge_score` on the judge's scale."""
    read = examine(policy, problems, judge, tokenizer, Sampling(max_new_tokens=max_new_tokens, temperature=0.0))
    right = read.get("task/accuracy")
    if right is not None and len(right) == len(problems):
        return {"accuracy": right.double().tolist()}
    return {"judge_score": read["task/score"].double().tolist()}


def bank_mass(evaluation: Iterable[tuple[CompletionBatch, TokenStats]]) -> Values:
    """`off_data_mass` of each prompt of the probe bank: mean over the prefixes of its known responses, in [0, 1]."""
    masses: list[float] = []
    for batch, stats in evaluation:
        trie = token_trie(batch)
        inside = trie.nodes >= 0
        prompts = batch.prompt_number.new_zeros(trie.num_nodes)
        prompts[trie.nodes[inside]] = batch.prompt_number[batch.target_sequence[inside]]
        mass = off_data_mass(trie, stats.logps)
        sums = mass.new_zeros(batch.num_prompts).index_add(0, prompts, mass)
        counts = mass.new_zeros(batch.num_prompts).index_add(0, prompts, torch.ones_like(mass))
        masses += (sums / counts)[counts > 0].tolist()
    return {"off_data_mass": masses} if masses else {}


def ranked(logps: Tensor, reference: Tensor) -> Values:
    """`reward_accuracy` and `ranking` of pairs: 1 where chosen is above rejected, 1/2 for equals.

    The reward is the log-ratio log pi - log pi0, whatever the loss is, so that all are held against one yardstick.

    Args:
        logps: `[pairs, 2]` log pi of chosen and rejected, nats.
        reference: `[pairs, 2]` log pi0.
    """
    rewards = logps - reference
    return {"reward_accuracy": ordered(*rewards.unbind(1)).tolist(), "ranking": ordered(*logps.unbind(1)).tolist()}


@torch.no_grad()
def rewarded(model: RewardModel, batches: Iterable[CompletionBatch], device: torch.device) -> Values:
    """Of a reward model on pairs: `reward_accuracy`, and `preference_loss` = -log sigma(r+ - r-)."""
    found = []
    for batch in batches:
        on_device = batch.to(device)
        found.append(model(on_device).double()[on_device.pairs].cpu())
    rewards = torch.cat(found)
    margins = rewards[:, 0] - rewards[:, 1]
    return {"reward_accuracy": ordered(*rewards.unbind(1)).tolist(), "preference_loss": softplus(-margins).tolist()}


@torch.no_grad()
def answer_loss(policy: Policy, batches: Iterable[CompletionBatch], device: torch.device) -> Values:
    """`held_out_loss` of each completion: -log pi, the mean over its tokens."""
    values: list[float] = []
    for batch in batches:
        on_device = batch.to(device)
        logps = policy(on_device).logps.double()
        sums = sum_by_sequence(logps, on_device.target_sequence, on_device.num_sequences)
        counts = sum_by_sequence(torch.ones_like(logps), on_device.target_sequence, on_device.num_sequences)
        values += (-sums / counts).tolist()
    return {"held_out_loss": values}


@torch.no_grad()
def pair_logps(policy: Policy, batches: Iterable[CompletionBatch], device: torch.device) -> Tensor:
    """`[pairs, 2]` log pi of both sides, nats, float64 on the host."""
    found = []
    for batch in batches:
        on_device = batch.to(device)
        token_logps = policy(on_device).logps.double()
        sums = sum_by_sequence(token_logps, on_device.target_sequence, on_device.num_sequences)
        found.append(sums[on_device.pairs].cpu())
    return torch.cat(found)


def sampled(policy: Policy, reference: Policy, prompts: Sequence[Sequence[int]], eos_token_id: int, device: torch.device) -> Values:
    """`sampled_kl` (nats per token) and `repetition` (share of 4-grams that came before) of one sample for each prompt."""
    parameters = Sampling(max_new_tokens=SAMPLED_TOKENS)
    with policy.gathered():
        groups = policy.generate(prompts, parameters, num_samples=1, eos_token_id=eos_token_id, seed=0)
        logps = logps_under(policy, prompts, groups, device)
    scored = score(reference, prompts, groups, device, logps)
    return {
        "sampled_kl": ((scored.logps - scored.reference_logps) / scored.lengths).tolist(),
        "repetition": [repetition(ids) for ids in scored.token_ids],
    }


@torch.no_grad()
def neutral(policy: Policy, passages: Sequence[Sequence[int]], device: torch.device) -> Values:
    """`neutral_nll` of each passage, nats per token: the logarithm of its perplexity."""
    values = []
    for ids in passages:
        batch = pack([Example(tuple(ids[:1]), (TokenizedCompletion(tuple(ids[1:]), Role.SAMPLE, "sample"),))]).to(device)
        values.append(-float(policy(batch).logps.double().mean()))
    return {"neutral_nll": values}


def passages_of(text: str, tokenizer: PreTrainedTokenizerBase, longest: int) -> Iterator[list[int]]:
    """Pieces of a text, of 128 tokens or as many as the model reads; the shorter rest is left out."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    size = min(_PASSAGE, longest)
    yield from (ids[start : start + size] for start in range(0, len(ids) - size + 1, size))
