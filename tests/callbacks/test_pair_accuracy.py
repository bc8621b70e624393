"""Readings against log-probs and rewards worked out one completion at a time; resumption; what is refused."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, tensor
from torch.optim import SGD

from callbacks.diagnostics.pair_accuracy import PairAccuracy, PairSet, ordered, reward_readings
from callbacks.saving.checkpoint import RunCheckpoint
from datamodules.base import BaseDataModule
from datamodules.contracts.examples import Example
from datamodules.contracts.packing import pack
from datamodules.contracts.stores import Tokenizer
from lightning_modules.losses.base import PreferenceLoss
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.flex_dpo import FlexDPOLoss
from lightning_modules.models.policy import Policy
from lightning_modules.models.scalars.reward_model import RewardModelSpec
from lightning_modules.preference import PreferenceModule
from lightning_modules.reward import RewardModule
from lightning_modules.sft import SFTModule
from run_folder.rows import read_rows
from tests.callbacks.rig import PAIRS, BigramPolicy, BigramSpec, InterruptAt, Interrupted, Letters, fit, pair, supervised
from tests.lightning_modules.stubs import TINY, make_pairs

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")

# Of the first one the sides are the same but for one token; the second is a tie whatever the weights.
OTHERS = [pair([1], [3, 0], [4, 0]), pair([2, 2], [5, 0], [5, 0]), pair([7], [1, 2, 0], [2, 1, 1, 0])]


class Pairs(BaseDataModule):
    """Two pairs a step; those of `held_out` for validation."""

    def __init__(self, train: Sequence[Example], held_out: Sequence[Example] = (), **options: Any) -> None:
        super().__init__(batch_size=2, num_probe_prompts=0, **options)
        self._of_split = {"train": train, "val": held_out}

    @property
    def tokenizer(self) -> Tokenizer:
        return Letters()

    def examples(self, split: str) -> Sequence[Example] | None:
        return self._of_split.get(split) or None


def run(
    folder: Path, module: Any, callbacks: list[Callback], data: BaseDataModule | None = None, **options: Any
) -> list[dict[str, Any]]:
    """Rows of two epochs of two steps; the fifth pair sits out."""
    trainer = fit(module, callbacks, folder, data=data or Pairs(PAIRS), max_epochs=2, limit_val_batches=0, **options)
    return read_rows(Path(trainer.log_dir or ""), "pair_accuracy")


def dpo(folder: Path, loss: PreferenceLoss | None = None) -> PreferenceModule:
    optimizer = partial(SGD, lr=3.0)
    return PreferenceModule(BigramSpec(), loss or DPOLoss(beta=0.5), optimizer, cache_dir=str(folder / "cache"))


def log_prob(policy: Policy, example: Example, side: int) -> Tensor:
    """log pi of one completion under a bigram policy, token by token, in float64."""
    assert isinstance(policy, BigramPolicy)
    ids = [*example.prompt_ids, *example.completions[side].token_ids]
    table, position = policy.table.detach().double(), policy.position.detach().double()
    first = len(example.prompt_ids)
    return torch.stack([(table[ids[t - 1]] + position[t - 1]).log_softmax(0)[ids[t]] for t in range(first, len(ids))]).sum()


def test_a_tie_counts_half() -> None:
    assert ordered(tensor([2.0, 1.0, 0.0]), tensor([1.0, 1.0, 3.0])).tolist() == [1.0, 0.5, 0.0]
    readings = reward_readings(tensor([2.0, -1.0]), tensor([0.5, 0.0]))
    assert {name: value.tolist() for name, value in readings.items()} == {
        "accuracy": [1.0, 0.0],
        "margin": [1.5, -1.0],
        "chosen": [2.0, -1.0],
        "rejected": [0.5, 0.0],
    }


def test_implicit_rewards_are_those_of_the_loss_since_the_start(tmp_path: Path) -> None:
    module = dpo(tmp_path, FlexDPOLoss(beta_chosen=0.5, beta_rejected=0.2))
    sets = {"seen": PairSet(split="train"), "others": PairSet(Pairs(OTHERS), "train")}
    rows = run(tmp_path, module, [PairAccuracy(sets, every_n_steps=3)])
    assert [row["step"] for row in rows] == [0, 3, 4]
    assert rows[0]["pair_accuracy/seen/accuracy"] == rows[0]["pair_accuracy/others/accuracy"] == 0.5
    assert rows[0]["pair_accuracy/seen/margin"] == 0
    start = BigramSpec().build()
    for name, pairs in (("seen", PAIRS), ("others", OTHERS)):
        now = torch.stack([torch.stack([log_prob(module.policy, example, side) for side in (0, 1)]) for example in pairs])
        before = torch.stack([torch.stack([log_prob(start, example, side) for side in (0, 1)]) for example in pairs])
        chosen, rejected = ((now - before) * tensor([0.5, 0.2])).unbind(1)
        tie = 0.5 if name == "others" else 0.0
        expected = {
            "chosen": chosen.mean().item(),
            "rejected": rejected.mean().item(),
            "margin": (chosen - rejected).mean().item(),
            "accuracy": (chosen > rejected).double().mean().item(),
            "ranking": ((now[:, 0] > now[:, 1]).sum().item() + tie) / len(pairs),
        }
        assert {reading: rows[-1][f"pair_accuracy/{name}/{reading}"] for reading in expected} == pytest.approx(expected, abs=1e-5)
        assert abs(expected["margin"]) > 0.01


def test_rewards_of_a_reward_model(tmp_path: Path) -> None:
    TINY.build().save(tmp_path / "policy")
    module = RewardModule(RewardModelSpec(str(tmp_path / "policy")), partial(SGD, lr=0.5))
    pairs = make_pairs(6)
    rows = run(tmp_path, module, [PairAccuracy({"seen": PairSet(split="train")}, 2)], Pairs(pairs))
    assert [row["step"] for row in rows] == [0, 2, 4, 6]
    assert rows[0]["pair_accuracy/seen/accuracy"] == 0.5, "a new head says nothing"
    assert "pair_accuracy/seen/ranking" not in rows[-1]
    assert module.reward_model.training
    with torch.no_grad():
        rewards = torch.stack([module.reward_model.eval()(pack([example])) for example in pairs])
    margins = rewards[:, 0] - rewards[:, 1]
    expected = {
        "accuracy": (margins > 0).float().mean().item(),
        "margin": margins.mean().item(),
        "chosen": rewards[:, 0].mean().item(),
    }
    assert {reading: rows[-1][f"pair_accuracy/seen/{reading}"] for reading in expected} == pytest.approx(expected, abs=1e-5)
    assert expected["margin"] > 1e-3


def test_a_policy_without_a_preference_loss_is_ranked(tmp_path: Path) -> None:
    module = SFTModule(BigramSpec(), partial(SGD, lr=0.3))
    last = run(tmp_path, module, [PairAccuracy({"seen": PairSet(Pairs(PAIRS), "train")})], Pairs(supervised(PAIRS)))[-1]
    right = [float(log_prob(module.policy, example, 0) > log_prob(module.policy, example, 1)) for example in PAIRS]
    assert last == {"step": 4, "pair_accuracy/seen/ranking": pytest.approx(sum(right) / len(right))}


def test_watching_changes_nothing(tmp_path: Path) -> None:
    watched, alone = dpo(tmp_path), dpo(tmp_path)
    run(tmp_path / "a", watched, [PairAccuracy({"seen": PairSet(split="train")}, 1)])
    run(tmp_path / "b", alone, [])
    ours, theirs = watched.policy.state_dict(), alone.policy.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_resumed_run_counts_from_the_same_start(tmp_path: Path) -> None:
    def callbacks(pairs: Sequence[Example] = PAIRS) -> list[Callback]:
        return [PairAccuracy({"seen": PairSet(Pairs(pairs), "train")}, 3), RunCheckpoint(1)]

    whole = run(tmp_path, dpo(tmp_path), callbacks())
    with pytest.raises(Interrupted):
        run(tmp_path, dpo(tmp_path), [*callbacks(), InterruptAt(2)])
    checkpoint = max(tmp_path.glob("run/*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    assert run(tmp_path, dpo(tmp_path), callbacks(), ckpt_path=checkpoint) == whole[1:]
    with pytest.raises(ValueError, match="expected the pairs of the checkpoint in seen"):
        run(tmp_path, dpo(tmp_path), callbacks(OTHERS), ckpt_path=checkpoint)


def test_some_pairs_of_a_split_and_whose_prompts_are_trained_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sets = {"seen": PairSet(split="train", num_pairs=3), "held_out": PairSet(num_pairs=9)}
    module, data = dpo(tmp_path), Pairs(PAIRS, [OTHERS[0], pair([5], [1, 0], [2, 0])])
    with caplog.at_level(logging.INFO, "lightning.pytorch"):
        first = run(tmp_path, module, [PairAccuracy(sets)], data)[0]
    assert "seen: 3 pairs, 3 of them on prompts that are trained on." in caplog.text
    assert "held_out: 2 pairs, 1 of them on prompts that are trained on." in caplog.text
    start = BigramSpec().build()
    right = [float(log_prob(start, PAIRS[number], 0) > log_prob(start, PAIRS[number], 1)) for number in (0, 2, 4)]
    assert first["pair_accuracy/seen/ranking"] == pytest.approx(sum(right) / 3)


def test_what_is_no_set_of_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one set at least"):
        PairAccuracy({})
    with pytest.raises(ValueError, match="names without '/'"):
        PairAccuracy({"a/b": PairSet()})
    with pytest.raises(ValueError, match="expected num_pairs >= 1, got 0"):
        PairSet(num_pairs=0)
    with pytest.raises(ValueError, match="expected val data"):
        run(tmp_path, dpo(tmp_path), [PairAccuracy({"held_out": PairSet()})])
    with pytest.raises(ValueError, match="a chosen and a rejected completion for each prompt of the set chosen_alone"):
        run(tmp_path, dpo(tmp_path), [PairAccuracy({"chosen_alone": PairSet(Pairs(supervised(PAIRS)), "train")})])
