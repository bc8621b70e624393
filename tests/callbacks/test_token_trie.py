from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from callbacks.mathematics.token_trie import log_seen_mass, off_data_mass, token_trie
from datamodules.contracts.batches import CompletionBatch, Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack
from tests.callbacks.rig import BigramPolicy


def example(prompt: list[int], **completions: list[int]) -> Example:
    """Completions by kind; a kind may be numbered: `leftover_2`."""
    return Example(
        tuple(prompt),
        tuple(
            TokenizedCompletion(
                tuple(ids),
                {"chosen": Role.CHOSEN, "rejected": Role.REJECTED}.get(kind, Role.PROBE),
                kind if kind == "other_chosen" else kind.split("_")[0],
            )
            for kind, ids in completions.items()
        ),
    )


def known_and_other() -> CompletionBatch:
    return pack(
        [
            example([1], chosen=[3, 4, 0], rejected=[3, 5, 0], leftover=[6, 0], leftover_2=[3, 4, 0], other_chosen=[3, 7, 0]),
            example([1], chosen=[3, 0], rejected=[3, 0, 8]),
        ]
    )


def logps_of(batch: CompletionBatch) -> Tensor:
    with torch.no_grad():
        logps: Tensor = BigramPolicy(torch.float64)(batch).logps
    return logps


def brute_force(batch: CompletionBatch, number: int) -> list[tuple[tuple[int, ...], set[int]]]:
    """Every prefix of a known response of a prompt, with the tokens that follow it in some known response."""
    starts = [0, *batch.lengths.cumsum(0).tolist()]
    responses = [
        tuple(batch.target_ids[starts[q] : starts[q + 1]].tolist())
        for q in range(batch.num_sequences)
        if batch.prompt_number[q] == number and batch.kinds[q] in ("chosen", "rejected", "leftover")
    ]
    prefixes = dict.fromkeys(response[:t] for response in responses for t in range(len(response)))
    return [
        (prefix, {r[len(prefix)] for r in responses if len(r) > len(prefix) and r[: len(prefix)] == prefix}) for prefix in prefixes
    ]


def test_off_data_mass_is_that_of_brute_force() -> None:
    batch, policy = known_and_other(), BigramPolicy(torch.float64)
    trie = token_trie(batch)
    expected = []
    for number, (prefix, tokens) in [(n, item) for n in (0, 1) for item in brute_force(batch, n)]:
        probe = pack([example([1], **{f"leftover_{token}": [*prefix, token] for token in range(11)})])
        with torch.no_grad():
            probs = policy(probe).logps.exp().reshape(11, -1)[:, -1]
        expected.append(1 - sum(probs[token].item() for token in tokens))
        assert number in (0, 1)
    assert sorted(off_data_mass(trie, logps_of(batch)).tolist()) == pytest.approx(sorted(expected))
    assert trie.num_nodes == len(expected) == 5 + 3


def test_token_sets_by_hand() -> None:
    batch = known_and_other()
    sets = token_trie(batch).token_sets(batch.target_ids)
    assert [sorted(tokens) for tokens in sets] == [[3, 6], [4, 5], [0], [0], [0], [3], [0], [8]]


def test_probability_is_conserved() -> None:
    """1 = mass that leaves the trie somewhere + mass of the responses it ends with, prompt by prompt."""
    batch = known_and_other()
    logps, trie = logps_of(batch), token_trie(batch)
    leaving, starts = off_data_mass(trie, logps), [0, *batch.lengths.cumsum(0).tolist()]
    total, counted = torch.zeros(2, dtype=torch.float64), set()
    for sequence in range(batch.num_sequences):
        for position in range(starts[sequence], starts[sequence + 1]):
            node = int(trie.nodes[position])
            if node >= 0 and node not in counted:
                counted.add(node)
                total[batch.prompt_number[sequence]] += logps[starts[sequence] : position].sum().exp() * leaving[node]
    torch.testing.assert_close(total + log_seen_mass(trie, batch, logps).exp(), torch.ones(2, dtype=torch.float64))


def test_seen_mass_counts_a_response_once_and_the_longer_of_two_that_begin_alike() -> None:
    batch = known_and_other()
    logps = logps_of(batch)
    sequences = torch.zeros(batch.num_sequences, dtype=torch.float64).index_add(0, batch.target_sequence, logps)
    expected = [math.log(sum(math.exp(sequences[q].item()) for q in (0, 1, 2))), sequences[6].item()]
    assert log_seen_mass(token_trie(batch), batch, logps).tolist() == pytest.approx(expected)


def test_all_responses_known_leave_no_mass_outside() -> None:
    every = {f"leftover_{number}": list(ids) for number, ids in enumerate(product(range(11), repeat=2))}
    batch = pack([example([2], **every)])
    logps, trie = logps_of(batch), token_trie(batch)
    torch.testing.assert_close(off_data_mass(trie, logps), torch.zeros(12, dtype=torch.float64))
    torch.testing.assert_close(log_seen_mass(trie, batch, logps), torch.zeros(1, dtype=torch.float64))


def test_a_prompt_without_known_responses_has_no_mass() -> None:
    batch = pack([example([1], other_chosen=[3, 0]), example([1], chosen=[3, 0])])
    found = log_seen_mass(token_trie(batch), batch, logps_of(batch))
    assert found[0] == -math.inf
    assert math.isfinite(found[1])
