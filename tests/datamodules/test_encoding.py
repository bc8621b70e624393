from __future__ import annotations

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from datamodules.contracts.batches import Role
from datamodules.contracts.records import BadRowError, CompletionRecord, Fault, Message, Record, Text
from datamodules.tokens.encoding import EncodedRecord, PromptEncoder
from tests.datamodules.conftest import END, TEMPLATE, build_tokenizer


def record(prompt: Text, *completions: Text) -> Record:
    return Record(prompt, tuple(CompletionRecord(text, Role.CHOSEN, "chosen") for text in completions), 0)


def encode(tokenizer: PreTrainedTokenizerFast, *records: Record) -> list[EncodedRecord | BadRowError]:
    return PromptEncoder(tokenizer).encode(records)


def only(results: list[EncodedRecord | BadRowError]) -> EncodedRecord:
    assert len(results) == 1
    assert isinstance(results[0], EncodedRecord)
    return results[0]


def chat(prompt: str, *replies: str) -> Record:
    return record((Message("user", prompt),), *((Message("assistant", reply),) for reply in replies))


def test_text_is_the_prompt_then_its_continuation_then_the_end(tokenizer: PreTrainedTokenizerFast) -> None:
    result = only(encode(tokenizer, record("x a", " cab", "b")))
    assert tokenizer.convert_ids_to_tokens(result.prompt_ids) == ["x", "Ġ", "a"]
    assert tokenizer.convert_ids_to_tokens(result.completion_ids[0]) == ["Ġ", "c", "ab", END]
    # "a" + "b" would merge into one token across the boundary: the prompt stays as it is alone, "b" is tokenised apart.
    assert tokenizer.convert_ids_to_tokens(result.completion_ids[1]) == ["b", END]
    assert result.num_apart == 1


def test_a_completion_that_ends_with_the_end_gets_no_second_one(tokenizer: PreTrainedTokenizerFast) -> None:
    result = only(encode(tokenizer, record("x", f"y{END}")))
    assert tokenizer.decode(result.completion_ids[0]) == f"y{END}"


def test_chat_is_cut_at_the_prompt_and_ends_with_the_end_of_the_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    result = only(encode(tokenizer, chat("hi ab", "hello\n", "ab")))
    assert tokenizer.decode(result.prompt_ids) == "<|user|>hi ab<|end|>\n<|assistant|>"
    assert [tokenizer.decode(ids) for ids in result.completion_ids] == ["hello\n<|end|>", "ab<|end|>"]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == result.completion_ids[0][-1]


def test_many_turns_equal_the_template_by_hand(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = (Message("system", "s"), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    result = only(encode(tokenizer, record(prompt, (Message("assistant", "d"),))))
    assert (
        tokenizer.decode(result.prompt_ids)
        == "<|system|>s<|end|>\n<|user|>a<|end|>\n<|assistant|>b<|end|>\n<|user|>c<|end|>\n<|assistant|>"
    )
    assert tokenizer.decode(result.completion_ids[0]) == "d<|end|>"


def test_a_template_without_an_end_gets_one_and_keeps_the_reply_whole() -> None:
    bare = build_tokenizer(
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    result = only(encode(bare, chat("a", "line\n")))
    assert bare.decode(result.completion_ids[0]) == f"line\n{END}"


def test_a_template_that_rewrites_the_prompt_is_a_bad_row() -> None:
    shifty = build_tokenizer("{{ messages | length }}" + TEMPLATE)
    good_reply, bad_row = encode(build_tokenizer(), chat("a", "b"))[0], encode(shifty, chat("a", "b"))[0]
    assert isinstance(good_reply, EncodedRecord)
    assert isinstance(bad_row, BadRowError)
    assert bad_row.fault is Fault.NOT_A_PREFIX


def test_a_template_that_merges_across_the_boundary_is_a_bad_row() -> None:
    merging = build_tokenizer(
        TEMPLATE.replace("'<|assistant|>'", "'<|assistant|>a'").replace(
            "+ '|>' + message", "+ '|>' + ('a' if message['role'] == 'assistant' else '') + message"
        )
    )
    merged, fine = encode(merging, chat("x", "b"), chat("x", "c"))
    assert isinstance(merged, BadRowError)
    assert merged.fault is Fault.NOT_A_PREFIX
    assert isinstance(fine, EncodedRecord)


def test_a_template_that_refuses_the_messages_is_a_bad_row() -> None:
    strict = build_tokenizer(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE
    )
    refused, fine = encode(
        strict, record((Message("system", "s"), Message("user", "u")), (Message("assistant", "a"),)), chat("a", "b")
    )
    assert isinstance(refused, BadRowError)
    assert (refused.fault, refused.detail) == (Fault.TEMPLATE_REFUSES, "no system role")
    assert isinstance(fine, EncodedRecord)


def test_messages_without_a_template_are_refused() -> None:
    with pytest.raises(ValueError, match="tokenizer with a chat template"):
        encode(build_tokenizer(None), chat("a", "b"))


def test_the_token_that_opens_every_text_stays_in_front_of_prompts_only(tokenizer: PreTrainedTokenizerFast) -> None:
    opened = build_tokenizer()
    opened.add_special_tokens({"bos_token": "<|begin|>"})
    begin = opened.convert_tokens_to_ids("<|begin|>")
    opened.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", begin)]
    )
    assert PromptEncoder(opened).leading_ids == [begin]
    assert PromptEncoder(tokenizer).leading_ids == []
    result = only(encode(opened, record("x a", " c", "b")))
    assert opened.decode(result.prompt_ids) == "<|begin|>x a"
    assert [opened.decode(ids) for ids in result.completion_ids] == [f" c{END}", f"b{END}"]
    assert opened.decode(only(encode(opened, chat("x", "c"))).prompt_ids) == "<|user|>x<|end|>\n<|assistant|>"


def test_results_come_in_the_order_of_their_records(tokenizer: PreTrainedTokenizerFast) -> None:
    records = [record("p0", "r0"), chat("p1", "r1"), record("p2", "r2", "s2")]
    together = encode(tokenizer, *records)
    assert together == [encode(tokenizer, one)[0] for one in records]
