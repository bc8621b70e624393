"""`train.py test` with a task: decoded, judged, the paper's table row with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.cli import LightningCLI

from callbacks.answers.results_table import ALL, Outcome, table_cells
from datamodules.contracts.prompts import Sampling
from datamodules.pool.files import write_pool
from datamodules.pool.schema import PoolRow, Response
from datamodules.tasks.arithmetic.tokenizer import build_tokenizer
from judges.arithmetic import ArithmeticJudge
from judges.base import Verdict
from judges.slogan import SloganJudge
from run_folder.rows import read_rows
from tests import tiny
from tests.test_sampling import JUDGE, TASK, policy

Run = Callable[..., LightningCLI]


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """DPO on a pool of two prompts, with seven test problems."""
    build_tokenizer().save_pretrained(tmp_path / "tokenizer")
    texts = {"dataset": 5.0, "policy": 1.0, "small": 1.0}
    responses = (*(Response(name, name, score) for name, score in texts.items()), Response("good", "policy", 5.0))
    write_pool(tmp_path / "pool.jsonl", [PoolRow(f"What is {number}?", responses) for number in range(2)])
    data = {
        "pool": str(tmp_path / "pool.jsonl"),
        "scenario": 1,
        "tokenizer": str(tmp_path / "tokenizer"),
        "task": TASK,
        "test_decoding": {"max_new_tokens": 10, "prompts_per_batch": 3},
    }
    model = tiny.module(tmp_path)
    model["init_args"]["policy"] = policy(0)
    table = {"class_path": "callbacks.answers.results_table.ResultsTable", "init_args": {"judge": JUDGE}}
    return {
        "trainer": tiny.trainer(tmp_path, [table]),
        "model": model,
        "data": {"class_path": "datamodules.pool.data.PoolDataModule", "init_args": data},
    }


def test_the_test_problems_are_decoded_and_judged(
    config: dict[str, Any],
    run: Run,
    write_config: Callable[[Mapping[str, Any], str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli = run("test", "--config", write_config(config, "test"))
    folder = Path(cli.trainer.log_dir or "")
    problems = cli.datamodule.task_prompts()
    assert len(problems) == 7
    drawn = cli.model.policy.sample([p.prompt_ids for p in problems], Sampling(10, 0.0), eos_token_id=1, seed=0)
    texts = [cli.datamodule.tokenizer.decode(ids, skip_special_tokens=True) for ids in drawn]
    rows = read_rows(folder, "test_responses")
    assert [(row["prompt"], row["response"]) for row in rows] == [(p.item.prompt, t) for p, t in zip(problems, texts, strict=True)]
    verdicts = [ArithmeticJudge().judge("", text, p.item.answer) for text, p in zip(texts, problems, strict=True)]
    expected = sum(verdict.details["correct"] for verdict in verdicts) / 7
    cells = {row["column"]: row for row in read_rows(folder, "test")}
    assert list(cells) == ["five_points", "four_and_five_points", "accuracy"]
    assert cells["accuracy"]["mean"] == expected
    assert {cell["count"] for cell in cells.values()} == {7}
    assert {cell["subset"] for cell in cells.values()} == {"arithmetic"}
    assert "four and five" in capsys.readouterr().out
    metrics = (folder / "metrics.csv").read_text().splitlines()
    assert "test/arithmetic/accuracy" in metrics[0]


def test_a_task_without_test_problems_is_an_error(
    config: dict[str, Any], run: Run, write_config: Callable[[Mapping[str, Any], str], Path]
) -> None:
    config["data"]["init_args"]["task"] = None
    with pytest.raises(ValueError, match="test problems"):
        run("test", "--config", write_config(config, "test"))


def test_sets_are_weighted_by_size_and_columns_that_do_not_apply_are_left_out() -> None:
    outcomes = [Outcome("large", {"rhyme": 1.0})] * 3 + [Outcome("small", {"rhyme": 0.0, "title": 0.5})]
    cells = {(cell.subset, cell.column): cell for cell in table_cells(outcomes, level=0.95, num_resamples=50, seed=0)}
    assert set(cells) == {("large", "rhyme"), ("small", "rhyme"), ("small", "title"), (ALL, "rhyme"), (ALL, "title")}
    together = cells[ALL, "rhyme"]
    # By size, not the mean of the sets' means; and two sets of one value each have no spread.
    assert (together.mean, together.low, together.high, together.count) == (0.75, 0.75, 0.75, 4)
    assert cells[ALL, "title"].count == 1


def test_judges_say_what_the_columns_are() -> None:
    judge = ArithmeticJudge()
    assert judge.results(Verdict(4.0, "", details={"correct": 1.0})) == {
        "five_points": 0.0,
        "four_and_five_points": 1.0,
        "accuracy": 1.0,
    }
    # A right answer after a wrong step: 3 points.
    assert judge.results(Verdict(3.0, "", details={"correct": 1.0}))["four_and_five_points"] == 0
    slogan = SloganJudge()
    assert slogan.results(slogan.judge("at most 4 words", "Just do it")) == {"word_count": 1.0}
