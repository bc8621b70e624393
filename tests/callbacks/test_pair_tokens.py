from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from callbacks.mathematics.pair_tokens import NONE, TokenClass, pair_tokens, sums_by_class
from callbacks.mathematics.selection import host_lengths, sequences_by_kind, tokens_by_kind
from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.packing import pack
from tests.callbacks.rig import PAIRS, ProbedPairs, pair
from tests.lightning_modules.stubs import make_pairs

S, D, O, N = TokenClass.SHARED, TokenClass.DIVERGENT, TokenClass.OVERLAP, TokenClass.NOVEL  # noqa: E741


def classes_of(batch: CompletionBatch) -> list[list[int]]:
    return [part.tolist() for part in torch.split(pair_tokens(batch).classes, host_lengths(batch))]


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ([3, 4, 5, 0], [3, 4, 6, 5, 0], [[S, S, D, O], [S, S, D, O, O]]),
        # The divergent token keeps its class even where the other side holds it later.
        ([1, 2, 9], [2, 7, 7], [[D, O, N], [D, N, N]]),
        ([7], [8], [[D], [D]]),
        # A completion that was cut to a prefix of the other has no divergent token.
        ([5, 6], [5, 6, 5, 9], [[S, S], [S, S, D, N]]),
        ([5, 6], [5, 6], [[S, S], [S, S]]),
    ],
)
def test_classes_of_a_pair(chosen: Sequence[int], rejected: Sequence[int], expected: list[list[int]]) -> None:
    assert classes_of(pack([pair([1], chosen, rejected)])) == expected


def test_pairs_do_not_see_one_another_and_probes_have_no_class() -> None:
    bank = list(ProbedPairs(PAIRS, [[0]], 1).probe_batches())
    alone = [classes_of(pack([example])) for example in PAIRS[:2]]
    assert [classes_of(batch)[:2] for batch in bank] == alone
    assert all(set(probe) == {NONE} for batch in bank for probe in classes_of(batch)[2:])

    together = pack(PAIRS[:3])
    assert classes_of(together) == [sides for example in PAIRS[:3] for sides in classes_of(pack([example]))]
    assert pair_tokens(together).prefix_lengths.tolist() == [2, 0, 1]


def test_branches_are_the_positions_of_the_first_divergent_tokens() -> None:
    batch = pack([PAIRS[0], pair([1], [5, 6], [5, 6, 5])])
    branches = pair_tokens(batch).branches
    assert branches.tolist() == [[2, 4 + 2], [NONE, 4 + 5 + 2 + 2]]
    assert batch.target_ids[branches[0]].tolist() == [5, 6]


def test_a_large_vocabulary_does_not_mix_up_sequences() -> None:
    big = 2**31 - 1
    assert classes_of(pack([pair([1], [big, big], [1, 2]), pair([1], [3, 2], [4, big])])) == [[D, N], [D, N], [D, N], [D, N]]


def test_kinds_are_told_from_the_host_side() -> None:
    batch = next(ProbedPairs(PAIRS, [[0]], 1).probe_batches())
    assert host_lengths(batch) == batch.lengths.tolist()
    assert {kind: index.tolist() for kind, index in sequences_by_kind(batch).items()} == {
        "chosen": [0],
        "rejected": [1],
        "other_chosen": [2],
        "permuted": [3],
    }
    for kind, index in tokens_by_kind(batch).items():
        expected = [k for k, sequence in enumerate(batch.target_sequence.tolist()) if batch.kinds[sequence] == kind]
        assert index.tolist() == expected


def test_sums_by_class_are_those_of_a_loop() -> None:
    batch = pack([*make_pairs(3), *make_pairs(1)])
    tokens = pair_tokens(batch)
    assert pair_tokens(batch) is tokens, "several diagnostics ask, one comparison is made"
    values = torch.randn(2, batch.num_targets, generator=torch.Generator().manual_seed(0))
    sums, numbers = sums_by_class(tokens, values)
    for side in range(2):
        for token_class in TokenClass:
            member = (tokens.sides == side) & (tokens.classes == token_class)
            assert int(numbers[side, token_class]) == int(member.sum())
            torch.testing.assert_close(sums[side, token_class], values[:, member].double().sum(1))
    assert int(numbers.sum()) == int((tokens.sides >= 0).sum())
