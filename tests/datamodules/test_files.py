from __future__ import annotations

import gzip
import json
import logging
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from datamodules.contracts.batches import CompletionBatch, Role
from datamodules.contracts.stores import ReferenceStore
from datamodules.formats.columns import PairColumns, PromptCompletionColumns
from datamodules.preference import PreferenceDataModule
from datamodules.sft import SFTDataModule
from datamodules.sources.readers import DataSource
from datamodules.sources.token_cache import TokenCache

# 60 rows on 20 prompts.
ROWS = [{"prompt": f"prompt {i % 20}", "chosen": f"good {i}", "rejected": f"bad {i}" * (1 + i % 3)} for i in range(60)]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def make(tmp_path: Path, tokenizer_folder: Path) -> Callable[..., PreferenceDataModule]:
    """PreferenceDataModule with the tokenizer and a cache of the test's own."""

    class Made(PreferenceDataModule):
        def __init__(self, train: Path, **options: Any) -> None:
            super().__init__(
                str(tokenizer_folder), DataSource(str(train)), PairColumns(), cache_dir=str(tmp_path / "cache"), **options
            )

    return Made


class Counter(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[int]] = {"val": [], "test": []}

    def training_step(self, batch: CompletionBatch, batch_idx: int) -> Tensor:
        return self.weight * batch.num_prompts

    def validation_step(self, batch: CompletionBatch, batch_idx: int) -> None:
        self.seen["val"] += batch.row_numbers.unique().tolist()

    def test_step(self, batch: CompletionBatch, batch_idx: int) -> None:
        self.seen["test"] += batch.row_numbers.unique().tolist()

    def predict_step(self, batch: CompletionBatch, batch_idx: int) -> list[int]:
        rows: list[int] = batch.row_numbers.unique().tolist()
        return rows

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def make_trainer(folder: Path, logger: CSVLogger | bool = False) -> Trainer:
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=logger,
        max_steps=2,
        limit_val_batches=1.0,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_twins_in_other_containers_give_equal_examples(make: Callable[..., PreferenceDataModule], tmp_path: Path) -> None:
    plain = write(tmp_path / "a.jsonl", ROWS)
    files = [plain, tmp_path / "a.jsonl.gz", tmp_path / "a.jsonl.xz", tmp_path / "a.parquet"]
    files[1].write_bytes(gzip.compress(plain.read_bytes()))
    files[2].write_bytes(lzma.compress(plain.read_bytes()))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), files[3])
    modules = [make(file) for file in files]
    for module in modules:
        module.setup("fit")
    assert len({module.data_fingerprint("train") for module in modules}) == 1
    assert list(modules[3].dataset("train").examples) == list(modules[0].dataset("train").examples)


