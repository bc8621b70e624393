"""Estimates the risks of a set of pairs before training: from the pairs, reference log-probs, and one pass over a few pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from callbacks.mathematics.ches import ches
from callbacks.mathematics.head_geometry import PairGeometry
from callbacks.mathematics.pair_tokens import NONE, TokenClass, pair_tokens
from datamodules.contracts.batches import SIDES, CompletionBatch, sum_by_sequence
from lightning_modules.token_stats import TokenStats

ON_POLICY = 0.5
"""Nats per token. A text whose surprise exceeds the entropy along it by less is about as likely as the model's own samples, for
which the two are equal in expectation (at 100 tokens to within about 0.2)."""


@dataclass(frozen=True)
class Risk:
    """A fact that is worth a warning beyond a threshold."""

    fact: str
    threshold: float
    words: str
    """Sentence with a place for the fact's size."""
    below: bool = False

    def holds(self, value: float) -> bool:
        """Whether the fact lies beyond the threshold."""
        return value < self.threshold if self.below else value > self.threshold


RISKS = (
    Risk(
        "identical",
        0,
        "{:.1%} of the pairs are the same on both sides (after cutting) and teach nothing: raise max_length, or drop them.",
    ),
    Risk("duplicate_pairs", 0, "{:.0f} pairs stand in the data more than once."),
    Risk(
        "longer_wins",
        0.6,
        'The rule "the longer one wins" is right for {:.0%} of the pairs: that much can be learnt from length. Watch what a '
        "policy writes (R-DPO, SimPO and IPO's per-token form take length out); a reward model has to do better than this.",
    ),
    Risk(
        "longer_wins", 0.4, 'The rule "the longer one wins" is right for {:.0%} only: a policy may learn to be brief.', below=True
    ),
    Risk(
        "overlap",
        0.8,
        "Rejected holds {:.0%} of chosen's tokens: pushing it down pushes chosen down (the paper's Corollary 3). DPOP, or a "
        "likelihood term (sft_dpo), holds chosen up.",
    ),
    Risk(
        "displaced",
        0.05,
        "A first step is expected to LOWER chosen in {:.0%} of the pairs of the bank: drop pairs of high CHES, or lower "
        "beta_rejected (flex_dpo).",
    ),
    Risk(
        "reference_gap",
        1.0,
        "Rejected is {:.2f} nats per token less likely than chosen to begin with: it lies in the model's tail, where the drop is "
        "drastic.",
    ),
    Risk(
        "reference_gap",
        -1.0,
        "Rejected is {:.2f} nats per token likelier than chosen to begin with: expect most of the margin to come from pushing it "
        "down.",
        below=True,
    ),
)
"""Thresholds are our judgement, not tuned on runs."""


def pair_facts(batch: CompletionBatch) -> dict[str, Tensor]:
    """Facts about each pair that need no model, `[pairs]` float64 each.

    Returns:
        `<side>_tokens`; `longer_wins` 1 where chosen is the longer, 0.5 where both are equally long, else 0: its mean is the
        accuracy of that rule; `identical` whether the tokens are the same (after cutting); `shared_prefix` share of chosen's tokens
        before the two part; `overlap` share of chosen's tokens that rejected holds too. With cached reference log-probs
        `reference_<side>` (nats per token), `reference_gap` chosen minus rejected, and `reference_right` whether the
        reference itself ranks the pair right.
    """
    tokens, lengths = pair_tokens(batch), batch.lengths[batch.pairs].double()
    chosen, rejected = lengths.unbind(1)
    held = (tokens.sides == 0) & ((tokens.classes == TokenClass.SHARED) | (tokens.classes == TokenClass.OVERLAP))
    facts = {
        "chosen_tokens": chosen,
        "rejected_tokens": rejected,
        "longer_wins": ((chosen - rejected).sign() + 1) / 2,
        "identical": (tokens.branches == NONE).all(1).double(),
        "shared_prefix": tokens.prefix_lengths / chosen,
        "overlap": sum_by_sequence(held.double(), batch.target_sequence, batch.num_sequences)[batch.pairs[:, 0]] / chosen,
    }
    if batch.reference_logps is not None:
        sums = batch.reference_logps.double()[batch.pairs]
        facts |= {f"reference_{side}": sums[:, number] / lengths[:, number] for number, side in enumerate(SIDES)}
        facts["reference_gap"] = facts["reference_chosen"] - facts["reference_rejected"]
        facts["reference_right"] = (sums[:, 0] > sums[:, 1]).double()
    return facts


def pair_keys(batch: CompletionBatch) -> list[tuple[int, int, int]]:
    """Hashes of every pair's prompt, chosen and rejected tokens: equal pairs have equal keys."""
    prompt, sequences = 0, []
    segments = torch.split(batch.input_ids, list(batch.query_lengths))
    for segment, query, key in zip(segments, batch.query_lengths, batch.key_lengths, strict=True):
        hashed = hash(tuple(segment.tolist()))
        # A prompt has its own keys only; a completion has its prompt's too.
        if query == key:
            prompt = hashed
        else:
            sequences.append((prompt, hashed))
    return [(*sequences[chosen], sequences[rejected][1]) for chosen, rejected in batch.pair_numbers]


def repeated(keys: Sequence[tuple[int, int, int]]) -> dict[str, int]:
    """`duplicate_pairs` that repeat an earlier one, and `repeated_prompts` whose pairs are not the same."""
    prompts = Counter(key[0] for key in set(keys))
    return {"duplicate_pairs": len(keys) - len(set(keys)), "repeated_prompts": sum(count - 1 for count in prompts.values())}


def model_facts(batch: CompletionBatch, stats: TokenStats, geometry: PairGeometry | None) -> dict[str, Tensor]:
    """Facts about each pair from the untrained policy, `[pairs]` float64 each.

    Returns:
        `surplus_<side>`: surprise minus entropy, nats per token; near 0 for text of its own, the larger the more foreign.
        `on_policy_<side>`: whether that is below 0.5. With the output layer's input `ches`, `ches_per_token` (arXiv 2410.08847).
        With its geometry `displaced`: whether a first DPO step (d_w = d_l) on this pair alone lowers its chosen likelihood there,
        by first-order prediction, and `cosine` of the two gradients.
    """
    surplus = sum_by_sequence(-stats.logps.detach() - stats.entropy, batch.target_sequence, batch.num_sequences) / batch.lengths
    facts: dict[str, Tensor] = {}
    for side, sequences in zip(SIDES, batch.pairs.unbind(1), strict=True):
        facts[f"surplus_{side}"] = surplus[sequences].double()
        facts[f"on_policy_{side}"] = (surplus[sequences] < ON_POLICY).double()
    if stats.hidden is not None:
        facts |= ches(stats.hidden, batch)
    if geometry is not None:
        one = torch.ones_like(geometry.inner)
        facts |= {"displaced": (geometry.predicted((one, one))[0] < 0).double(), "cosine": geometry.cosine.double()}
    return facts


def warnings(facts: Mapping[str, float]) -> list[str]:
    """Warnings in words, with the numbers and what to do.

    Args:
        facts: means of what the functions above give, as far as they are known.
    """
    found = [(risk, facts[risk.fact]) for risk in RISKS if risk.fact in facts]
    return [risk.words.format(abs(value)) for risk, value in found if risk.holds(value)]
