from __future__ import annotations

import re
from itertools import islice

import pytest

from datamodules.tasks.arithmetic.problems import MAX_RESULT, generate, split_of
from datamodules.tasks.arithmetic.task import ArithmeticTask
from datamodules.tasks.arithmetic.templates import NAMES, TEMPLATES, THINGS
from datamodules.tasks.arithmetic.tokenizer import build_tokenizer
from judges.arithmetic import ArithmeticJudge


def _normalised(prompt: str) -> str:
    """The numbers and the words that carry the story: names and things are taken out."""
    return re.sub(rf"\b({'|'.join((*NAMES, *THINGS))})\b", "_", prompt)


def test_known_problems_stay_as_they_are() -> None:
    # The shipped weights and pool were made from these streams: a change of the generator would make them something else.
    problem = next(generate("test", 1, 0))
    assert (problem.prompt, problem.worded, problem.key) == (
        "David has 48 dollars and buys 5 tickets at 7 each. How much is left?",
        "The tickets cost 5 * 7 = 35.\nThat leaves 48 - 35 = 13.\n#### 13",
        "change:48,5,7",
    )


def test_same_seed_same_problems_and_a_longer_stream_goes_on() -> None:
    assert list(generate("train", 50, 3)) == list(islice(generate("train", 80, 3), 50))
    assert list(generate("train", 50, 3)) != list(generate("train", 50, 4))


def test_splits_share_no_prompt_exact_or_normalised() -> None:
    names: tuple[str, ...] = ("train", "pool", "val", "test")
    splits = {split: list(generate(split, 1500, seed)) for seed, split in enumerate(names)}
    for split, problems in splits.items():
        assert len({problem.prompt for problem in problems}) == len(problems)
        assert {split_of(problem.key) for problem in problems} == {split}
        for other in splits.keys() - {split}:
            assert {p.prompt for p in problems}.isdisjoint(p.prompt for p in splits[other])
            assert {_normalised(p.prompt) for p in problems}.isdisjoint(_normalised(p.prompt) for p in splits[other])


def test_both_hands_are_right_and_numbers_stay_small() -> None:
    judge = ArithmeticJudge()
    problems = list(generate("train", 600, 1))
    for problem in problems:
        assert judge.judge(problem.prompt, problem.worded, problem.terse).score == 5
        assert judge.judge(problem.prompt, problem.terse, problem.worded).score == 5
        assert max(map(int, re.findall(r"\d+", problem.worded))) <= MAX_RESULT
    assert {problem.key.split(":")[0] for problem in problems} == {template.name for template in TEMPLATES}


def test_more_problems_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="at most"):
        list(generate("test", 10**6, 0))


def test_task_mixes_hands_by_share() -> None:
    def share_of_terse(terse_share: float) -> float:
        items = list(ArithmeticTask(num_train=400, terse_share=terse_share).items("train"))
        return sum(item.solution == item.answer for item in items) / len(items)

    assert share_of_terse(0) == 0
    assert share_of_terse(1) == 1
    assert abs(share_of_terse(0.2) - 0.2) < 0.07


def test_tokenizer_round_trip_is_one_token_a_character() -> None:
    tokenizer = build_tokenizer()
    for problem in generate("train", 50, 2):
        for text in (problem.prompt, problem.worded, problem.terse):
            ids = tokenizer(text)["input_ids"]
            assert len(ids) == len(text)
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text
    assert tokenizer("é")["input_ids"] == [tokenizer.unk_token_id]
    assert tokenizer.decode([*tokenizer("a\nb")["input_ids"], tokenizer.eos_token_id], skip_special_tokens=True) == "a\nb"
