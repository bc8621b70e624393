"""Mass that moved on the bank against brute force over the whole vocabulary, in float64."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.optim import SGD

from callbacks.diagnostics.mass_gains import MassMonitor, Watched, distributions, gains, seen_tokens, watched_rows
from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.packing import pack
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.models.policy import Policy
from lightning_modules.preference import PreferenceModule
from run_folder.rows import read_rows
from tests.callbacks.rig import PAIRS, BigramSpec, ProbedPairs, fit
from tests.lightning_modules.stubs import TINY, make_pairs

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


def whole_distributions(policy: Policy, batch: CompletionBatch) -> Tensor:
    with torch.no_grad():
        hidden = policy(batch).hidden
        head = policy.output_head(batch)
        assert hidden is not None
        assert head is not None
        return head.logits(hidden, slice(None)).softmax(-1)


def test_gains_by_hand() -> None:
    # Tokens a b c and all others; a was likeliest; b is known there.
    before = torch.tensor([[0.5, 0.2, 0.1, 0.2], [0.5, 0.2, 0.1, 0.2]])
    now = torch.tensor([[0.6, 0.3, 0.05, 0.05], [0.1, 0.2, 0.3, 0.4]])
    seen = torch.tensor([[False, True, False, False]] * 2)
    found = gains(now, Watched(torch.arange(2), None, before, seen))
    expected = {"moved": [0.2, 0.4], "to_seen": [0.1, 0.0], "to_off_data": [0.1, 0.4], "to_argmax": [0.1, 0.0]}
    for name, values in expected.items():
        torch.testing.assert_close(found[name], torch.tensor(values))
    torch.testing.assert_close(found["moved"], (before - now).clamp_min(0).sum(1), msg="gains equal losses")


@pytest.mark.parametrize("num_tokens", [None, 20])
def test_distributions_sum_to_one_and_lump_what_is_not_told_apart(num_tokens: int | None) -> None:
    policy, batch = TINY.build().double(), pack(make_pairs(3))
    rows, stats, head = watched_rows(batch, 5), policy(batch), policy.output_head(batch)
    targets = batch.target_ids.unique()
    rest = torch.tensor([token for token in range(31) if token not in targets.tolist()])
    tokens = None if num_tokens is None else torch.cat([targets, rest])[:num_tokens]
    found = distributions(head, tokens, batch, stats, rows).detach()
    torch.testing.assert_close(found.sum(1), torch.ones(5, dtype=torch.float64))
    whole = whole_distributions(policy, batch)[rows]
    torch.testing.assert_close(found[:, :-1], whole if tokens is None else whole[:, tokens])


def test_seen_tokens_are_those_of_known_responses_after_the_same_prefix() -> None:
    batch = pack(PAIRS[:1])
    rows = torch.arange(batch.num_targets)
    expected = [[3], [4], [5, 6], [0], [3], [4], [5, 6], [5], [0]]
    seen = seen_tokens(batch, rows, None, 11)
    assert [row.nonzero().squeeze(1).tolist() for row in seen] == expected
    tokens = torch.tensor([0, 6, 5, 4, 3, 9])
    seen = seen_tokens(batch, rows, tokens, 11)
    assert [sorted(tokens[row[:-1]].tolist()) for row in seen] == expected
    assert not seen[:, -1].any()


def test_watched_rows_spread_over_the_pairs_alone() -> None:
    (batch,) = [batch for batch, _ in zip(ProbedPairs(PAIRS, [[0]], 1).probe_batches(), range(1), strict=False)]
    kinds = [batch.kinds[q] for q in batch.target_sequence[watched_rows(batch, 100)].tolist()]
    assert kinds == ["chosen"] * 4 + ["rejected"] * 5
    rows = watched_rows(batch, 3).tolist()
    assert len(set(rows)) == 3
    assert (rows[0], rows[-1]) == (0, 8)


def test_rows_of_a_run_are_those_of_brute_force(tmp_path: Path) -> None:
    pairs = make_pairs(5)
    module = PreferenceModule(TINY, DPOLoss(beta=0.5), partial(SGD, lr=5.0), cache_dir=str(tmp_path / "cache"))
    data = ProbedPairs(pairs, [[0, 1, 2], [3, 4], [0, 1], [2, 3, 4]], 1)
    trainer = fit(module, [MassMonitor(every_n_steps=2)], tmp_path, data=data)
    rows = read_rows(Path(trainer.log_dir or ""), "mass")
    assert [row["step"] for row in rows] == [0, 2, 4]
    assert rows[0]["mass/chosen/moved"] == 0
    assert "mass/chosen/to_seen" not in rows[0], "a share of nothing"
    moved, to_seen, gained, count = {0: 0.0, 1: 0.0}, {0: 0.0, 1: 0.0}, torch.zeros(31), {0: 0, 1: 0}
    for batch in data.probe_batches():
        change = (whole_distributions(module.policy, batch) - whole_distributions(TINY.build(), batch)).clamp_min(0)
        seen = seen_tokens(batch, torch.arange(batch.num_targets), None, 31)[:, :-1]
        for position, sequence in enumerate(batch.target_sequence.tolist()):
            if sequence in (0, 1):
                moved[sequence] += change[position].sum().item()
                to_seen[sequence] += (change[position] * seen[position]).sum().item()
                gained += change[position]
                count[sequence] += 1
    for sequence, side in enumerate(("chosen", "rejected")):
        assert rows[-1][f"mass/{side}/moved"] == pytest.approx(moved[sequence] / count[sequence], rel=1e-4)
        assert rows[-1][f"mass/{side}/to_seen"] == pytest.approx(to_seen[sequence] / moved[sequence], rel=1e-3)
        assert rows[-1][f"mass/{side}/to_seen"] + rows[-1][f"mass/{side}/to_off_data"] == pytest.approx(1)
    named = read_rows(Path(trainer.log_dir or ""), "gaining_tokens")[-1]
    assert named["gains"] == pytest.approx((gained / sum(count.values())).topk(10).values.tolist(), rel=1e-3)


def test_a_resumed_run_counts_from_the_same_start(tmp_path: Path) -> None:
    module = PreferenceModule(TINY, DPOLoss(beta=0.5), partial(SGD, lr=5.0), cache_dir=str(tmp_path / "cache"))
    data = ProbedPairs(make_pairs(5), [[0, 1, 2], [3, 4]], 1)
    monitor, resumed = MassMonitor(1), MassMonitor(1)
    trainer = fit(module, [monitor], tmp_path, data=data)
    resumed.load_state_dict(monitor.state_dict())
    (values, *_) = resumed.measure_policy(trainer, module)
    row = read_rows(Path(trainer.log_dir or ""), "mass")[-1]
    parts = [part["mass/chosen/moved"] for part in resumed.measure_policy(trainer, module)]
    moved = torch.cat([part for part in parts if isinstance(part, Tensor)])
    assert len(moved) > 0
    assert moved.mean().item() == pytest.approx(row["mass/chosen/moved"], rel=1e-5)
    assert row["mass/chosen/moved"] > 0
    assert set(values) == {
        f"mass/{s}/{n}" for s in ("chosen", "rejected") for n in ("moved", "to_seen", "to_off_data", "to_argmax", "top10")
    }


def test_policies_without_an_output_head_write_nothing(tmp_path: Path) -> None:
    module = PreferenceModule(BigramSpec(), DPOLoss(), partial(SGD, lr=0.1), cache_dir=str(tmp_path / "cache"))
    trainer = fit(module, [MassMonitor(1)], tmp_path)
    assert read_rows(Path(trainer.log_dir or ""), "mass") == []
