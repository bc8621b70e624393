"""The shipped data configs build from YAML with paths given on the command line, as LightningCLI does it in subclass mode."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from datamodules.base import BaseDataModule

CONFIGS = Path(__file__).parents[2] / "configs" / "data"
DIALOGUE = "\n\nHuman: {}\n\nAssistant: "
HH_ROWS = [{"chosen": DIALOGUE.format(i) + "yes", "rejected": DIALOGUE.format(i) + "no"} for i in range(50)]
TEXT_ROWS = [{"prompt": str(i % 25), "chosen": f"yes {i}", "rejected": "no", "annotator": "x"} for i in range(50)]


def build(*arguments: str) -> BaseDataModule:
    parser = ArgumentParser()
    parser.add_subclass_arguments(BaseDataModule, "data")
    built: BaseDataModule = parser.instantiate(parser.parse_args(list(arguments))).data
    return built


@pytest.mark.parametrize(("config", "rows"), [("hh_harmless", HH_ROWS), ("alpaca_eval", TEXT_ROWS)])
def test_config_with_a_file_of_the_users(config: str, rows: list[dict[str, str]], tmp_path: Path, tokenizer_folder: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = build(
        f"--data={CONFIGS / config}.yaml",
        f"--data.init_args.train.path={file}",
        f"--data.init_args.tokenizer={tokenizer_folder}",
        f"--data.init_args.cache_dir={tmp_path / 'cache'}",
        f"--data.init_args.test.path={file}",
    )
    data.setup("fit")
    data.setup("test")
    assert len(data.dataset("train").examples) + len(data.dataset("val").examples) == 50
    assert len(data.dataset("test").examples) == 50
    batch = next(iter(data.train_dataloader()))
    assert batch.num_prompts == 32
    first = batch.input_ids[: batch.query_lengths[0]].tolist()
    assert data.tokenizer.decode(first).startswith("<|user|>")
    assert data.tokenizer.decode(first).endswith("<|assistant|>")


def test_supervised_data_from_the_command_line(tmp_path: Path, tokenizer_folder: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in TEXT_ROWS))
    data = build(
        "--data=datamodules.sft.SFTDataModule",
        f"--data.tokenizer={tokenizer_folder}",
        f"--data.train.path={file}",
        "--data.format=datamodules.formats.columns.PromptCompletionColumns",
        "--data.format.completion=chosen",
        f"--data.cache_dir={tmp_path / 'cache'}",
        "--data.batch_size=null",
        "--data.max_tokens_per_batch=64",
    )
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert set(batch.kinds) == {"chosen"}
    assert batch.num_rows <= 64


def test_a_misspelt_column_option_is_named_at_parse_time(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build(f"--data={CONFIGS / 'alpaca_eval.yaml'}", "--data.init_args.format.init_args.chosn=x")
    assert "chosn" in capsys.readouterr().err


def sources(part: object) -> Iterator[dict[str, object]]:
    """Every mapping of a config that says where rows are."""
    if isinstance(part, dict):
        if isinstance(part.get("path"), str):
            yield part
        part = list(part.values())
    for item in part if isinstance(part, list) else ():
        yield from sources(item)


def test_hub_data_sets_stand_at_a_commit() -> None:
    found = [source for file in CONFIGS.glob("*.yaml") for source in sources(yaml.safe_load(file.read_text(encoding="utf-8")))]
    hub = [source for source in found if not str(source["path"]).startswith(("data/", "assets/", "runs/"))]
    assert {str(source["path"]).count("/") for source in hub} == {1}
    assert len(hub) >= 5
    wrong = [source["path"] for source in hub if not re.fullmatch("[0-9a-f]{40}", str(source.get("revision")))]
    assert wrong == []
