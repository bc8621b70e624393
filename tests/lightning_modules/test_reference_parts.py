"""A short run on many rows scores what its steps read, keeps it while it goes on, and takes the same steps as after scoring all."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor
from torch.optim import SGD

from callbacks.output.data_doctor import DataDoctor
from datamodules.base import BaseDataModule
from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.examples import Example
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.specs import RandomPolicy
from lightning_modules.preference import PreferenceModule
from lightning_modules.references.log_probs import ReferenceScorer
from lightning_modules.token_stats import TokenStats
from tests.lightning_modules.stubs import TINY, make_pairs

ROWS = 60


class ManyRows(BaseDataModule):
    """Sixty pairs to train on and twelve to validate on; four to a step."""

    tokenizer = None  # type: ignore[assignment]

    def __init__(self, **options: Any) -> None:
        super().__init__(batch_size=4, max_tokens_per_batch=64, num_probe_prompts=0, **options)

    def examples(self, split: str) -> list[Example] | None:
        pairs = make_pairs(ROWS + 12)
        return {"train": pairs[:ROWS], "val": pairs[ROWS:]}.get(split)


class Interrupted(Exception):
    pass


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Row numbers in the order in which a frozen policy read them."""
    rows: list[int] = []
    forward = CausalLMPolicy.forward

    def counted(policy: CausalLMPolicy, batch: CompletionBatch) -> TokenStats:
        if not torch.is_grad_enabled() and not next(policy.parameters()).requires_grad:
            rows.extend(dict.fromkeys(batch.row_numbers.tolist()))
        return forward(policy, batch)

    monkeypatch.setattr(CausalLMPolicy, "forward", counted)
    return rows


def module(folder: Path) -> PreferenceModule:
    return PreferenceModule(RandomPolicy(**vars(TINY)), DPOLoss(), partial(SGD, lr=0.5), cache_dir=str(folder / "cache"))


def trainer(folder: Path, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {"limit_val_batches": 0, "num_sanity_val_steps": 0} | options
    quiet: dict[str, Any] = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
    }
    return Trainer(accelerator="cpu", devices=1, default_root_dir=folder, **quiet, **defaults)


def fit(folder: Path, data: ManyRows | None = None, **options: Any) -> PreferenceModule:
    trained = module(folder)
    trainer(folder, **options).fit(trained, data or ManyRows())
    return trained


def weights(trained: PreferenceModule) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trained.policy.parameters()])


def attach(folder: Path, **options: Any) -> ManyRows:
    """Score without training."""
    data = ManyRows()
    data.trainer = trainer(folder, **options)
    data.setup("fit")
    ReferenceScorer(TINY, folder / "cache").attach(data, device=torch.device("cpu"), precision=Precision())
    return data


def references(data: ManyRows) -> dict[int, list[float]]:
    """Reference log-probs of the rows that have them."""
    dataset = data.dataset("train")
    known = range(ROWS) if dataset.scored is None else dataset.scored.tolist()
    return {row: dataset._reference_of([row]).tolist() for row in known}  # type: ignore[union-attr]


def step_rows(steps: int) -> Iterator[int]:
    data = ManyRows()
    data.setup("fit")
    for step in data.step_plan().steps(0)[:steps]:
        for microbatch in step:
            yield from microbatch.indices


def test_a_short_run_scores_what_it_reads_and_takes_the_same_steps(
    tmp_path: Path, scored: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = weights(fit(tmp_path / "short", max_steps=3))
    assert sorted(scored) == sorted(step_rows(3))
    scored.clear()
    monkeypatch.setattr(ManyRows, "planned_passes", lambda data, split: None)
    whole = weights(fit(tmp_path / "whole", max_steps=3))
    assert len(scored) == ROWS + 12
    torch.testing.assert_close(short, whole, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"max_steps": 0}, 0),
        ({"max_steps": 7}, 28),
        ({"max_steps": 8}, ROWS),  # more than half
        ({"max_steps": 15}, ROWS),
        ({"max_steps": -1, "max_epochs": 1}, ROWS),
        ({"max_steps": 100, "max_epochs": 1, "limit_train_batches": 3}, 12),
        ({"max_steps": 4, "limit_train_batches": 3}, ROWS),  # into a second epoch, which holds other rows
        ({"max_steps": 4, "accumulate_grad_batches": 2, "limit_train_batches": 8}, 16),
        ({"max_steps": 4, "accumulate_grad_batches": 2, "limit_train_batches": 0.2}, 12),
    ],
)
def test_what_the_steps_of_a_run_read(tmp_path: Path, options: dict[str, Any], count: int) -> None:
    if options.get("limit_train_batches") == 0.2:
        options = options | {"max_steps": 3}
    data = attach(tmp_path, **options)
    assert len(references(data)) == count
    assert set(references(data)) >= set(step_rows(min(options["max_steps"], 3)))


