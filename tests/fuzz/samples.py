"""Small whole files of every format that is read, before they are damaged."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow
import pyarrow.parquet

from datamodules.formats.alpaca import AlpacaRows
from datamodules.formats.columns import PairColumns, PromptCompletionColumns, RowFormat
from datamodules.formats.dialogues import HHDialogues
from datamodules.formats.scored import ScoredResponses
from datamodules.formats.sharegpt import ShareGPTRows
from datamodules.formats.unpaired import LabelledRows

Rows = list[dict[str, object]]

PAIRS: Rows = [
    {"prompt": f"Größe {i}?", "chosen": f"ab {i} 春", "rejected": f"no {i}", "s": i + 0.5, "t": float(-i)} for i in range(8)
]
CHATS: Rows = [
    {
        "chosen": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"yes {i}"}],
        "rejected": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"no {i}"}],
    }
    for i in range(6)
]
SCORED: Rows = [{"prompt": f"p{i}", "responses": [f"a{i}", "b", "c"], "scores": [1.0, 2.5, i + 3.0]} for i in range(6)]
DIALOGUES: Rows = [{side: f"\n\nHuman: q{i}\n\nAssistant: {side} {i}" for side in ("chosen", "rejected")} for i in range(6)]
SHAREGPT: Rows = [
    {
        "conversations": [{"from": "system", "value": "be"}, {"from": "human", "value": f"q{i}"}],
        "chosen": {"from": "gpt", "value": f"yes {i}"},
        "rejected": {"from": "gpt", "value": f"no {i}"},
    }
    for i in range(6)
]
ALPACA: Rows = [{"instruction": f"do {i}", "input": "it" * (i % 2), "output": f"done {i}"} for i in range(6)]
LABELLED: Rows = [{"prompt": f"q{i}", "completion": f"a{i}", "label": i % 2 == 0} for i in range(6)]
SAMPLING = {"temperature": 1, "top_p": 1, "max_new_tokens": 8}
POOL: Rows = [
    {
        "prompt": f"p{i}",
        "answer": "1",
        "responses": [
            {"text": f"r{i}{j}", "source": source, "score": j + 0.5, "seed": j, "sampling": SAMPLING}
            for j, source in enumerate(("policy", "policy", "dataset", "small"))
        ],
    }
    for i in range(5)
]
POEMS: Rows = [
    {"title": f"题{i}", "author": "某", "paragraphs": ["春眠不觉晓，处处闻啼鸟。", "夜来风雨声，花落知多少。"]} for i in range(5)
]
PROBLEMS: Rows = [
    {"question": f"How many are {i} and 1?", "answer": f"{i} + 1 = <<{i}+1={i + 1}>>{i + 1}\n#### {i + 1}"} for i in range(5)
]
MATHS: Rows = [
    {"problem": f"What is ${i}+1$?", "solution": f"It is $\\boxed{{{i + 1}}}$.", "level": "Level 1", "type": "Algebra"}
    for i in range(5)
]


@dataclass(frozen=True)
class Sample:
    """A whole file."""

    name: str
    """With its endings."""
    content: bytes
    rows: Rows
    format: RowFormat | None
    """None where a pool or a task reads it."""


def samples() -> Iterator[Sample]:
    """Every format once, and pairs in every container."""
    pairs = PairColumns(chosen_score="s", rejected_score="t")
    for ending, write in CONTAINERS.items():
        yield Sample(f"pairs.{ending}", write(PAIRS), PAIRS, PairColumns() if ending in ("csv", "tsv") else pairs)
    for ending, compress in COMPRESSIONS.items():
        yield Sample(f"pairs.jsonl.{ending}", compress(as_jsonl(PAIRS)), PAIRS, pairs)
    yield Sample("pairs.parquet.gz", gzip.compress(CONTAINERS["parquet"](PAIRS)), PAIRS, pairs)
    formats: tuple[tuple[str, Rows, RowFormat], ...] = (
        ("chats", CHATS, PairColumns(prompt=None)),
        ("scored", SCORED, ScoredResponses()),
        ("dialogues", DIALOGUES, HHDialogues()),
        ("sharegpt", SHAREGPT, ShareGPTRows()),
        ("alpaca", ALPACA, AlpacaRows()),
        ("labelled", LABELLED, LabelledRows()),
        ("completions", PAIRS, PromptCompletionColumns(completion="chosen", as_chat=True)),
    )
    for name, rows, format in formats:
        for ending in ("jsonl", "parquet"):
            yield Sample(f"{name}.{ending}", CONTAINERS[ending](rows), rows, format)
    for name, rows in (("pool", POOL), ("poem", POEMS), ("gsm8k", PROBLEMS), ("math", MATHS)):
        yield Sample(f"{name}.jsonl", as_jsonl(rows), rows, None)
    yield Sample("pool.parquet", CONTAINERS["parquet"](POOL), POOL, None)
    yield Sample("poem.json", json.dumps(POEMS, ensure_ascii=False).encode(), POEMS, None)


def as_jsonl(rows: Rows) -> bytes:
    """An object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _separated(rows: Rows, mark: str) -> bytes:
    lines = [list(rows[0]), *(row.values() for row in rows)]
    return "".join(mark.join(f'"{cell}"' for cell in line) + "\n" for line in lines).encode()


def _arrow(rows: Rows, write: Callable[..., pyarrow.RecordBatchWriter]) -> bytes:
    table, sink = pyarrow.Table.from_pylist(rows), io.BytesIO()
    with write(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _parquet(rows: Rows) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink, compression="none", use_dictionary=False)
    return sink.getvalue()


CONTAINERS: Mapping[str, Callable[[Rows], bytes]] = {
    "jsonl": as_jsonl,
    "json": lambda rows: json.dumps(rows, indent=1, ensure_ascii=False).encode(),
    "csv": lambda rows: _separated(rows, ","),
    "tsv": lambda rows: _separated(rows, "\t"),
    "parquet": _parquet,
    "arrow": lambda rows: _arrow(rows, pyarrow.ipc.new_stream),
}
COMPRESSIONS: Mapping[str, Callable[[bytes], bytes]] = {
    "gz": lambda content: gzip.compress(content, mtime=0),
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "zst": lambda content: pyarrow.Codec("zstd").compress(content, asbytes=True),
}
