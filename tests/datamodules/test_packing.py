from __future__ import annotations

import pytest
import torch

from datamodules.contracts.batches import Role, StepShare
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack


def completion(
    ids: tuple[int, ...], role: Role = Role.CHOSEN, kind: str = "chosen", score: float | None = None
) -> TokenizedCompletion:
    return TokenizedCompletion(ids, role, kind, score)


PAIR = Example((10, 11, 12), (completion((20, 21)), completion((30,), Role.REJECTED, "rejected", 1.5)), row_number=7)
SINGLE = Example((13,), (completion((40, 41, 42)),), row_number=9)


def test_layout_by_hand() -> None:
    batch = pack([PAIR, SINGLE], example_index=[3, 5])
    assert batch.input_ids.tolist() == [10, 11, 12, 20, 21, 30, 13, 40, 41, 42]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 3, 0, 1, 2, 3]
    assert batch.cu_q.tolist() == [0, 3, 5, 6, 7, 10]
    assert batch.cu_k.tolist() == [0, 3, 8, 12, 13, 17]
    assert batch.key_index.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 6, 7, 8, 9]
    assert batch.target_index.tolist() == [2, 3, 2, 6, 7, 8]
    assert batch.target_ids.tolist() == [20, 21, 30, 40, 41, 42]
    assert batch.target_sequence.tolist() == [0, 0, 1, 2, 2, 2]
    assert batch.prompt_number.tolist() == [0, 0, 1]
    assert batch.roles.tolist() == [Role.CHOSEN, Role.REJECTED, Role.CHOSEN]
    assert batch.lengths.tolist() == [2, 1, 3]
    assert batch.last_row.tolist() == [4, 5, 9]
    assert batch.pairs.tolist() == [[0, 1]]
    assert batch.pair_numbers == ((0, 1),)
    assert batch.uncompared == 1
    assert batch.row_numbers.tolist() == [7, 7, 9]
    assert batch.example_index.tolist() == [3, 3, 5]
    assert batch.kinds == ("chosen", "rejected", "chosen")
    assert (batch.query_lengths, batch.key_lengths) == ((3, 2, 1, 1, 3), (3, 5, 4, 1, 4))
    assert (batch.num_prompts, batch.num_sequences, batch.num_targets, batch.num_rows) == (2, 3, 6, 10)
    assert batch.share == StepShare(prompts=2, targets=6, microbatches=1)
    assert batch.scores is not None
    torch.testing.assert_close(batch.scores, torch.tensor([torch.nan, 1.5, torch.nan]), equal_nan=True)


def test_a_pair_is_the_first_chosen_and_the_first_rejected() -> None:
    many = Example(
        (1,),
        (
            completion((2,), Role.PROBE, "leftover"),
            completion((3,), Role.REJECTED, "rejected"),
            completion((4,)),
            completion((5,), Role.REJECTED, "rejected"),
        ),
    )
    assert pack([SINGLE, many, PAIR]).pairs.tolist() == [[3, 2], [5, 6]]
    assert pack([SINGLE]).pairs.shape == (0, 2)
    assert pack([SINGLE, many]).roles.tolist() == [Role.CHOSEN, Role.PROBE, Role.REJECTED, Role.CHOSEN, Role.REJECTED]


@pytest.mark.parametrize("seed", range(5))
def test_every_completion_reads_as_one_sequence_through_its_keys(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def ids(most: int) -> tuple[int, ...]:
        return tuple(torch.randint(100, (int(torch.randint(1, most, (), generator=generator)),), generator=generator).tolist())

    examples = [
        Example(ids(6), tuple(completion(ids(5)) for _ in range(int(1 + torch.randint(3, (), generator=generator)))))
        for _ in range(9)
    ]
    batch = pack(examples)
    sequences = [(example.prompt_ids, c.token_ids) for example in examples for c in example.completions]
    completion_segments = [s for s in range(len(batch.key_lengths)) if batch.key_lengths[s] > batch.query_lengths[s]]
    for sequence, (segment, (prompt_ids, completion_ids)) in enumerate(zip(completion_segments, sequences, strict=True)):
        rows = batch.key_index[batch.cu_k[segment] : batch.cu_k[segment + 1]]
        scored = batch.target_sequence == sequence
        assert batch.input_ids[rows].tolist() == [*prompt_ids, *completion_ids]
        assert batch.position_ids[rows].tolist() == list(range(len(rows)))
        assert batch.target_ids[scored].tolist() == list(completion_ids)
        assert batch.target_index[scored].tolist() == rows[len(prompt_ids) - 1 : -1].tolist()
        assert rows[-1] == batch.last_row[sequence]


def test_reference_log_probs_are_summed_by_sequence() -> None:
    batch = pack([PAIR, SINGLE], reference_token_logps=torch.tensor([-1.0, -2.0, -4.0, -8.0, -16.0, -32.0]))
    assert batch.reference_logps is not None
    assert batch.reference_logps.tolist() == [-3.0, -4.0, -56.0]
    assert pack([PAIR]).reference_logps is None
    assert pack([SINGLE]).scores is None


def test_moving_a_batch_moves_every_tensor() -> None:
    moved = pack([PAIR]).to("meta")
    assert {moved.input_ids.device.type, moved.pairs.device.type, moved.cu_k.device.type} == {"meta"}
    assert moved.kinds == ("chosen", "rejected")


def test_packing_refuses_nothing_and_reference_log_probs_of_other_data() -> None:
    with pytest.raises(ValueError, match="at least one example to pack"):
        pack([])
    with pytest.raises(ValueError, match=r"expected 3 reference log-probs, got \[2\]"):
        pack([PAIR], reference_token_logps=torch.zeros(2))
    with pytest.raises(ValueError, match="at least one token each"):
        Example((), (completion((1,)),))
    with pytest.raises(ValueError, match="at least one token each"):
        Example((1,), (completion(()),))
