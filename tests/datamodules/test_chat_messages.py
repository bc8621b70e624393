"""What messages say beside their content reaches the template, or the row is bad: against transformers' own rendering."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.contracts.records import BadRowError, Fault, Message
from datamodules.formats.columns import PairColumns, PromptCompletionColumns
from datamodules.sources.preparation import LengthLimits, Preparation
from datamodules.sources.readers import DataSource
from datamodules.sources.row_report import RowReport
from datamodules.tokens.encoding import PromptEncoder
from tests.datamodules.chat import CHATML, LLAMA2, answered, build, encoded, real_template, row_ids, said

ASK = {"role": "user", "content": "What time is it?"}
NOON = {"role": "assistant", "content": "It is noon."}
CALL: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "clock", "arguments": {"zone": "UTC", "day": 3}}}],
}
TOLD = {"role": "tool", "name": "clock", "tool_call_id": "abcdefghi", "content": 'at "12:00"'}
THOUGHT = {"role": "assistant", "content": "<think>\nthe sun is high\n</think>\n\nNoon."}
REASONED = {"role": "assistant", "content": "Noon.", "reasoning_content": "the sun is high"}
CLOCK = [
    {
        "type": "function",
        "function": {
            "name": "clock",
            "description": "Tells the time.",
            "parameters": {"type": "object", "properties": {"zone": {"type": "string"}, "day": {"type": "integer"}}},
        },
    }
]
TOOLS = json.dumps(CLOCK)


@pytest.mark.parametrize(
    ("name", "prompt", "reply", "tools"),
    [
        ("qwen3", [ASK, CALL, TOLD], NOON, TOOLS),
        ("qwen3", [ASK], CALL, TOOLS),
        ("qwen3", [ASK], THOUGHT, ""),
        ("qwen3", [ASK], REASONED, ""),
        ("qwen2_5", [ASK, CALL, TOLD], NOON, TOOLS),
        ("llama3_1", [ASK, CALL, TOLD], NOON, TOOLS),
        ("llama3_1", [ASK], CALL, TOOLS),
        ("gptoss", [ASK, CALL, TOLD], NOON, TOOLS),
        ("gemma3", [{"role": "system", "content": "Be brief."}, ASK], NOON, ""),
        ("gemma", [ASK, NOON, ASK], NOON, ""),
        ("qwen3_training", [ASK], REASONED, ""),
    ],
)
def test_the_ids_are_those_of_transformers(name: str, prompt: list[dict[str, Any]], reply: dict[str, Any], tools: str) -> None:
    """Up to the end of the turn: what a template puts behind it is dropped, and the end of sequence stands there."""
    tokenizer = build(real_template(name), eos="</s>")
    expected = tokenizer.apply_chat_template([*prompt, reply], tools=json.loads(tools or "null"), tokenize=False)
    decoded = tokenizer.decode(row_ids(tokenizer, answered(prompt, reply, tools)))
    assert decoded.removesuffix("</s>").rstrip() == expected.rstrip()


@pytest.mark.parametrize(
    ("name", "prompt", "reply", "tools", "lost"),
    [
        ("qwen3", [ASK, THOUGHT, ASK], NOON, "", "the content of message 1 (assistant)"),
        ("deepseek_r1_distill", [ASK], THOUGHT, "", "the content of message 1 (assistant)"),
        ("qwen2_5", [ASK], REASONED, "", "'reasoning_content' of message 1"),
        ("llama3", [ASK], NOON, TOOLS, "'tools': 'clock'"),
        ("llama3", [ASK], CALL, "", "'tool_calls' of message 1"),
        ("gemma", [ASK], CALL, "", "'tool_calls' of message 1"),
    ],
)
def test_what_a_template_leaves_out_makes_a_bad_row(
    name: str, prompt: list[dict[str, Any]], reply: dict[str, Any], tools: str, lost: str
) -> None:
    with pytest.raises(BadRowError) as caught:
        encoded(build(real_template(name), eos="</s>"), answered(prompt, reply, tools))
    assert caught.value.fault is Fault.TEMPLATE_DROPS
    assert lost in caught.value.detail


def test_a_call_that_is_half_printed_is_named() -> None:
    """The name of the function, and not what it is called with."""
    half = CHATML.replace(
        "{{ m['content'] }}", "{{ m['content'] }}{% for t in m.tool_calls or [] %}{{ t.function.name }}{% endfor %}"
    )
    with pytest.raises(BadRowError, match=r"'tool_calls' of message 1 \(assistant\): 'zone'"):
        encoded(build(half), answered([ASK], CALL))


def test_keys_that_the_template_does_not_name_are_counted() -> None:
    spoken = encoded(build(CHATML), answered([ASK | {"timestamp": 3, "name": "Ann"}], NOON | {"model": None}))
    assert spoken.unread_keys == {"timestamp", "name"}
    named = CHATML.replace("{{ m['role'] }}", "{{ m['role'] }}{{ ' ' + m.name if m.name else '' }}")
    assert "user Ann\n" in build(named).decode(row_ids(build(named), answered([ASK | {"name": "Ann"}], NOON)))


def test_parts_of_text_are_joined_and_others_refused() -> None:
    parts = [{"type": "text", "text": "What time ", "image_url": None}, {"type": "text", "text": "is it?"}]
    assert said(ASK | {"content": parts}) == said(ASK)
    with pytest.raises(BadRowError, match=r"parts of type \['image'\]; expected parts of text alone"):
        said(ASK | {"content": [{"type": "image", "url": "x.png"}, *parts]})


def test_a_message_is_what_it_says() -> None:
    assert (
        said(ASK | {"id": 1}) == said(ASK | {"id": 2}) == said(ASK | {"tool_calls": None}) == (Message("user", "What time is it?"),)
    )
    assert said(CALL) != said(CALL | {"tool_calls": []} | {"content": "x"})
    with pytest.raises(BadRowError, match="expected messages"):
        said({"role": "assistant", "content": None, "tool_calls": []})


@pytest.mark.parametrize(
    ("template", "prompt", "reply", "complaint"),
    [
        (LLAMA2, [{"role": "human", "content": "hi"}], NOON, "unknown role 'human'; expected system, user, assistant, tool"),
        (CHATML, [{"role": "human", "content": "hi"}], NOON, "unknown role 'human'"),
        (CHATML, [{"role": "developer", "content": "Be brief."}, ASK], NOON, "unknown role 'developer'"),
        (LLAMA2, [{"role": "system", "content": "Be brief."}, ASK], NOON, "lays the role 'system' out as an assistant's turn"),
        (LLAMA2, [ASK, NOON, TOLD], NOON, "lays the role 'tool' out as an assistant's turn"),
    ],
)
def test_a_role_that_the_template_does_not_know_is_refused(
    template: str, prompt: list[dict[str, Any]], reply: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(BadRowError, match=complaint) as caught:
        encoded(build(template), answered(prompt, reply))
    assert caught.value.fault is Fault.UNKNOWN_ROLE


def test_a_role_that_the_template_names_is_taken() -> None:
    developed = encoded(
        build(real_template("gptoss"), eos="</s>"), answered([{"role": "developer", "content": "Be brief."}, ASK], NOON)
    )
    assert developed.completion_ids


@pytest.mark.parametrize("role", ["gpt", "user"])
def test_the_reply_is_the_assistants_on_either_side(role: str) -> None:
    wrong = {"role": role, "content": "hi"}
    for chosen, rejected in (([wrong], [NOON]), ([NOON], [wrong])):
        with pytest.raises(BadRowError, match=f"expected role assistant, got '{role}'"):
            PairColumns().parse({"prompt": [ASK], "chosen": chosen, "rejected": rejected}, 0)
    with pytest.raises(BadRowError, match=f"expected role assistant, got '{role}'"):
        PromptCompletionColumns().parse({"prompt": [ASK], "completion": [wrong]}, 0)


def report(folder: Path, rows: list[dict[str, Any]], template: str = CHATML, **options: Any) -> RowReport:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    columns = PromptCompletionColumns(**options)
    return Preparation(DataSource(str(folder / "rows.jsonl")), columns, PromptEncoder(build(template)), LengthLimits(9999)).run()[1]


def test_the_report_counts_what_was_not_read(tmp_path: Path) -> None:
    row: dict[str, Any] = {"prompt": [ASK], "completion": [NOON]}
    found = report(tmp_path, [row, row | {"tools": CLOCK}, row | {"prompt": [ASK | {"id": 7, "content": "Now?"}]}])
    assert (found.rows_kept, found.faults[Fault.TEMPLATE_DROPS].rows, found.unread_keys) == (2, [1], {"id": 1})
    assert "keys of messages that the chat template does not read: id (1 rows)" in found.summary()
    found.save(tmp_path / "report.json")
    assert RowReport.load(tmp_path / "report.json") == found


def test_tools_may_be_json_and_their_column_another(tmp_path: Path) -> None:
    row = {"prompt": [ASK], "completion": [NOON], "functions": TOOLS, "tools": "not read"}
    assert report(tmp_path, [row], real_template("qwen3"), tools="functions").rows_kept == 1
    with pytest.raises(ValueError, match="expected a list of tools, or JSON of one"):
        report(tmp_path, [row], real_template("qwen3"))
    with pytest.raises(ValueError, match="only a chat template can show them"):
        report(tmp_path, [{"prompt": "hi", "completion": "ho", "tools": CLOCK}])
