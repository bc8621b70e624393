from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from datamodules.contracts.records import Fault
from datamodules.formats.columns import PairColumns
from datamodules.sources.preparation import LengthLimits, Preparation
from datamodules.sources.readers import DataSource
from datamodules.sources.row_report import RowReport
from datamodules.sources.store import ExampleStore
from datamodules.tokens.encoding import PromptEncoder
from tests.datamodules.conftest import END, TEMPLATE, build_tokenizer

GOOD = {"prompt": "a?", "chosen": "yes", "rejected": "no"}


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


# One row of every kind, row 0 and row 5 being good; None stands for a line that is no JSON.
EVERY_KIND: list[tuple[Fault | None, dict[str, object] | None]] = [
    (None, dict(GOOD)),
    (Fault.MALFORMED, None),
    (Fault.MISSING_FIELD, {"prompt": "a?", "chosen": "yes"}),
    (Fault.WRONG_TYPE, {**GOOD, "chosen": 3}),
    (Fault.EMPTY_PROMPT, {**GOOD, "prompt": " \n"}),
    (None, {**GOOD, "prompt": "b?"}),
    (Fault.EMPTY_COMPLETION, {**GOOD, "rejected": ""}),
    (Fault.SAME_COMPLETIONS, {**GOOD, "rejected": "yes"}),
    (Fault.DUPLICATE, dict(GOOD)),
    (Fault.NO_ROOM, {**GOOD, "prompt": "x" * 40}),
    (Fault.NOT_A_PREFIX, {"prompt": turns("hi"), "chosen": turns("", "b")[1:], "rejected": turns("", "c")[1:]}),
    (Fault.SAME_WHEN_CUT, {**GOOD, "chosen": "z" * 50, "rejected": "z" * 51}),
    (Fault.EMPTY_COMPLETION, {**GOOD, "chosen": "\t"}),
]


def write(path: Path, rows: list[dict[str, object] | None]) -> DataSource:
    path.write_text("".join("{not json\n" if row is None else json.dumps(row) + "\n" for row in rows))
    return DataSource(str(path))


def prepare(
    source: DataSource, max_length: int = 40, max_prompt_length: int | None = None, tokenizer: PreTrainedTokenizerFast | None = None
) -> tuple[ExampleStore, RowReport]:
    encoder = PromptEncoder(tokenizer or build_tokenizer())
    return Preparation(source, PairColumns(), encoder, LengthLimits(max_length, max_prompt_length)).run()


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Its template ends a prompt with "a", which merges with a reply that begins with "b"."""
    return build_tokenizer(TEMPLATE.replace("'<|assistant|>'", "'<|assistant|>a'").replace("'|>' +", "'|>a' +"))


def test_every_kind_is_counted_with_its_rows_and_first_examples(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [row for _, row in EVERY_KIND])
    store, report = prepare(source, tokenizer=merging_tokenizer())
    expected: dict[str, list[int]] = {}
    for number, (fault, _) in enumerate(EVERY_KIND):
        if fault is not None:
            expected.setdefault(fault.value, []).append(number)
    assert {name: count.rows for name, count in report.faults.items()} == expected
    assert (report.rows_read, report.rows_kept, report.num_bad) == (13, 2, 11)
    assert [example.row_number for example in store] == [0, 5]
    assert report.faults[Fault.EMPTY_COMPLETION].examples[0].startswith("row 6: the rejected completion is ''")


def test_the_error_names_every_kind_at_once(tmp_path: Path) -> None:
    _, report = prepare(write(tmp_path / "rows.jsonl", [row for _, row in EVERY_KIND]), tokenizer=merging_tokenizer())
    with pytest.raises(ValueError, match="got 11 bad ones of 13") as caught:
        report.require_clean()
    for fault in {fault for fault, _ in EVERY_KIND if fault}:
        assert fault.value in str(caught.value)
    assert "2 x empty completion (rows 6, 12)" in str(caught.value)


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    _, report = prepare(write(tmp_path / "rows.jsonl", [row for _, row in EVERY_KIND]))
    report.save(tmp_path / "report.json")
    assert RowReport.load(tmp_path / "report.json") == report


def test_examples_by_hand(tmp_path: Path) -> None:
    store, report = prepare(write(tmp_path / "rows.jsonl", [dict(GOOD)]))
    tokenizer = build_tokenizer()
    (example,) = store
    assert tokenizer.decode(list(example.prompt_ids)) == "a?"
    assert [tokenizer.decode(list(c.token_ids)) for c in example.completions] == [f"yes{END}", f"no{END}"]
    assert [c.kind for c in example.completions] == ["chosen", "rejected"]
    report.require_clean()


def test_cuts_keep_the_end_of_prompts_and_the_beginning_of_completions_and_are_counted(tmp_path: Path) -> None:
    rows: list[dict[str, object] | None] = [
        {"prompt": "0123456789", "chosen": "short", "rejected": "much too long"},
        {"prompt": "0123", "chosen": "a longer one", "rejected": "b"},
        {"prompt": "012", "chosen": "c", "rejected": "d"},
    ]
    store, report = prepare(write(tmp_path / "rows.jsonl", rows), max_length=11, max_prompt_length=4)
    tokenizer = build_tokenizer()
    texts = [[tokenizer.decode(list(ids)) for ids in (e.prompt_ids, *(c.token_ids for c in e.completions))] for e in store]
    assert texts == [["6789", f"short{END}", "much to"], ["0123", "a longe", f"b{END}"], ["012", f"c{END}", f"d{END}"]]
    assert (report.truncated_prompts, report.truncated_completions, report.rows_kept) == (1, 2, 3)


def test_a_cut_prompt_keeps_the_token_that_opens_every_text(tmp_path: Path) -> None:
    from tokenizers import processors

    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    begin = tokenizer.convert_tokens_to_ids("<|begin|>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", begin)]
    )
    rows: list[dict[str, object] | None] = [{**GOOD, "prompt": "0123456789"}]
    store, _ = prepare(write(tmp_path / "rows.jsonl", rows), max_prompt_length=4, tokenizer=tokenizer)
    assert tokenizer.decode(list(store[0].prompt_ids)) == "<|begin|>789"


def test_completions_tokenised_apart_are_counted(tmp_path: Path) -> None:
    rows: list[dict[str, object] | None] = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    assert prepare(write(tmp_path / "rows.jsonl", rows))[1].tokenized_apart == 1


def test_nothing_left_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing is left after filtering") as caught:
        prepare(write(tmp_path / "rows.jsonl", [None, {**GOOD, "rejected": "yes"}]))
    assert "1 x malformed JSON (rows 0)" in str(caught.value)
    with pytest.raises(ValueError, match="nothing is left after filtering"):
        prepare(write(tmp_path / "empty.jsonl", []))


@pytest.mark.parametrize("limits", [(1, None), (10, 0)])
def test_limits_without_room_are_refused(limits: tuple[int, int | None]) -> None:
    with pytest.raises(ValueError, match="expected max_length >= 2"):
        LengthLimits(*limits)
