"""A plain file of prompts: sampled, judged and tested on, with no task class of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.cli import LightningCLI

from datamodules.pool.files import read_pool
from datamodules.sources.readers import DataSource
from datamodules.tasks.base import TaskItem
from datamodules.tasks.prompt_file import PromptFile
from datamodules.tasks.rows import TaskRows
from judges.answer import AnswerJudge
from run_folder.rows import ANSWERS, read_rows
from tests import tiny

Run = Callable[..., LightningCLI]
ROOT = Path(__file__).parent.parent
SHORT = ("--trainer.accelerator", "cpu", "--data.max_new_tokens", "6", "--data.test_decoding.max_new_tokens", "6")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny.write_model(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def experiment(name: str) -> tuple[Any, ...]:
    return ("--config", ROOT / f"configs/experiment/{name}.yaml", "--model.policy.path", "model", *SHORT)


def test_lines_of_a_text_file_are_sampled_without_a_judge(folder: Path, run: Run) -> None:
    (folder / "prompts.txt").write_text("w1 w2\n\n  w3 w4 w5 \nw1 w2\n")
    run("predict", *experiment("prompts_sample"), "--data.task.pool.path", "prompts.txt", "--data.num_samples", "3")
    rows, report = read_pool(folder / "runs/prompts_sample/pool.jsonl")
    assert report.num_bad == 0
    asked = [row.prompt if isinstance(row.prompt, str) else row.prompt[0].content for row in rows.values()]
    assert sorted(asked) == ["w1 w2", "w3 w4 w5"]
    responses = [response for row in rows.values() for response in row.responses]
    assert [(response.source, response.score, response.judge) for response in responses] == [("policy", None, None)] * 6


def test_answers_are_judged_where_there_is_a_gold_one(folder: Path, run: Run) -> None:
    questions = [{"question": f"w{n}", "gold": "w1"} for n in range(4)]
    (folder / "questions.json").write_text(json.dumps(questions))
    columns = ("--data.task.test.path", "questions.json", "--data.task.prompt", "question", "--data.task.answer", "gold")
    # Names no answer of one word but the one that is judged right, so that both outcomes occur.
    run("test", *experiment("prompts_test"), *columns, "--data.task.judge", "answer")
    said = list(read_rows(folder / "runs/prompts_test/version_0", ANSWERS))
    assert [(row["prompt"], row["answer"]) for row in said] == [(row["question"], row["gold"]) for row in questions]
    assert [row["score"] for row in said] == [float("w1" in row["response"].split()) for row in said]
    (cell,) = read_rows(folder / "runs/prompts_test/version_0", "test")
    assert (cell["column"], cell["mean"], cell["count"]) == ("score", sum(row["score"] for row in said) / 4, 4)

    run("test", *experiment("prompts_test"), *columns)
    unjudged = list(read_rows(folder / "runs/prompts_test/version_1", ANSWERS))
    assert [row["response"] for row in unjudged] == [row["response"] for row in said]
    assert "score" not in unjudged[0]


def test_columns_of_a_prompt_are_joined_and_answers_may_be_numbers_or_missing(tmp_path: Path) -> None:
    rows = [{"title": "T", "body": "B", "n": 3}, {"title": "", "body": "C", "n": None}, {"title": "D", "body": "E"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = TaskRows(str(tmp_path / "rows.jsonl"))
    task = PromptFile(prompt=("title", "body"), answer="n", template="Q: {prompt}\nA:", test=source, is_chat=True)
    assert list(task.items("test")) == [
        TaskItem("Q: T\nB\nA:", "3", is_chat=True),
        TaskItem("Q: C\nA:", None, is_chat=True),
        TaskItem("Q: D\nE\nA:", None, is_chat=True),
    ]
    with pytest.raises(ValueError, match="no 'prompt' among"):
        list(PromptFile(test=source).items("test"))
    with pytest.raises(ValueError, match=r"template with \{prompt\} in it"):
        PromptFile(template="Q: {question}")


def test_a_text_file_is_prompts_only_where_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("About the data.\n")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    assert list(DataSource(str(tmp_path)).rows()) == [{"prompt": "a"}]
    assert DataSource(str(tmp_path)).passed_over() == ["README.txt"]
    assert list(TaskRows(str(tmp_path / "README.txt")).rows()) == [{"prompt": "About the data."}]


@pytest.mark.parametrize(
    ("response", "answer", "score", "exact"),
    [
        ("Paris", "Paris", 1, 1),
        ("It is PARIS.", "paris", 1, 0),
        ("Comparison", "Paris", 0, 0),
        ("New York City", "york city", 1, 0),
        ("City York", "York City", 0, 0),
        ("The answer is 3.5!", "3.5", 1, 0),
        ("35", "3.5", 0, 0),
        ("-4", "4", 0, 0),
        ("x-4", "4", 1, 0),
        ("", "4", 0, 0),
    ],
)
def test_the_answer_judge_compares_words(response: str, answer: str, score: float, exact: float) -> None:
    verdict = AnswerJudge().judge("?", response, answer)
    assert (verdict.score, verdict.details) == (score, {"exact": exact})
    assert AnswerJudge(exact=True).judge("?", response, answer).score == exact


def test_a_prompt_without_a_gold_answer_is_said() -> None:
    with pytest.raises(ValueError, match=r"got none for the prompt 'why\?'"):
        AnswerJudge().judge("why?", "so", None)
