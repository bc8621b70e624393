"""Files that other trainers' users have: what each row means, and what is said about the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest

from datamodules import formats
from datamodules.contracts.batches import Role
from datamodules.contracts.records import BadRowError, Fault, Message, RowLeftOut, Text
from datamodules.files import FileDataModule
from datamodules.formats.alpaca import AlpacaRows
from datamodules.formats.columns import ChosenOnly, PairColumns, PairsOnly, PromptCompletionColumns, Row, RowFormat
from datamodules.formats.openai_messages import MessageRows
from datamodules.formats.sharegpt import ShareGPTRows
from datamodules.formats.unpaired import LabelledRows
from datamodules.preference import PreferenceDataModule
from datamodules.sft import SFTDataModule
from datamodules.sources.readers import DataSource
from tests.datamodules import chat
from tests.datamodules.conftest import build_tokenizer

U, A, S = ("user", "assistant", "system")


def human(text: str) -> dict[str, str]:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


def user(text: object) -> dict[str, object]:
    return {"role": "user", "content": text}


def bot(text: object) -> dict[str, object]:
    return {"role": "assistant", "content": text}


def said(text: Text) -> str | list[tuple[str, str]]:
    return text if isinstance(text, str) else [(message.role, message.content) for message in text]


def read(format: RowFormat, row: Row) -> tuple[Any, ...]:
    """The prompt, then each side with its role."""
    record = format.parse(row, 0)
    return (said(record.prompt), *((side.role.name.lower(), said(side.text)) for side in record.completions))


def fault(format: RowFormat, row: Row) -> Fault:
    with pytest.raises(BadRowError) as caught:
        format.parse(row, 0)
    return caught.value.fault


PAIR_OF_HI = ([(S, "Be brief."), (U, "Hi")], ("chosen", [(A, "Hello.")]), ("rejected", [(A, "What?")]))
SYSTEM = {"from": "system", "value": "Be brief."}


@pytest.mark.parametrize(
    ("format", "row"),
    [
        (ShareGPTRows(), {"conversations": [SYSTEM, human("Hi")], "chosen": gpt("Hello."), "rejected": gpt("What?")}),
        (ShareGPTRows(), {"conversations": [SYSTEM, human("Hi")], "chosen": [gpt("Hello.")], "rejected": "What?"}),
        (
            ShareGPTRows(),
            {"system": "Be brief.", "conversations": [human("Hi")], "chosen": gpt("Hello."), "rejected": gpt("What?")},
        ),
        (ShareGPTRows(), {"chosen": [SYSTEM, human("Hi"), gpt("Hello.")], "rejected": [SYSTEM, human("Hi"), gpt("What?")]}),
        (
            MessageRows(chosen="yes", rejected="no"),
            {
                "system": "Be brief.",
                "messages": [user("Hi")],
                "yes": bot("Hello."),
                "no": [bot([{"type": "text", "text": "What?"}])],
            },
        ),
        (
            MessageRows(),
            {
                "messages": [user("Hi"), bot("Hello.")],
                "chosen": [{"role": "system", "content": "Be brief."}, user("Hi"), bot("Hello.")],
                "rejected": [{"role": "system", "content": "Be brief."}, user("Hi"), bot("What?")],
            },
        ),
        (AlpacaRows(), {"instruction": "Hi", "system": "Be brief.", "chosen": "Hello.", "rejected": "What?"}),
    ],
)
def test_pairs_however_they_are_written_mean_the_same(format: RowFormat, row: Row) -> None:
    assert read(format, row) == PAIR_OF_HI
    assert read(format.for_pairs(), row) == PAIR_OF_HI
    assert read(format.for_supervised(), row) == PAIR_OF_HI[:2]


def test_the_last_turn_is_the_answer_of_a_row_without_a_pair() -> None:
    row = {"conversations": [human("a"), gpt("b"), human("c"), gpt("d")]}
    assert read(ShareGPTRows(), row) == ([(U, "a"), (A, "b"), (U, "c")], ("chosen", [(A, "d")]))
    assert fault(ShareGPTRows(), {"conversations": [human("a"), gpt("b"), human("c")]}) is Fault.NOT_A_DIALOGUE
    assert fault(PairsOnly(ShareGPTRows()), row) is Fault.NOT_A_PAIR


def test_tools_of_sharegpt_are_calls_and_results_for_the_template() -> None:
    call = {"from": "function_call", "value": '{"name": "look_up", "arguments": {"city": "Rome"}}'}
    row = {
        "conversations": [human("Weather?"), call, {"from": "observation", "value": '{"sky": "blue"}'}, gpt("Blue.")],
        "tools": '[{"name": "look_up", "description": "the weather", "parameters": {"properties": {"city": {}}}}]',
    }
    record = ShareGPTRows().parse(row, 0)
    assert [message.fields() for message in record.prompt if isinstance(message, Message)][1:] == [
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": json.loads(call["value"])}]},
        {"role": "tool", "content": '{"sky": "blue"}'},
    ]
    assert json.loads(record.tools) == json.loads(str(row["tools"]))
    ids = chat.row_ids(chat.build(chat.real_template("qwen3")), record)
    text = chat.build(None).decode(ids)
    assert '"arguments": {"city": "Rome"}' in text
    assert "<tool_response>\n" in text
    broken = {"conversations": [human("a"), {"from": "function_call", "value": "look_up(Rome)"}]}
    assert fault(ShareGPTRows(), broken) is Fault.WRONG_TYPE


def test_alpaca_joins_the_instruction_its_input_system_and_history() -> None:
    row = {"instruction": "Translate.", "input": "good day", "output": "bonjour", "system": "Be exact.", "history": [["a", "b"]]}
    assert read(AlpacaRows(), row) == (
        [(S, "Be exact."), (U, "a"), (A, "b"), (U, "Translate.\ngood day")],
        ("chosen", [(A, "bonjour")]),
    )
    assert read(AlpacaRows(), {"instruction": "Sing.", "input": "", "output": "la"}) == ([(U, "Sing.")], ("chosen", [(A, "la")]))
    text = "### Instruction:\nTranslate.\n\n### Input:\ngood day\n\n### Response:\n"
    assert read(AlpacaRows(as_chat=False), {key: row[key] for key in ("instruction", "input", "output")}) == (
        text,
        ("chosen", "bonjour"),
    )
    assert read(AlpacaRows(as_chat=False, input=None), {"instruction": "Sing.", "output": "la"})[0] == (
        "### Instruction:\nSing.\n\n### Response:\n"
    )


def test_several_columns_are_joined_and_empty_ones_passed_over() -> None:
    row = {"title": "T", "body": "B", "note": " ", "yes": "y", "no": "n"}
    format = PairColumns(("title", "note", "body"), "yes", "no", separator=" | ")
    assert read(format, row) == ("T | B", ("chosen", "y"), ("rejected", "n"))
    assert read(PromptCompletionColumns(("title", "body"), "yes"), row) == ("T\nB", ("chosen", "y"))
    assert fault(format, {"yes": "y", "no": "n", "note": ""}) is Fault.MISSING_FIELD
    assert fault(format, row | {"body": 3}) is Fault.WRONG_TYPE


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "completion": "Hello."},
        {"messages": [user("Hi"), bot("Hello.")]},
    ],
)
def test_a_label_makes_the_one_answer_chosen_or_rejected(row: dict[str, object]) -> None:
    sides = {label: LabelledRows().parse(row | {"label": label}, 0).completions for label in (True, False, 1, 0, "True", "false")}
    assert {label: [side.role for side in found] for label, found in sides.items()} == {
        True: [Role.CHOSEN],
        False: [Role.REJECTED],
        "True": [Role.CHOSEN],
        "false": [Role.REJECTED],
    }
    good = LabelledRows(good_only=True).for_supervised()
    assert len(good.parse(row | {"label": True}, 0).completions) == 1
    with pytest.raises(RowLeftOut):
        good.parse(row | {"label": False}, 0)
    assert [fault(LabelledRows(), row | more) for more in ({}, {"label": 2}, {"label": "good"})] == [
        Fault.MISSING_FIELD,
        Fault.WRONG_TYPE,
        Fault.WRONG_TYPE,
    ]


def test_labelled_answers_in_another_layout() -> None:
    row = {"conversations": [human("Hi"), gpt("What?")], "kto_tag": False}
    assert read(LabelledRows(label="kto_tag", answers=ShareGPTRows()), row) == ([(U, "Hi")], ("rejected", [(A, "What?")]))


@pytest.mark.parametrize(
    ("format", "row", "expected"),
    [
        (ShareGPTRows(), {"conversations": [human("a"), {"from": "narrator", "value": "b"}]}, Fault.UNKNOWN_ROLE),
        (ShareGPTRows(), {"conversations": [human("a"), {"value": "b"}]}, Fault.WRONG_TYPE),
        (ShareGPTRows(), {"conversations": "a b"}, Fault.WRONG_TYPE),
        (ShareGPTRows(), {"conversations": []}, Fault.WRONG_TYPE),
        (ShareGPTRows(), {"messages": [user("a"), bot("b")]}, Fault.MISSING_FIELD),
        (ShareGPTRows(), {"conversations": [human("a")], "chosen": gpt("b")}, Fault.MISSING_FIELD),
        (ShareGPTRows(), {"conversations": [human("a")], "chosen": gpt("b"), "rejected": human("c")}, Fault.UNKNOWN_ROLE),
        (ShareGPTRows(), {"conversations": [human("a"), gpt("b")], "chosen": gpt("b"), "rejected": gpt("c")}, Fault.NOT_A_DIALOGUE),
        (MessageRows(), {"messages": [user([{"type": "image_url", "image_url": "x"}]), bot("b")]}, Fault.WRONG_TYPE),
        (MessageRows(), {"messages": [user("a"), bot("b")], "system": ["s"]}, Fault.WRONG_TYPE),
        (AlpacaRows(), {"input": "a", "output": "b"}, Fault.MISSING_FIELD),
        (AlpacaRows(), {"instruction": "a", "input": ["b"], "output": "c"}, Fault.WRONG_TYPE),
        (AlpacaRows(), {"instruction": "a", "history": [["b"]], "output": "c"}, Fault.WRONG_TYPE),
        (AlpacaRows(), {"instruction": "a", "chosen": "b"}, Fault.MISSING_FIELD),
    ],
)
def test_bad_rows_by_kind(format: RowFormat, row: Row, expected: Fault) -> None:
    assert fault(format, row) is expected


def write(path: Path, rows: Sequence[Row]) -> DataSource:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return DataSource(str(path))


def module(kind: type[FileDataModule], folder: Path, rows: Sequence[Row], format: RowFormat, **options: Any) -> FileDataModule:
    build_tokenizer().save_pretrained(folder / "tokenizer")
    source = write(folder / "rows.json", rows)
    return kind(
        str(folder / "tokenizer"), source, format, val_fraction=0, cache_dir=str(folder / "cache"), num_probe_prompts=0, **options
    )


KTO: list[Row] = [{"messages": [user(f"q{i}"), bot(f"a{i}")], "label": i % 3 == 0} for i in range(6)]


def test_labelled_rows_train_no_pairs_and_imitate_the_good_ones_if_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="expected pairs, got rows of one labelled answer"):
        module(PreferenceDataModule, tmp_path, KTO, LabelledRows()).setup("fit")
    with pytest.raises(ValueError, match=r"imitate the bad ones too. Set data.format.good_only true"):
        module(SFTDataModule, tmp_path, KTO, LabelledRows()).setup("fit")
    data = module(SFTDataModule, tmp_path, KTO, LabelledRows(good_only=True))
    with caplog.at_level("INFO"):
        data.setup("fit")
    assert [example.row_number for example in data.dataset("train").examples] == [0, 3]
    assert "2 of 6 rows kept, 0 bad" in caplog.text
    assert "4 rows left out, as asked: the answer is labelled bad" in caplog.text


def test_supervised_rows_are_refused_where_pairs_train(tmp_path: Path) -> None:
    rows: list[Row] = [{"instruction": f"q{i}", "output": f"a{i}"} for i in range(3)]
    with pytest.raises(ValueError, match=r"3 x row that is no pair(.|\n)*no rejected completion. Rows of one answer are for SFT"):
        module(PreferenceDataModule, tmp_path, rows, AlpacaRows()).setup("fit")


def test_columns_that_say_something_and_are_not_read_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows: list[Row] = [
        {"instruction": f"q{i}", "input": "x" * (i % 2), "output": f"a{i}", "label": True, "id": i, "images": [], "null": None}
        for i in range(4)
    ]
    format = PromptCompletionColumns("instruction", "output")
    for _ in range(2):  # from the cache too
        with caplog.at_level("INFO"):
            module(SFTDataModule, tmp_path, rows, format).setup("fit")
        assert caplog.text.count("columns that the format does not read: label (4 rows), input (2 rows)") == 1
        caplog.clear()
    with caplog.at_level("INFO"):
        module(SFTDataModule, tmp_path, rows, AlpacaRows()).setup("fit")
    assert "columns that the format does not read: label (4 rows)" in caplog.text


def subclasses(base: type) -> list[type[RowFormat]]:
    found: list[type[RowFormat]] = []
    child: type[RowFormat]
    for child in base.__subclasses__():
        found += [child, *subclasses(child)] if child.__module__.startswith(f"{formats.__name__}.") else []
    return found


def test_formats_that_a_config_may_name_have_names_of_their_own() -> None:
    for module in iter_modules(formats.__path__, f"{formats.__name__}."):
        import_module(module.name)
    names = [format.short_name for format in subclasses(RowFormat) if format.short_name]
    assert len(set(names)) == len(names)
    assert {"alpaca", "columns", "completions", "hh", "kto", "messages", "scored", "sharegpt"} <= set(names)
    assert (ChosenOnly.short_name, PairsOnly.short_name) == ("", "")
