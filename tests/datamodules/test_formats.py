from __future__ import annotations

from collections.abc import Callable

import pytest

from datamodules.contracts.batches import Role
from datamodules.contracts.records import BadRowError, CompletionRecord, Fault, Message, Record
from datamodules.formats.alpaca import AlpacaRows
from datamodules.formats.columns import ChosenOnly, PairColumns, PromptCompletionColumns, RowFormat
from datamodules.formats.dialogues import HHDialogues
from datamodules.formats.scored import ScoredResponses
from datamodules.formats.unpaired import LabelledRows

USER, SYSTEM = {"role": "user", "content": "hi"}, {"role": "system", "content": "be kind"}
GOOD, BAD = {"role": "assistant", "content": "hello"}, {"role": "assistant", "content": "go away"}


def fault(format: RowFormat, row: dict[str, object]) -> Fault:
    with pytest.raises(BadRowError) as caught:
        format.parse(row, 0)
    return caught.value.fault


def test_pairs_of_text_under_any_column_names() -> None:
    row = {"q": "Why?", "yes": "So.", "no": "Eh.", "s": 3, "t": -1.5, "other": None}
    record = PairColumns("q", "yes", "no", chosen_score="s", rejected_score="t").parse(row, 7)
    assert record == Record(
        "Why?",
        (CompletionRecord("So.", Role.CHOSEN, "chosen", 3.0), CompletionRecord("Eh.", Role.REJECTED, "rejected", -1.5)),
        7,
    )


PAIR = {"prompt": "hi", "chosen": "hello", "rejected": "go away"}
ANSWER = {"prompt": "hi", "completion": "hello", "label": True}


@pytest.mark.parametrize(
    ("format", "row", "replies"),
    [
        (PairColumns, PAIR, ["hello", "go away"]),
        (PromptCompletionColumns, ANSWER, ["hello"]),
        (LabelledRows, ANSWER, ["hello"]),
        (ScoredResponses, {"prompt": "hi", "responses": ["a", "b"], "scores": [1, 2]}, ["b", "a"]),
        (AlpacaRows, {"instruction": "hi", "output": "hello"}, ["hello"]),
    ],
)
def test_text_as_chat_becomes_a_user_and_an_assistant_message(
    format: Callable[..., RowFormat], row: dict[str, object], replies: list[str]
) -> None:
    for wrapped, kept in ((format(as_chat=True), replies), (ChosenOnly(format(as_chat=True)), replies[:1])):
        record = wrapped.read(row, 0)
        assert record.prompt == (Message("user", "hi"),)
        assert [completion.text for completion in record.completions] == [(Message("assistant", reply),) for reply in kept]
    plain = format(as_chat=False).read(row, 0)
    assert isinstance(plain.prompt, str)
    assert [completion.text for completion in plain.completions] == replies


def test_a_pair_of_which_one_reply_is_text_is_a_conversation() -> None:
    texts = [side.text for side in PairColumns().read({**PAIR, "rejected": [BAD]}, 0).completions]
    assert texts == [(Message("assistant", "hello"),), (Message("assistant", "go away"),)]


