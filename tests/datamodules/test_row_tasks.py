"""Tasks whose problems are rows, each on a small file in its public format."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from datamodules.tasks.joined import JoinedTask
from datamodules.tasks.leaks import prompt_key
from datamodules.tasks.maths.chinese_maths import ChineseMathsTask
from datamodules.tasks.maths.competition_maths import CompetitionMathsTask
from datamodules.tasks.maths.gsm8k import GSM8KTask
from datamodules.tasks.rows import TaskRows
from datamodules.tasks.writing.poem import PoemTask
from datamodules.tasks.writing.poem_tokenizer import commonest_characters
from datamodules.tasks.writing.slogan import SloganTask
from judges.maths import MathsJudge
from judges.prosody.request import Form, read_request
from judges.slogan import SloganJudge

Write = Callable[[str, Iterable[Mapping[str, Any]]], TaskRows]
ROWS = "，白日依山尽，黄河入海流。欲穷千里目，更上一层楼。"
QUATRAIN = {"type": "绝句", "title": "登鹳雀楼", "author": "王之涣", "text": ROWS[1:]}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, rows: Iterable[Mapping[str, Any]]) -> TaskRows:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return TaskRows(str(path))

    return write


def _gsm8k(number: int) -> dict[str, str]:
    sum_ = number + 1
    return {"question": f"What is {number} + 1?", "answer": f"It is {number} + 1 = <<{number}+1={sum_}>>{sum_}.\n#### {sum_}"}


def test_gsm8k_and_other_models_answers(write: Write) -> None:
    others = {"6b": {"solution": "2\nA: <<1+1=2>>2", "is_correct": True}, "175b": {"solution": " ", "is_correct": False}}
    pool = write("solutions.jsonl", [{"question": "One and one?", "ground_truth": "1+1=2\nA: 2", **others}])
    task = GSM8KTask(train=write("train.jsonl", [_gsm8k(3)]), pool=pool, test=write("test.jsonl", [_gsm8k(5)]))
    (item,) = task.items("train")
    assert item.prompt == "Question: What is 3 + 1?\nAnswer:\n"
    assert item.solution == item.answer == "It is 3 + 1 = 4.\n#### 4"
    with MathsJudge() as judge:
        assert judge.judge(item.prompt, "So it is\n#### 4", item.answer).details["correct"] == 1
    (item,) = task.items("pool")
    # The model that said nothing is left out, the problem is not.
    assert item.others == (("6b", "2\nA: 2"),)
    assert list(task.items("val")) == []
    with pytest.raises(ValueError, match="expected one of train"):
        list(task.items("dev"))
    kept = GSM8KTask(train=task.train, keep_calculator=True, is_chat=True, template="{question}")
    (item,) = kept.items("train")
    assert "<<3+1=4>>" in str(item.solution)
    assert [(message.role, message.content) for message in item.text] == [("user", "What is 3 + 1?")]  # type: ignore[union-attr]


def test_held_out_prompts_are_left_out_of_training_exactly_and_in_spirit(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    train = write("train.jsonl", [_gsm8k(n) for n in range(6)])
    respelt = {**_gsm8k(2), "question": "what is  2+1 ?"}
    task = GSM8KTask(train=train, pool=train, test=write("test.jsonl", [_gsm8k(0), respelt]), val=write("val.jsonl", [_gsm8k(5)]))
    held_out = {prompt_key(item.prompt) for split in ("val", "test") for item in task.items(split)}
    for split in ("train", "pool"):
        prompts = [item.prompt for item in task.items(split)]
        assert [prompt.split()[3] for prompt in prompts] == ["1", "3", "4"]
        assert held_out.isdisjoint(map(prompt_key, prompts))
    assert prompt_key("Ａ b, C!") == prompt_key("a B c") != prompt_key("a b d")
    assert "left out 3 problems" in caplog.text


def test_parts_of_one_source_do_not_meet(write: Write) -> None:
    path = write("all.jsonl", [_gsm8k(n) for n in range(20)]).path
    part = partial(TaskRows, path, shuffle_seed=3)
    task = GSM8KTask(test=part(limit=5), val=part(skip=5, limit=3), pool=part(skip=8, limit=4), train=part(skip=12))
    splits = {split: [item.prompt for item in task.items(split)] for split in ("train", "pool", "val", "test")}
    assert {split: len(prompts) for split, prompts in splits.items()} == {"train": 8, "pool": 4, "val": 3, "test": 5}
    assert len({prompt for prompts in splits.values() for prompt in prompts}) == 20
    assert splits["test"] == [item.prompt for item in task.items("test")]
    # Shuffled by the seed.
    assert splits["test"] != [f"Question: What is {n} + 1?\nAnswer:\n" for n in range(5)]


def test_bad_rows_are_named_or_counted(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    rows = write("train.jsonl", [_gsm8k(1), {"question": "no answer"}, {"question": " ", "answer": "1"}])
    with pytest.raises(ValueError, match="2 bad ones of 3"):
        list(GSM8KTask(train=rows).items("train"))
    assert len(list(GSM8KTask(train=rows, on_bad_row="skip").items("train"))) == 1
    assert "rows 1" in caplog.text


def test_a_prompt_is_examined_once_but_every_solution_is_learnt_from(write: Write) -> None:
    rows = write("rows.jsonl", [_gsm8k(1), {**_gsm8k(1), "answer": "#### 2"}, _gsm8k(2)])
    assert len(list(GSM8KTask(train=rows).items("train"))) == 3
    items = list(GSM8KTask(test=rows).items("test"))
    assert [item.answer for item in items] == ["It is 1 + 1 = 2.\n#### 2", "It is 2 + 1 = 3.\n#### 3"]


def test_math_from_a_file_and_from_the_original_folder(write: Write, tmp_path: Path) -> None:
    problems = [{"problem": f"P{n}", "level": f"Level {n}", "type": "Algebra", "solution": f"So \\boxed{{{n}}}."} for n in (1, 5)]
    rows = write("math.jsonl", problems)
    assert [item.answer for item in CompetitionMathsTask(test=rows).items("test")] == ["So \\boxed{1}.", "So \\boxed{5}."]
    assert [item.prompt for item in CompetitionMathsTask(test=rows, levels=(5,)).items("test")] == ["Question: P5\nAnswer:\n"]
    for number, problem in enumerate(problems):
        file = tmp_path / "MATH" / "test" / "algebra" / f"{number}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(problem, indent=4))
    folder = TaskRows(str(tmp_path / "MATH/test/*/*.json"))
    assert list(CompetitionMathsTask(test=folder).items("test")) == list(CompetitionMathsTask(test=rows).items("test"))


def test_chinese_problems_of_both_sources_are_for_testing_alone(write: Write) -> None:
    rows = [{"question": "一加一？", "answer": "2"}, {"original_text": "一加二？", "ans": "(6/2)", "equation": "x=1+2"}]
    task = ChineseMathsTask(test=write("test.jsonl", rows))
    items = list(task.items("test"))
    assert [item.answer for item in items] == ["2", "(6/2)"]
    assert items[0].prompt.startswith("一加一？\n")
    assert list(task.items("train")) == []
    with MathsJudge() as judge:
        assert judge.judge(items[1].prompt, "1+2=3\n【3】", items[1].answer).details["correct"] == 1
    with pytest.raises(ValueError, match="expected a test split only"):
        ChineseMathsTask(train=task.test)


def test_poems_ask_for_what_the_judge_reads(write: Write) -> None:
    ci = {"rhythmic": "如梦令", "author": "李清照", "paragraphs": ["常记溪亭日暮，沉醉不知归路。", "兴尽晚回舟，误入藕花深处。"]}
    untyped = {"title": "无题", "author": "x", "paragraphs": ["相见时难别亦难，东风无力百花残。" * 4]}
    fragment = {"type": "古诗", "title": "句", "author": "x", "text": "今秋已约天台月。"}
    unquotable = {**QUATRAIN, "title": "《a》"}
    task = PoemTask(test=write("poems.jsonl", [QUATRAIN, ci, untyped, fragment, unquotable]))
    items = list(task.items("test"))
    assert [item.prompt for item in items] == [
        "写一首五言绝句，题目为《登鹳雀楼》。\n",
        "仿李清照填一首宋词，词牌为《如梦令》。\n",
        "写一首七言律诗，题目为《无题》。\n",
    ]
    assert items[0].solution == f"《登鹳雀楼》\n{QUATRAIN['text']}"
    assert [item.subset for item in items] == ["绝句", "宋词", "律诗"]
    requests = [read_request(item.prompt) for item in items]
    assert [request.form for request in requests] == [Form.QUATRAIN, Form.CI, Form.REGULATED]
    assert (requests[0].words_per_row, requests[0].title, requests[1].tune) == (5, "登鹳雀楼", "如梦令")
    assert len(list(PoemTask(test=task.test, forms=("绝句",)).items("test"))) == 1
    with pytest.raises(ValueError, match="forms among"):
        PoemTask(forms=("sonnet",))


def test_the_commonest_characters_come_first(write: Write) -> None:
    poems = [{**QUATRAIN, "title": "山" * n} for n in range(1, 4)]
    characters = commonest_characters(write("poems.jsonl", poems).path, 5)
    assert len(characters) == 5
    # Twice in the title of each (prompt and answer), once more in the poem: 2 * 6 + 3.
    assert characters[0] == "山"


def test_slogans_from_csv(tmp_path: Path) -> None:
    path = tmp_path / "slogans.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["desc", "output", "alias", "company"])
        writer.writeheader()
        writer.writerow({"desc": "<company> sells,\nlots", "output": "Lots at <company>", "alias": "Acme", "company": "acme ltd"})
    (item,) = SloganTask(test=TaskRows(str(path))).items("test")
    assert "Acme sells,\nlots" in item.prompt
    assert item.solution == "Lots at Acme"
    assert SloganJudge().judge(item.prompt, item.solution).details == {"word_count": 1.0}


def test_joined_tasks_are_marked_and_share_what_they_hold_out(write: Write) -> None:
    first = GSM8KTask(train=write("a.jsonl", [_gsm8k(1), _gsm8k(2)]), test=write("b.jsonl", [_gsm8k(3)]))
    second = ChineseMathsTask(test=write("c.jsonl", [_gsm8k(2)]), template="Question: {question}\nAnswer:")
    joined = JoinedTask(tasks=[first, second])
    assert [item.subset for item in joined.items("test")] == ["gsm8k", "chinese_maths"]
    # The other task's test problem is left out of this one's training data.
    assert [item.answer for item in joined.items("train")] == ["It is 1 + 1 = 2.\n#### 2"]
    with pytest.raises(ValueError, match="different names"):
        JoinedTask(tasks=[first, first])
