from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from torch.optim import SGD

from callbacks.answers.texts import prompts_and_completions
from callbacks.diagnostics.degradation import DegradationMonitor
from callbacks.diagnostics.dispersion import DispersionMonitor
from callbacks.diagnostics.likelihood import LikelihoodMonitor
from callbacks.diagnostics.reference_probes import KIND, ReferenceProbes
from callbacks.saving.checkpoint import RunCheckpoint
from datamodules.contracts.prompts import Sampling
from datamodules.formats.columns import PairColumns
from datamodules.preference import PreferenceDataModule
from datamodules.sft import SFTDataModule
from datamodules.sources.readers import DataSource
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.models.specs import RandomPolicy
from lightning_modules.preference import PreferenceModule
from lightning_modules.sft import SFTModule
from run_folder.rows import read_rows
from tests import tiny
from tests.callbacks.rig import InterruptAt, Interrupted, fit

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")

POLICY, OPTIMIZER = RandomPolicy(**tiny.POLICY["init_args"]), partial(SGD, lr=0.5)
SAMPLING = Sampling(max_new_tokens=5)


def data_of(
    folder: Path, kind: type[PreferenceDataModule] | type[SFTDataModule] = PreferenceDataModule
) -> PreferenceDataModule | SFTDataModule:
    return kind(
        tokenizer=str(tiny.write_tokenizer(folder / "tokenizer")),
        train=DataSource(str(tiny.write_pairs(folder / "pairs.jsonl", 12))),
        format=PairColumns(),
        val_fraction=0.0,
        batch_size=4,
        num_probe_prompts=3,
        cache_dir=str(folder / "cache"),
    )


def dpo(folder: Path) -> PreferenceModule:
    return PreferenceModule(POLICY, DPOLoss(beta=0.5), OPTIMIZER, cache_dir=str(folder / "cache"))


def drawn_in(data: PreferenceDataModule | SFTDataModule) -> list[list[int]]:
    return [
        ids
        for batch in data.probe_batches()
        for ids, kind in zip([ids for _, group in prompts_and_completions(batch) for ids in group], batch.kinds, strict=True)
        if kind == KIND
    ]


def test_samples_of_the_start_join_the_bank_and_are_followed(tmp_path: Path) -> None:
    data, probes = data_of(tmp_path), ReferenceProbes(num_samples=2, sampling=SAMPLING)
    trainer = fit(dpo(tmp_path), [LikelihoodMonitor(1, 1), DispersionMonitor(1, 1), probes], tmp_path, data=data, max_steps=2)
    folder = Path(trainer.log_dir or "")
    start, *_, end = read_rows(folder, "likelihood")
    assert start[f"likelihood/bank/{KIND}/change"] == 0
    assert end[f"likelihood/bank/{KIND}/change"] != 0
    assert f"dispersion/bank/{KIND}/index_per_token" in read_rows(folder, "dispersion")[-1]
    prompts = [prompt for batch in data.probe_batches() for prompt, _ in prompts_and_completions(batch)]
    policy = POLICY.build()
    groups = policy.generate(prompts, SAMPLING, num_samples=2, eos_token_id=2, seed=0)
    # What the policy wrote before training, and so likely as it said.
    assert drawn_in(data) == [list(sample.token_ids) for group in groups for sample in group]
    expected = torch.stack([sample.logps.sum() for group in groups for sample in group]).mean().item()
    assert start[f"likelihood/bank/{KIND}/logp"] == pytest.approx(expected, rel=1e-4)


def test_a_resumed_run_follows_the_same_samples(tmp_path: Path) -> None:
    def callbacks() -> list[Callback]:
        return [LikelihoodMonitor(1, 1), ReferenceProbes(1, SAMPLING), RunCheckpoint(1)]

    whole = fit(dpo(tmp_path), callbacks(), tmp_path, data=data_of(tmp_path), max_steps=3)
    with pytest.raises(Interrupted):
        fit(dpo(tmp_path), [*callbacks(), InterruptAt(2)], tmp_path, data=data_of(tmp_path), max_steps=3)
    checkpoint = max(tmp_path.glob("run/*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    resumed = fit(dpo(tmp_path), callbacks(), tmp_path, data=data_of(tmp_path), max_steps=3, ckpt_path=checkpoint)
    last = [read_rows(Path(run.log_dir or ""), "likelihood")[-1] for run in (whole, resumed)]
    assert last[0] == last[1]
    assert last[0]["step"] == 3


def test_what_a_prompt_has_already_is_left_out(tmp_path: Path) -> None:
    data = data_of(tmp_path)
    data.setup("fit")
    first = [group[0] for batch in data.probe_batches() for _, group in prompts_and_completions(batch)]
    data.add_probes(KIND, [[ids, ids, [5, 6], [5, 6]] for ids in first])
    assert drawn_in(data) == [[5, 6]] * 3
    data.add_probes(KIND, [[[5]]])
    with pytest.raises(ValueError, match="expected 3 groups of probes"):
        list(data.probe_batches())


def test_data_without_a_bank_is_named() -> None:
    trainer: Any = SimpleNamespace(datamodule=LightningDataModule())
    with pytest.raises(ValueError, match=r"a probe bank .*, got LightningDataModule, which has no add_probes, probe_batches"):
        ReferenceProbes().on_fit_start(trainer, SFTModule(POLICY, OPTIMIZER))


def test_supervised_runs_watch_the_rejected_side_of_the_same_prompts(tmp_path: Path) -> None:
    """One set for every objective: the banks of SFT and of DPO on the same file hold the same pairs."""
    supervised, preference = data_of(tmp_path, SFTDataModule), data_of(tmp_path)
    for data in (supervised, preference):
        data.setup("fit")
    for ours, theirs in zip(supervised.probe_batches(), preference.probe_batches(), strict=True):
        assert ours.pairs.tolist() == theirs.pairs.tolist()
        assert len(ours.pairs) == 3
        assert ours.kinds == theirs.kinds
        assert prompts_and_completions(ours)[0][1][:2] == prompts_and_completions(theirs)[0][1][:2]
    assert supervised.dataset("train").examples[0].completions[1:] == (), "it is not trained on"
    run = fit(SFTModule(POLICY, OPTIMIZER), [DegradationMonitor(1, 1)], tmp_path, data=data_of(tmp_path, SFTDataModule))
    assert "degradation/bank/quadrant/both_up" in read_rows(Path(run.log_dir or ""), "degradation")[-1]