def test_validation_is_scored_as_far_as_it_goes(tmp_path: Path) -> None:
    data = attach(tmp_path, max_steps=2, limit_val_batches=1)
    (first, *others) = data.val_dataloader()
    assert first.reference_token_logps is not None
    assert others
    assert all(batch.reference_token_logps is None for batch in others)


@pytest.mark.parametrize(("steps", "number"), [(6, 24), (100, ROWS)])
def test_a_killed_scoring_goes_on(
    tmp_path: Path, scored: list[int], monkeypatch: pytest.MonkeyPatch, steps: int, number: int
) -> None:
    uninterrupted = references(attach(tmp_path / "a", max_steps=steps))
    assert len(scored) == number
    scored.clear()
    monkeypatch.setattr("lightning_modules.references.scored_parts._SECONDS_BETWEEN", -1.0)  # every pass is written at once
    with monkeypatch.context() as patch:
        forward, passes = CausalLMPolicy.forward, list[int]()

        def dying(policy: CausalLMPolicy, batch: CompletionBatch) -> TokenStats:
            passes.append(1)
            if len(passes) == 4:
                raise Interrupted
            return forward(policy, batch)

        patch.setattr(CausalLMPolicy, "forward", dying)
        with pytest.raises(Interrupted):
            attach(tmp_path / "b", max_steps=steps)
    assert 0 < len(scored) < number
    assert references(attach(tmp_path / "b", max_steps=steps)) == uninterrupted
    assert len(scored) == number, "none twice"


def test_a_longer_run_finds_what_a_shorter_one_scored(tmp_path: Path, scored: list[int]) -> None:
    first = references(attach(tmp_path, max_steps=6))
    scored.clear()
    assert references(attach(tmp_path, max_steps=4)).items() <= first.items()
    assert scored == []
    assert references(attach(tmp_path, max_steps=7)).items() >= first.items()
    assert len(scored) == 4
    # The whole split is one file, and the parts are gone.
    attach(tmp_path, max_steps=100)
    assert [path.suffix for path in (tmp_path / "cache" / "reference").iterdir()] == [".safetensors"]


def test_a_damaged_part_is_named_and_scored_anew(tmp_path: Path) -> None:
    right = references(attach(tmp_path, max_steps=3))
    (part,) = tmp_path.rglob("*.parts/*.safetensors")
    part.write_bytes(part.read_bytes()[:-8] + bytes(8))
    with pytest.warns(UserWarning, match=f"{part.name} are damaged"):
        assert references(attach(tmp_path, max_steps=3)) == right


def test_pairs_without_a_reference_are_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ManyRows, "planned_passes", lambda data, split: [(0, 1)] if split == "train" else None)
    with pytest.raises(ValueError, match="the run reads other pairs"):
        fit(tmp_path, max_steps=1)


def test_the_data_doctor_reads_all_pairs_and_the_references_there_are(tmp_path: Path) -> None:
    data = attach(tmp_path, max_steps=3)
    facts = DataDoctor()._pair_facts(data.dataset("train"))
    assert facts["pairs"] == ROWS
    sums = [values for _, values in sorted(references(data).items())]
    chosen = [data.dataset("train").examples[row].completions[0].token_ids for row in sorted(references(data))]
    per_token = [sum(values[: len(ids)]) / len(ids) for values, ids in zip(sums, chosen, strict=True)]
    assert facts["reference_chosen"] == pytest.approx(sum(per_token) / 12)
