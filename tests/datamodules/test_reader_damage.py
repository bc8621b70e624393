"""What parsers cannot read is a bad row with its file and place, never their own exception."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow
import pyarrow.parquet
import pytest
from transformers import PreTrainedTokenizerFast
from typing_extensions import override

from datamodules.contracts.batches import Role
from datamodules.contracts.records import BadRowError, CompletionRecord, Record
from datamodules.formats.columns import PairColumns, Row, RowFormat
from datamodules.pool.files import read_pool
from datamodules.sources import file_rows, streams
from datamodules.sources.preparation import LengthLimits, Preparation
from datamodules.sources.readers import DataSource
from datamodules.sources.row_report import RowReport
from datamodules.sources.store import ExampleStore
from datamodules.tokens.encoding import PromptEncoder

GOOD = {"prompt": "the time", "chosen": "is now", "rejected": "was then", "s": 1.0, "t": 0.0}
SCORED = PairColumns(chosen_score="s", rejected_score="t")


def prepare(path: Path | str, tokenizer: PreTrainedTokenizerFast, format: RowFormat = SCORED) -> tuple[ExampleStore, RowReport]:
    return Preparation(DataSource(str(path)), format, PromptEncoder(tokenizer), LengthLimits(64)).run()


def line(**cells: object) -> bytes:
    return json.dumps(GOOD | cells, ensure_ascii=False).encode() + b"\n"


@pytest.mark.parametrize(
    ("bad", "fault", "words"),
    [
        (b'{"prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "malformed JSON", "a.jsonl line 2: maximum recursion"),
        (b"[" * 100_000 + b"\n", "malformed JSON", "a.jsonl line 2"),
        (line(prompt="other", s=10**400), "wrong-typed field", "expected a finite number"),
        (line(prompt="other", s=float("nan")), "wrong-typed field", "'s' is float nan"),
        (line(prompt="other", s=float("-inf")), "wrong-typed field", "'s' is float -inf"),
        (b'{"prompt":"x","chosen":"b","rejected":"c","s":1e999,"t":0}\n', "wrong-typed field", "'s' is float inf"),
        (b'{"prompt":"x","prompt":"y","chosen":"b","rejected":"c","s":1,"t":0}\n', "malformed JSON", "'prompt' stands twice"),
        (line(prompt=[[[[[[[[["x"]]]]]]]]]), "wrong-typed field", "'prompt' holds list"),
        (b'{"prompt":' + b"9" * 4000 + b"}\n", "missing field", "no 'chosen'"),
        (b'{"chosen":' + b"9" * 5000 + b"}\n", "malformed JSON", "a.jsonl line 2"),
    ],
)
def test_a_row_no_parser_takes_is_one_bad_row(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, bad: bytes, fault: str, words: str
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(line() + bad + line(prompt="the end"))
    store, report = prepare(file, tokenizer)
    assert [example.row_number for example in store] == [0, 2]
    assert {name: count.rows for name, count in report.faults.items()} == {fault: [1]}
    assert words in report.summary()
    with pytest.raises(ValueError, match="got 1 bad ones of 3"):
        report.require_clean()


def test_a_long_cell_is_a_row_and_a_stray_quote_or_byte_spoils_one_row(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(
        b"prompt,chosen,rejected\r\nx,"
        + b"w " * 75_000
        + b',y\r\nx,say "so",no\r\nx,"so" it,no\r\nx,\xff,z\r\nx,one\r\nx,last,"end\r\n'
    )
    store, report = prepare(file, tokenizer, PairColumns())
    assert [example.row_number for example in store] == [0, 1]
    assert {name: count.rows for name, count in report.faults.items()} == {
        "malformed row of a table": [2, 4, 5],
        "text with half a surrogate pair": [3],
    }
    assert "a.csv line 4: ',' expected after '\"'" in report.summary()


def test_a_table_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected,chosen\na,b,c,d\n")
    table = pyarrow.table([[1], [2]], names=["a", "a"])
    pyarrow.parquet.write_table(table, tmp_path / "b.parquet")
    errors = list(DataSource(str(tmp_path)).rows())
    assert ["stands twice" in str(error) for error in errors] == [True, True]


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_a_line_longer_than_any_row_is_passed_over_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: Callable[[bytes], bytes]
) -> None:
    file = tmp_path / f"a.jsonl.{'gz' if compress is gzip.compress else 'xz'}"
    file.write_bytes(compress(line() + line(prompt="x" * 4_000_000) + line()))
    asked: list[int] = []
    for module in (streams, file_rows):
        monkeypatch.setattr(module, "MAX_ROW_BYTES", 1000)
    opener = streams.OPENERS[file.suffix]

    class Watched:
        def __init__(self, path: Path) -> None:
            self._stream: IO[bytes] = opener(path)

        def readline(self, size: int = -1) -> bytes:
            asked.append(size)
            return self._stream.readline(size)

        def read(self, size: int = -1) -> bytes:
            asked.append(size)
            return self._stream.read(size)

        def __enter__(self) -> Watched:
            return self

        def __exit__(self, *_: object) -> None:
            self._stream.close()

    monkeypatch.setattr(streams, "OPENERS", {file.suffix: Watched})
    first, long, last = DataSource(str(file)).rows()
    assert first == last == GOOD
    assert isinstance(long, BadRowError)
    assert "a.jsonl" in long.detail
    assert "line 2 has more than 1000 bytes" in long.detail
    assert min(asked) > 0
    assert max(asked) <= 2**20


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_text_of_another_encoding_is_named_with_the_command_that_converts_it(tmp_path: Path, name: str) -> None:
    text = "prompt,chosen,rejected\na,b,c\n" if name == "a.csv" else line().decode() * 2
    (tmp_path / name).write_bytes(text.encode("utf-16"))
    (error,) = DataSource(str(tmp_path / name)).rows()
    assert isinstance(error, BadRowError)
    assert "iconv -f UTF-16" in error.detail


def test_bad_rows_of_several_files_say_which_file(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (tmp_path / "a.jsonl").write_bytes(line() + line(prompt="b"))
    (tmp_path / "b.jsonl").write_bytes(line(prompt="c") + b"{}\n")
    (tmp_path / "notes.txt").write_text("no data")
    _, report = prepare(tmp_path, tokenizer)
    assert "row 3 (b.jsonl row 1): no 'chosen'" in report.summary()
    assert "not read: notes.txt" in report.summary()


@dataclass(frozen=True)
class Fragile(RowFormat):
    score: float = 1.0

    @override
    def parse(self, row: Row, row_number: int) -> Record:
        sides = ((row["chosen"], Role.CHOSEN, self.score), (row["more"], Role.REJECTED, 0.0))
        return Record(
            str(row["prompt"]), tuple(CompletionRecord(str(text), role, "side", s) for text, role, s in sides), row_number
        )


def test_what_a_format_raises_is_a_bad_row(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (tmp_path / "a.jsonl").write_bytes(line(more="x") + line(prompt="b"))
    store, report = prepare(tmp_path / "a.jsonl", tokenizer, Fragile())
    assert len(store) == 1
    assert "row 1: KeyError: 'more'" in report.summary()
    with pytest.raises(ValueError, match="scores nan; expected a finite number"):
        prepare(tmp_path / "a.jsonl", tokenizer, Fragile(score=float("nan")))


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_a_pool_row_with_a_score_that_is_no_number_is_bad(tmp_path: Path, score: float) -> None:
    responses = [{"text": "a", "source": "policy", "score": score}, {"text": "b", "source": "policy", "score": 1.0}]
    pool = tmp_path / "pool.jsonl"
    pool.write_text(json.dumps({"prompt": "p", "responses": responses}) + "\n")
    rows, report = read_pool(pool)
    assert rows == {}
    assert "'score' is float" in report.summary()


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for name in ("~nobody_here/x", "", "a\0b", "x" * 5000 + ".jsonl"):
        with pytest.raises(ValueError, match="expected a"):
            DataSource(name).files()