def test_the_split_is_by_prompt_seeded_and_whole(make: Callable[..., PreferenceDataModule], tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", ROWS)
    modules = [make(file, val_fraction=0.2, seed=seed) for seed in (0, 0, 1)]
    for module in modules:
        module.setup("fit")
    train, val = (list(modules[0].dataset(split).examples) for split in ("train", "val"))
    assert not {e.prompt_ids for e in train} & {e.prompt_ids for e in val}
    assert sorted(e.row_number for e in train + val) == list(range(60))
    assert len(val) == 12
    assert modules[0].data_fingerprint("val") == modules[1].data_fingerprint("val") != modules[2].data_fingerprint("val")


def test_one_prompt_cannot_be_split(make: Callable[..., PreferenceDataModule], tmp_path: Path) -> None:
    module = make(write(tmp_path / "a.jsonl", [{**row, "prompt": "p"} for row in ROWS]))
    with pytest.raises(ValueError, match="two different prompts"):
        module.setup("fit")


def test_prompts_shared_with_a_validation_file_are_counted(
    make: Callable[..., PreferenceDataModule], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    val = write(tmp_path / "val.jsonl", [{**ROWS[0], "chosen": "other"}, {**ROWS[1], "prompt": "new"}])
    module = make(write(tmp_path / "a.jsonl", ROWS), val=DataSource(str(val)))
    with caplog.at_level(logging.INFO):
        module.setup("fit")
    assert "1 of 2 validation rows have a prompt that is trained on" in caplog.text
    assert len(module.dataset("train").examples) == 60


def test_bad_rows_stop_or_are_left_out_also_from_the_cache(make: Callable[..., PreferenceDataModule], tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [*ROWS, {"prompt": "p", "chosen": "x", "rejected": "x"}])
    for _ in range(2):
        with pytest.raises(ValueError, match="chosen equals rejected"):
            make(file).prepare_data()
    module = make(file, on_bad_row="skip", val_fraction=0.0)
    module.setup("fit")
    assert len(module.dataset("train").examples) == 60


def test_text_is_tokenised_once_until_something_changes(
    make: Callable[..., PreferenceDataModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[object] = []
    write_entry = TokenCache._write

    def counted(*args: Any) -> None:
        prepared.append(args)
        write_entry(*args)

    monkeypatch.setattr(TokenCache, "_write", counted)
    file = write(tmp_path / "a.jsonl", ROWS)
    for options in ({}, {}, {"seed": 3, "batch_size": 4}, {"max_length": 20}, {"max_length": 20, "max_prompt_length": 4}):
        make(file, **options).setup("fit")
    assert len(prepared) == 3
    write(file, ROWS[1:])
    make(file).setup("fit")
    assert len(prepared) == 4


def test_fit_validate_test_and_predict_see_their_rows_once(make: Callable[..., PreferenceDataModule], tmp_path: Path) -> None:
    test = write(tmp_path / "test.jsonl", ROWS[:7])
    data = make(write(tmp_path / "a.jsonl", ROWS), test=DataSource(str(test)), batch_size=4, max_tokens_per_batch=128)
    model, trainer = Counter(), make_trainer(tmp_path)
    trainer.fit(model, data)
    trainer.validate(model, data, verbose=False)
    held_out = [example.row_number for example in data.dataset("val").examples]
    assert model.seen["val"] == held_out * (len(model.seen["val"]) // len(held_out))
    trainer.test(model, data, verbose=False)
    predicted = trainer.predict(model, data)
    assert predicted is not None
    assert model.seen["test"] == [row for rows in predicted for row in rows] == list(range(7))


def test_fit_without_validation_data(make: Callable[..., PreferenceDataModule], tmp_path: Path) -> None:
    model = Counter()
    data = make(write(tmp_path / "a.jsonl", ROWS), val_fraction=0.0, batch_size=4)
    make_trainer(tmp_path).fit(model, data)
    assert list(data.splits()) == ["train"]
    assert not model.seen["val"]


def test_test_without_test_data_names_the_remedy(make: Callable[..., PreferenceDataModule], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected test data, got only \[\]"):
        make_trainer(tmp_path).test(Counter(), make(write(tmp_path / "a.jsonl", ROWS)), verbose=False)


def test_the_report_is_logged_once_and_lies_in_the_run_folder(
    make: Callable[..., PreferenceDataModule], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = make(write(tmp_path / "a.jsonl", [*ROWS, ROWS[0]]), on_bad_row="skip", batch_size=4)
    with caplog.at_level(logging.INFO):
        make_trainer(tmp_path, CSVLogger(tmp_path / "runs", "x")).fit(Counter(), data)
    report = json.loads((tmp_path / "runs" / "x" / "version_0" / "data_train.json").read_text())
    assert report["faults"]["duplicate row"]["rows"] == [60]
    assert caplog.text.count("60 of 61 rows kept, 1 bad") == 1


def test_scoring_and_reference_log_probs_round_trip(make: Callable[..., PreferenceDataModule], tmp_path: Path) -> None:
    data: ReferenceStore = make(write(tmp_path / "a.jsonl", ROWS), batch_size=8, max_tokens_per_batch=400)
    data.setup("fit")  # type: ignore[attr-defined]
    for split in data.splits():
        targets = torch.cat([batch.target_ids for batch in data.scoring_dataloader(split)])
        data.set_reference_logps(split, -targets.float())
    for batch in (*data.train_dataloader(), *data.val_dataloader()):  # type: ignore[attr-defined]
        assert torch.equal(batch.reference_token_logps, -batch.target_ids.float())


def test_the_probe_bank_is_frozen_and_outside_the_pair(make: Callable[..., PreferenceDataModule], tmp_path: Path) -> None:
    data = make(write(tmp_path / "a.jsonl", ROWS), num_probe_prompts=6, max_tokens_per_batch=128)
    data.setup("fit")
    batches = list(data.probe_batches())
    assert sum(batch.num_prompts for batch in batches) == 6
    assert len(batches) > 1
    again = make(tmp_path / "a.jsonl", num_probe_prompts=6, max_tokens_per_batch=128)
    again.setup("fit")
    for batch, twin in zip(batches, again.probe_batches(), strict=True):
        assert torch.equal(batch.input_ids, twin.input_ids)
        assert batch.kinds == ("chosen", "rejected", "other_chosen", "permuted") * batch.num_prompts
        assert batch.roles.tolist() == [Role.CHOSEN, Role.REJECTED, Role.PROBE, Role.PROBE] * batch.num_prompts
        sequences = [tuple(ids.tolist()) for ids in batch.target_ids.split(batch.lengths.tolist())]
        for first in range(0, batch.num_sequences, 4):
            chosen, rejected, other, permuted = sequences[first : first + 4]
            assert len({chosen, rejected, other, permuted}) == 4
            assert sorted(chosen) == sorted(permuted)
            assert chosen[-1] == permuted[-1]
    assert not list(make(tmp_path / "a.jsonl", num_probe_prompts=0).probe_batches())


def test_supervised_data_keeps_the_chosen_side(tmp_path: Path, tokenizer_folder: Path) -> None:
    completions = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in ROWS]
    sources = [
        (write(tmp_path / "pairs.jsonl", ROWS), PairColumns()),
        (write(tmp_path / "completions.jsonl", completions), PromptCompletionColumns()),
    ]
    modules = [
        SFTDataModule(str(tokenizer_folder), DataSource(str(path)), format, cache_dir=str(tmp_path / "cache"))
        for path, format in sources
    ]
    for module in modules:
        module.setup("fit")
    batch = next(iter(modules[0].train_dataloader()))
    assert set(batch.kinds) == {"chosen"}
    assert set(batch.roles.tolist()) == {Role.CHOSEN}
    assert list(modules[0].dataset("train").examples) == list(modules[1].dataset("train").examples)


def test_limit_draws_rows_of_the_whole_file_by_the_seed(tmp_path: Path, make: Callable[..., PreferenceDataModule]) -> None:
    file = write(tmp_path / "a.jsonl", ROWS)
    drawn = []
    for seed in (0, 0, 1):
        module = make(file, val_fraction=0.0, limit=12, seed=seed)
        module.setup("fit")
        drawn.append([example.row_number for example in module.dataset("train").examples])
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 12
    assert max(drawn[0]) > 30, "not just the head of the file"
    with pytest.raises(ValueError, match=r"expected limit >= 1, got 0"):
        make(file, limit=0)