@pytest.mark.parametrize(
    ("format", "row"),
    [
        (PairColumns(), {"prompt": [SYSTEM, USER], "chosen": [GOOD], "rejected": [BAD]}),
        (PairColumns(), {"prompt": [SYSTEM, USER], "chosen": "hello", "rejected": [BAD]}),
        (PairColumns(prompt=None), {"chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]}),
    ],
)
def test_the_ways_to_write_messages_mean_the_same(format: RowFormat, row: dict[str, object]) -> None:
    record = format.parse(row, 0)
    assert record.prompt == (Message("system", "be kind"), Message("user", "hi"))
    assert [completion.text for completion in record.completions] == [
        (Message("assistant", "hello"),),
        (Message("assistant", "go away"),),
    ]


def test_supervised_rows() -> None:
    row = {"prompt": "2+2=", "completion": "4"}
    assert PromptCompletionColumns().parse(row, 1) == Record("2+2=", (CompletionRecord("4", Role.CHOSEN, "chosen"),), 1)
    chat = PromptCompletionColumns(prompt=None, completion="messages").parse({"messages": [USER, GOOD]}, 2)
    assert chat == Record((Message("user", "hi"),), (CompletionRecord((Message("assistant", "hello"),), Role.CHOSEN, "chosen"),), 2)


def test_chosen_only_drops_the_rejected_side() -> None:
    record = ChosenOnly(PairColumns()).parse({"prompt": "a", "chosen": "b", "rejected": "c"}, 0)
    assert record == Record("a", (CompletionRecord("b", Role.CHOSEN, "chosen"),), 0)


@pytest.mark.parametrize(
    ("format", "row", "expected"),
    [
        (PairColumns(), {"prompt": "a", "chosen": "b"}, Fault.MISSING_FIELD),
        (PairColumns(), {"prompt": "a", "chosen": "b", "rejected": None}, Fault.MISSING_FIELD),
        (PairColumns(), {"prompt": 3, "chosen": "b", "rejected": "c"}, Fault.WRONG_TYPE),
        (PairColumns(), {"prompt": b"a", "chosen": "b", "rejected": "c"}, Fault.WRONG_TYPE),
        (PairColumns(), {"prompt": "a", "chosen": ["b"], "rejected": "c"}, Fault.WRONG_TYPE),
        (PairColumns(), {"prompt": "a", "chosen": [], "rejected": "c"}, Fault.WRONG_TYPE),
        (PairColumns(), {"prompt": "a", "chosen": [{"role": "assistant"}], "rejected": "c"}, Fault.WRONG_TYPE),
        (PairColumns(), {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [BAD]}, Fault.WRONG_TYPE),
        (PairColumns(), {"prompt": "a", "chosen": "b\ud800", "rejected": "c"}, Fault.NOT_UNICODE),
        (
            PairColumns(),
            {"prompt": "a", "chosen": [{"role": "assistant", "content": "\udc00"}], "rejected": "c"},
            Fault.NOT_UNICODE,
        ),
        (PairColumns(chosen_score="s"), {"prompt": "a", "chosen": "b", "rejected": "c", "s": "1"}, Fault.WRONG_TYPE),
        (PairColumns(chosen_score="s"), {"prompt": "a", "chosen": "b", "rejected": "c", "s": True}, Fault.WRONG_TYPE),
        (PairColumns(prompt=None), {"chosen": "b", "rejected": "c"}, Fault.WRONG_TYPE),
        (PairColumns(prompt=None), {"chosen": [GOOD], "rejected": [BAD]}, Fault.NOT_A_DIALOGUE),
        (PairColumns(prompt=None), {"chosen": [USER, USER], "rejected": [USER, BAD]}, Fault.NOT_A_DIALOGUE),
        (PairColumns(prompt=None), {"chosen": [USER, GOOD], "rejected": [SYSTEM, BAD]}, Fault.DIVERGING_PROMPTS),
    ],
)
def test_bad_rows_by_kind(format: RowFormat, row: dict[str, object], expected: Fault) -> None:
    assert fault(format, row) is expected


HISTORY = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c"


def test_dialogues_share_the_prompt_up_to_the_last_reply() -> None:
    row = {"chosen": HISTORY + "\n\nAssistant: d", "rejected": HISTORY + "\n\nAssistant: e\nf"}
    record = HHDialogues().parse(row, 0)
    assert record.prompt == (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    assert [c.text for c in record.completions] == [(Message("assistant", "d"),), (Message("assistant", "e\nf"),)]
    plain = HHDialogues(as_chat=False).parse(row, 0)
    assert plain.prompt == HISTORY + "\n\nAssistant:"
    assert [completion.text for completion in plain.completions] == [" d", " e\nf"]


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        (HISTORY + "\n\nAssistant: d", "\n\nHuman: a\n\nAssistant: b\n\nHuman: x\n\nAssistant: d", Fault.DIVERGING_PROMPTS),
        (HISTORY + "\n\nAssistant: d", HISTORY + "\n\nAssistant: d\n\nHuman: x\n\nAssistant: d", Fault.DIVERGING_PROMPTS),
        (HISTORY, HISTORY + "\n\nAssistant: d", Fault.NOT_A_DIALOGUE),
        ("no marks", HISTORY + "\n\nAssistant: d", Fault.NOT_A_DIALOGUE),
        ("\n\nAssistant: d", "\n\nAssistant: e", Fault.NOT_A_DIALOGUE),
        ([USER, GOOD], HISTORY + "\n\nAssistant: d", Fault.WRONG_TYPE),
    ],
)
def test_bad_dialogues_by_kind(chosen: object, rejected: object, expected: Fault) -> None:
    assert fault(HHDialogues(), {"chosen": chosen, "rejected": rejected}) is expected


def test_of_scored_responses_best_and_worst_are_the_pair_and_the_others_are_ranked() -> None:
    row = {"prompt": "hi", "responses": ["so", "good", "bad", "best?"], "scores": [0, 1, -1.5, 1]}
    record = ScoredResponses().parse(row, 3)
    sides = [(c.text, c.role, c.kind, c.score) for c in record.completions]
    assert sides == [
        ("good", Role.CHOSEN, "chosen", 1.0),
        ("bad", Role.REJECTED, "rejected", -1.5),
        ("so", Role.SAMPLE, "ranked", 0.0),
        ("best?", Role.SAMPLE, "ranked", 1.0),
    ]
    assert (record.prompt, record.row_number) == ("hi", 3)


def test_scored_responses_answer_a_chat() -> None:
    record = ScoredResponses(as_chat=True).read({"prompt": "hi", "responses": ["a", "b"], "scores": [1, 2]}, 0)
    assert record.prompt == (Message("user", "hi"),)
    assert [completion.text for completion in record.completions] == [(Message("assistant", "b"),), (Message("assistant", "a"),)]
    asked = ScoredResponses().parse({"prompt": [SYSTEM, USER], "responses": ["a", "b"], "scores": [1, 2]}, 0)
    assert asked.completions == record.completions


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"responses": ["a", "b"]}, Fault.MISSING_FIELD),
        ({"responses": "ab", "scores": [1, 2]}, Fault.WRONG_TYPE),
        ({"responses": ["a", "b"], "scores": [1]}, Fault.WRONG_TYPE),
        ({"responses": ["a", "b"], "scores": [1, "2"]}, Fault.WRONG_TYPE),
        ({"responses": ["a", "b"], "scores": [1, float("nan")]}, Fault.WRONG_TYPE),
        ({"responses": ["a", None], "scores": [1, 2]}, Fault.MISSING_FIELD),
        ({"responses": ["a", [GOOD]], "scores": [1, 2]}, Fault.WRONG_TYPE),
        ({"responses": ["a", "b"], "scores": [1, 1]}, Fault.NO_DIFFERENCE),
        ({"responses": [], "scores": []}, Fault.NO_DIFFERENCE),
    ],
)
def test_bad_rows_of_scored_responses_by_kind(cells: dict[str, object], expected: Fault) -> None:
    assert fault(ScoredResponses(), {"prompt": "hi", **cells}) is expected
