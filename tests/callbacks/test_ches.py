from __future__ import annotations

import torch

from callbacks.mathematics.ches import ches
from datamodules.contracts.packing import pack
from tests.lightning_modules.stubs import make_pairs


def hidden_of(count: int) -> torch.Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_equals_its_definition_pair_by_pair() -> None:
    batch = pack(make_pairs(3))
    hidden = hidden_of(batch.num_targets)
    found = ches(hidden, batch)
    starts = [0, *batch.lengths.cumsum(0).tolist()]
    for number, (chosen, rejected) in enumerate(batch.pairs.tolist()):
        plus, minus = (hidden[starts[side] : starts[side + 1]] for side in (chosen, rejected))
        value = plus.sum(0) @ minus.sum(0) - plus.sum(0) @ plus.sum(0)
        torch.testing.assert_close(found["ches"][number], value)
        value = plus.sum(0) @ minus.sum(0) / (len(plus) * len(minus)) - plus.sum(0) @ plus.sum(0) / len(plus) ** 2
        torch.testing.assert_close(found["ches_per_token"][number], value)


def test_a_pair_has_one_score_in_every_batch() -> None:
    """The published code divides by the padded width, so that a pair's score changes with its neighbours."""
    pairs = make_pairs(4)
    together, alone = pack(pairs), pack(pairs[2:3])
    hidden = hidden_of(together.num_targets)
    own = (together.target_sequence == 4) | (together.target_sequence == 5)
    for name, scores in ches(hidden, together).items():
        torch.testing.assert_close(scores[2:3], ches(hidden[own], alone)[name])


def test_equal_completions_have_no_distance() -> None:
    pair = make_pairs(1)[0]
    batch = pack([pair])
    chosen = hidden_of(int(batch.lengths[0]))
    same = batch.lengths[0] == batch.lengths[1]
    twin = torch.cat([chosen, chosen if same else chosen.mean(0).expand(int(batch.lengths[1]), -1)])
    assert abs(ches(twin, batch)["ches_per_token"].item()) < 1e-12
