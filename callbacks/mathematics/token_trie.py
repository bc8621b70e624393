"""The known responses to a prompt as a trie of tokens, and the probability outside it (docs/derivations.md 6.2).

A node is a prompt with a prefix of a known response; S its tokens, those that follow the prefix in any known response.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from callbacks.mathematics.selection import host_lengths
from datamodules.contracts.batches import CompletionBatch, sum_by_sequence

KNOWN_KINDS = frozenset({"chosen", "rejected", "leftover"})
"""Kinds of completions that the data holds as responses to the prompt; probes made for another purpose are none."""

OUTSIDE = -1
"""Node of a position that no known response has."""


@dataclass(frozen=True, eq=False)
class TokenTrie:
    """The known responses of a batch, prompt by prompt; on the batch's device."""

    nodes: Tensor
    """`[K]` int64: node whose distribution the position holds, OUTSIDE for other completions."""
    is_first: Tensor
    """`[K]` bool: whether the position is the first one with its node and its token, so that sums count a token once."""
    is_end: Tensor
    """`[Q]` bool: known responses that end where no other goes on, each counted once."""
    num_nodes: int

    def seen_mass(self, token_logps: Tensor) -> Tensor:
        """`[num_nodes]` sum over S of p, in [0, 1].

        Args:
            token_logps: `[K]` log-probs of the batch's tokens, nats.
        """
        members = self.is_first.nonzero().squeeze(1)
        mass = token_logps.new_zeros(self.num_nodes, dtype=torch.float64)
        mass.index_add_(0, self.nodes[members], token_logps.detach()[members].double().exp())
        return mass.clamp(max=1)

    def token_sets(self, token_ids: Tensor) -> list[list[int]]:
        """S of every node, as ids (waits for the device)."""
        members = self.is_first.nonzero().squeeze(1)
        sets: list[list[int]] = [[] for _ in range(self.num_nodes)]
        for node, token in zip(self.nodes[members].tolist(), token_ids[members].tolist(), strict=True):
            sets[node].append(token)
        return sets


def token_trie(batch: CompletionBatch, known: Collection[str] = KNOWN_KINDS) -> TokenTrie:
    """The trie of the batch's completions of `known` kinds (waits for the device)."""
    tokens, prompts = batch.target_ids.tolist(), batch.prompt_number.tolist()
    ends = list(accumulate(host_lengths(batch)))
    children: dict[tuple[int, int], int] = {}
    # Roots come first: node p is prompt p with nothing after it.
    num_nodes, walked = batch.num_prompts, set()
    nodes, is_first, last = [OUTSIDE] * len(tokens), [False] * len(tokens), [OUTSIDE] * batch.num_sequences
    for sequence, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        if batch.kinds[sequence] not in known:
            continue
        node = prompts[sequence]
        for position in range(start, end):
            nodes[position], edge = node, (node, tokens[position])
            is_first[position] = edge not in children
            if edge not in children:
                children[edge] = num_nodes
                num_nodes += 1
            walked.add(node)
            node = children[edge]
        last[sequence] = node
    is_end = [node != OUTSIDE and node not in walked and last.index(node) == sequence for sequence, node in enumerate(last)]
    return _compact(nodes, is_first, is_end, batch.target_ids.device)


def _compact(nodes: list[int], is_first: list[bool], is_end: list[bool], device: torch.device) -> TokenTrie:
    """Number the nodes that are somewhere scored, in order."""
    numbers = {node: number for number, node in enumerate(dict.fromkeys(node for node in nodes if node != OUTSIDE))}
    return TokenTrie(
        nodes=torch.tensor([numbers.get(node, OUTSIDE) for node in nodes], dtype=torch.int64, device=device),
        is_first=torch.tensor(is_first, dtype=torch.bool, device=device),
        is_end=torch.tensor(is_end, dtype=torch.bool, device=device),
        num_nodes=len(numbers),
    )


def off_data_mass(trie: TokenTrie, token_logps: Tensor) -> Tensor:
    """`[num_nodes]` u = 1 - sum over S of p: mass on tokens that no known response has after the same prefix, in [0, 1]."""
    return 1 - trie.seen_mass(token_logps)


def log_seen_mass(trie: TokenTrie, batch: CompletionBatch, token_logps: Tensor) -> Tensor:
    """`[prompts]` log of the probability of all known responses together, nats, <= 0; minus infinity where none is known.

    Where one response is the beginning of another (it was cut), the longer one counts.
    """
    logps = sum_by_sequence(token_logps.detach().double(), batch.target_sequence, batch.num_sequences)
    logps = logps.masked_fill(~trie.is_end, -torch.inf)
    largest = logps.new_full((batch.num_prompts,), -torch.inf).scatter_reduce(0, batch.prompt_number, logps, "amax")
    shift = largest.nan_to_num(neginf=0.0)
    total = logps.new_zeros(batch.num_prompts).index_add(0, batch.prompt_number, (logps - shift[batch.prompt_number]).exp())
    return shift + total.log()
