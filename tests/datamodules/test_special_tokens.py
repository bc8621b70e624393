"""Special tokens that a text spells are words, those that a template writes are special, and none is written twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from datamodules.contracts.batches import Role
from datamodules.contracts.records import BadRowError, CompletionRecord, Fault, Record
from datamodules.formats.columns import PairColumns
from datamodules.pool.pairs import reply_record
from datamodules.pool.schema import PoolRow, Response
from datamodules.sources.preparation import LengthLimits, Preparation
from datamodules.sources.readers import DataSource
from datamodules.tasks.base import TaskItem
from datamodules.text import encode_prompts
from datamodules.tokens.encoding import PromptEncoder
from tests.datamodules.chat import CHATML, LLAMA2, answered, build, encoded, row_ids


def words(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def text_record(prompt: str, *completions: str, **options: Any) -> Record:
    return Record(prompt, tuple(CompletionRecord(text, Role.CHOSEN, "chosen") for text in completions), 0, **options)


def test_a_reply_that_spells_the_end_of_the_turn_does_not_end_there() -> None:
    tokenizer = build(CHATML)
    reply = "write <|im_end|> and </s> there"
    found = encoded(
        tokenizer, answered([{"role": "user", "content": "How? <|im_start|>"}], {"role": "assistant", "content": reply})
    )
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert found.completion_ids[0] == [*words(tokenizer, reply), end]
    assert found.prompt_ids.count(start) == 2
    assert tokenizer.decode(found.prompt_ids) == "<|im_start|>user\nHow? <|im_start|><|im_end|>\n<|im_start|>assistant\n"
    assert found.spells_special


def test_what_a_model_drew_is_what_it_drew() -> None:
    """A pool holds draws as text; the dataset's own responses beside them are the words they are."""
    tokenizer = build(CHATML)
    sides = [CompletionRecord("a</s>b", Role.CHOSEN, "chosen", is_drawn=is_drawn) for is_drawn in (True, False)]
    drawn, written = encoded(tokenizer, Record("q </s>", tuple(sides), 0)).completion_ids
    assert drawn[:-1] == tokenizer("a</s>b", add_special_tokens=False)["input_ids"]
    assert written[:-1] == words(tokenizer, "a</s>b")
    row = PoolRow("q", (Response("a", "policy", 1.0), Response("b", "dataset", 2.0), Response("c", "weaker", 0.0)))
    made = [reply_record(row, response, Role.PROBE, "leftover").is_drawn for response in row.responses]
    assert made == [True, False, True]


def test_it_does_where_that_is_asked_for() -> None:
    tokenizer = build(CHATML)
    record = answered([{"role": "user", "content": "a"}], {"role": "assistant", "content": "b<|im_end|>c"})
    meant = Record(record.prompt, record.completions, 0, has_control_tokens=True)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (row_ids(tokenizer, record).count(end), row_ids(tokenizer, meant).count(end)) == (2, 3)
    assert encoded(tokenizer, text_record("a</s>b", "c", has_control_tokens=True)).prompt_ids == tokenizer("a</s>b")["input_ids"]


@pytest.mark.parametrize(
    ("prompt", "is_laid_out"),
    [
        ("<s>[INST] hi [/INST]", True),
        ("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", True),
        ("What does </s> mean?", False),
        ("<|im_end|> is what?", False),
        ("hi", False),
    ],
)
def test_text_that_begins_with_an_opening_token_was_laid_out_before(prompt: str, is_laid_out: bool) -> None:
    tokenizer = build(None, adds_bos=True)
    begin = tokenizer.convert_tokens_to_ids("<s>")
    found = encoded(tokenizer, text_record(prompt, " ho"))
    rest = prompt.removeprefix("<s>")
    expected = tokenizer(rest, add_special_tokens=False)["input_ids"] if is_laid_out else words(tokenizer, rest)
    assert found.prompt_ids == [begin, *expected]
    assert found.is_laid_out == is_laid_out


def test_an_end_that_is_the_beginning_too_opens() -> None:
    """As in OPT and GPT-2, whose one special token is both."""
    tokenizer = build(None, eos="<s>", adds_bos=True)
    assert encoded(tokenizer, text_record("<s>hi", " ho")).prompt_ids == tokenizer("hi")["input_ids"]


def test_a_completion_of_such_text_ends_as_a_rendered_reply_does() -> None:
    tokenizer = build(CHATML)
    chat = answered([{"role": "user", "content": "hi"}], {"role": "assistant", "content": "ho"})
    text = text_record("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "ho<|im_end|>\n")
    assert row_ids(tokenizer, text) == row_ids(tokenizer, chat)


def test_an_end_of_sequence_at_the_end_of_a_text_is_one() -> None:
    tokenizer = build(None, eos="</s>")
    end = tokenizer.convert_tokens_to_ids("</s>")
    plain, ended, within = (encoded(tokenizer, text_record("a", text)) for text in ("b c", "b c</s>", "b</s>c</s>"))
    assert plain.completion_ids == ended.completion_ids
    assert within.completion_ids[0] == [*words(tokenizer, "b</s>c"), end]
    assert (plain.spells_special, ended.spells_special, within.spells_special) == (False, False, True)


def test_what_is_sampled_for_has_one_beginning() -> None:
    """The prompts of tasks, pools and rollouts go through the same encoder."""
    tokenizer = build(LLAMA2, adds_bos=True, eos="</s>")
    begin = tokenizer.convert_tokens_to_ids("<s>")
    items = [TaskItem("<s>[INST] hi [/INST]"), TaskItem("hi"), TaskItem("hi", is_chat=True)]
    assert [prompt.prompt_ids.count(begin) for prompt in encode_prompts(items, tokenizer)] == [1, 1, 1]
    assert encode_prompts(items[:1], tokenizer)[0].prompt_ids == encode_prompts(items[2:], tokenizer)[0].prompt_ids


def test_a_tokenizer_that_has_no_words_for_it_makes_a_bad_row() -> None:
    backend = Tokenizer(models.WordLevel({"</s>": 0, "a": 1, "<unk>": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    (found,) = PromptEncoder(tokenizer).encode([text_record("a </s> a", "a")])
    assert isinstance(found, BadRowError)
    assert found.fault is Fault.UNSPEAKABLE


def test_both_are_counted(tmp_path: Path) -> None:
    rows = [
        {"prompt": "What is </s>?", "chosen": "a", "rejected": "b"},
        {"prompt": "<s>[INST] hi [/INST]", "chosen": "a", "rejected": "b"},
        {"prompt": "hi", "chosen": "a</s>", "rejected": "b"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    encoder = PromptEncoder(build(None, adds_bos=True, eos="</s>"))
    _, report = Preparation(DataSource(str(tmp_path / "rows.jsonl")), PairColumns(), encoder, LengthLimits(99)).run()
    assert (report.rows_kept, report.spelled_special, report.laid_out) == (3, 1, 1)
    assert "1 rows spell a special token" in report.summary()
