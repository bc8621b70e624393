"""What the repository ships: the embedded model, its tokenizer, and the pool that was sampled from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from datamodules.contracts.prompts import Sampling
from datamodules.pool.files import read_pool
from datamodules.pool.scenarios import SCENARIOS, PairRules, view_scenario
from datamodules.pool.schema import PoolRow
from datamodules.tasks.arithmetic.task import ArithmeticTask
from datamodules.tasks.arithmetic.tokenizer import build_tokenizer
from judges.arithmetic import ArithmeticJudge
from lightning_modules.models.specs import PretrainedPolicy

ASSETS = Path(__file__).parents[1] / "assets" / "arithmetic"
RULES = PairRules(min_gap=1.0, min_chosen_score=4.0)


@pytest.fixture(scope="module")
def pool() -> dict[int, PoolRow]:
    rows, report = read_pool(ASSETS / "pool.jsonl.xz")
    assert not report.num_bad
    return rows


def test_the_weights_are_small_and_leave_preference_something_to_do() -> None:
    assert (ASSETS / "base" / "model.safetensors").stat().st_size < 5_000_000
    policy, tokenizer, judge = PretrainedPolicy(str(ASSETS / "base")).build(), build_tokenizer(), ArithmeticJudge()
    items = list(ArithmeticTask(num_test=120).items("test"))
    prompts = [tokenizer(str(item.prompt))["input_ids"] for item in items]
    drawn = policy.sample(prompts, Sampling(80, temperature=0.0), eos_token_id=1, seed=0)
    answers = [tokenizer.decode(completion, skip_special_tokens=True) for completion in drawn]
    scores = [judge.judge(str(item.prompt), answer, item.answer).score for item, answer in zip(items, answers, strict=True)]
    assert 0.5 <= sum(score >= 4 for score in scores) / len(scores) <= 0.75


def test_the_tokenizer_is_the_one_that_the_code_builds() -> None:
    text = next(ArithmeticTask(num_test=1).items("test")).answer
    shipped = AutoTokenizer.from_pretrained(ASSETS / "base")
    assert shipped(text)["input_ids"] == build_tokenizer()(text)["input_ids"]
    assert shipped.get_vocab() == build_tokenizer().get_vocab()


def test_the_pool_holds_eight_candidates_of_either_model_and_the_solution(pool: dict[int, PoolRow]) -> None:
    assert len(pool) == 1200
    for row in pool.values():
        sources = [response.source for response in row.responses]
        assert (sources.count("policy"), sources.count("weaker"), sources.count("dataset")) == (8, 8, 1)


def test_the_pool_was_drawn_from_the_shipped_weights(pool: dict[int, PoolRow]) -> None:
    fingerprint = PretrainedPolicy(str(ASSETS / "base")).build().fingerprint()
    assert {response.model for row in pool.values() for response in row.responses if response.source == "policy"} == {fingerprint}


def test_the_judge_gives_the_scores_that_the_pool_holds(pool: dict[int, PoolRow]) -> None:
    judge = ArithmeticJudge()
    for row in list(pool.values())[::12]:
        for response in row.responses:
            assert judge.judge(str(row.prompt), response.text, row.answer).score == response.score


def test_the_four_scenarios_share_their_prompts_and_none_is_held_out(pool: dict[int, PoolRow]) -> None:
    views = {scenario: view_scenario(pool, scenario, rules=RULES) for scenario in SCENARIOS}
    prompts = {scenario: [pair.row_number for pair in view.pairs] for scenario, view in views.items()}
    assert len(prompts[1]) > 800
    assert all(rows == prompts[1] for rows in prompts.values())
    held_out = {item.prompt for item in ArithmeticTask(num_test=2000).items("test")}
    assert not held_out & {row.prompt for row in pool.values()}


def test_no_path_of_a_machine_is_shipped() -> None:
    config = json.loads((ASSETS / "base" / "config.json").read_text(encoding="utf-8"))
    assert "_name_or_path" not in config
