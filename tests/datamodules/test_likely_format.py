"""Rows under a format that is not theirs: the answer names the one that reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datamodules.formats.columns import PairColumns, Row, RowFormat
from datamodules.formats.likely_format import likely_format
from datamodules.formats.sharegpt import ShareGPTRows
from datamodules.sources.preparation import LengthLimits, Preparation
from datamodules.sources.readers import DataSource
from datamodules.tokens.encoding import PromptEncoder
from tests.datamodules.conftest import build_tokenizer

SHAREGPT: Row = {
    "conversations": [{"from": "human", "value": "w1"}],
    "chosen": {"from": "gpt", "value": "w2"},
    "rejected": {"from": "gpt", "value": "w3"},
}
PAIR: Row = {"prompt": "w1", "chosen": "w2", "rejected": "w3"}


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (SHAREGPT, "sharegpt"),
        ({"messages": []}, "messages"),
        ({"messages": [], "label": True}, "kto"),
        ({"instruction": "a", "input": "", "output": "b"}, "alpaca"),
        ({"prompt": "a", "completion": "b", "label": 1}, "kto"),
        ({"prompt": "a", "completion": "b"}, "completions"),
        (PAIR, "columns"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}, "hh"),
        ({"text": "a"}, ""),
    ],
)
def test_a_row_looks_like_its_format(row: Row, name: str) -> None:
    assert likely_format(row) == name


@pytest.mark.parametrize(
    ("row", "format", "hint"),
    [
        (SHAREGPT, PairColumns(), "--data.format sharegpt"),
        # As somebody does who names the column of the prompt.
        (SHAREGPT, PairColumns(prompt="conversations"), "--data.format sharegpt"),
        (PAIR, ShareGPTRows(), "--data.format columns"),
        ({"conversations": [{"from": "human"}]}, ShareGPTRows(), None),
    ],
)
def test_the_answer_names_it(tmp_path: Path, row: Row, format: RowFormat, hint: str | None) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    with pytest.raises(ValueError, match="expected a usable row") as refused:
        Preparation(DataSource(str(tmp_path / "rows.json")), format, PromptEncoder(build_tokenizer()), LengthLimits(99)).run()
    assert (hint in str(refused.value)) if hint else ("another format" not in str(refused.value))
