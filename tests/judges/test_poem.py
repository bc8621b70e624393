import json
from pathlib import Path

import pytest

from judges.poem import PoemJudge
from tests.judges.test_prosody import CILIN, PINGSHUI, raw

POEM = "《登楼》\n白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。"


@pytest.fixture
def judge(tmp_path: Path) -> PoemJudge:
    (tmp_path / "Pingshui_Rhyme.json").write_text(json.dumps(PINGSHUI))
    (tmp_path / "Cilin_Rhyme.json").write_text(json.dumps(CILIN))
    (tmp_path / "ci_index.json").write_text(json.dumps([{"idx": 0, "names": ["试灯"]}]))
    (tmp_path / "ci_list").mkdir()
    formats = [raw(["中平平韵仄仄平句", "仄仄读平平韵"], {"0": [2, 5, 9]})]
    (tmp_path / "ci_list" / "cipai_0.json").write_text(json.dumps(formats))
    return PoemJudge(str(tmp_path), str(tmp_path))


def test_a_perfect_quatrain(judge: PoemJudge) -> None:
    verdict = judge.judge("写一首五言绝句，题目为《登楼》。", POEM)
    assert verdict.score == 1.0
    assert verdict.details == dict.fromkeys(("row_number", "words_per_row", "rhyme", "tone_pattern", "title"), 1.0)
    assert verdict.reason.startswith("row_number 1.00, words_per_row 1.00, rhyme 1.00")


def test_a_title_is_graded_only_if_it_was_asked_for(judge: PoemJudge) -> None:
    assert "title" not in judge.judge("写一首绝句", POEM).details
    assert judge.judge("写一首绝句，题目为《登楼》", POEM.split("\n", 1)[1]).details["title"] == 0.0
    assert judge.judge("写一首绝句，题目为《登高》", POEM).details["title"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("prompt", "text", "expected"),
    [
        ("写一首七言绝句", POEM, {"row_number": 1.0, "words_per_row": 0.0, "rhyme": 1.0, "tone_pattern": 0.0}),
        ("写一首律诗", POEM, {"row_number": 0.5, "words_per_row": 0.5, "rhyme": 1 / 3, "tone_pattern": 0.5}),
        ("写一首绝句", "白日依山尽，黄河入海流。", {"row_number": 0.5, "words_per_row": 0.5, "rhyme": 0.0}),
        ("写一首绝句", "白日依山，黄河入海。欲穷千里，更上一层。", {"row_number": 1.0, "words_per_row": 0.0}),
        ("写一首绝句", "", {"row_number": 0.0, "words_per_row": 0.0, "rhyme": 0.0, "tone_pattern": 0.0}),
        ("写一首古诗", "白日流，黄河楼。山空红，山海风。", {"row_number": 1.0, "words_per_row": 1.0, "rhyme": 1.0}),
        ("写一首古诗", "白日流，黄河海。海空。", {"row_number": 0.75, "words_per_row": 2 / 3, "rhyme": 0.0}),
        ("写一首五言古诗", "白日流，黄河入海楼。", {"words_per_row": 0.5}),
        ("写一首现代诗", "我看海，\n海看我。", {"row_number": 0.5, "words_per_row": 1.0}),
        ("写一首现代诗", "黄" * 30 + "\n海\n海\n海", {"row_number": 1.0, "words_per_row": 0.75}),
    ],
)
def test_each_form_has_its_rules(judge: PoemJudge, prompt: str, text: str, expected: dict[str, float]) -> None:
    details = judge.judge(prompt, text).details
    assert {name: details[name] for name in expected} == pytest.approx(expected)


def test_a_ci_is_graded_by_its_tune(judge: PoemJudge) -> None:
    verdict = judge.judge("请填一首宋词，词牌为《试灯》，题目为《春》", "《试灯・春》\n海山流。白日楼，海里、黄平。")
    assert verdict.details == dict.fromkeys(("row_number", "words_per_row", "rhyme", "tone_pattern", "title"), 1.0)
    assert judge.judge("请填一首宋词，词牌为《试灯》", "《别调》\n海山流。").details["title"] == 0.0


def test_an_unknown_tune_is_graded_on_rhyme_and_title(judge: PoemJudge) -> None:
    verdict = judge.judge("请填一首宋词，词牌为《无名》", "《无名》\n海山流。白日楼。黄河海。")
    assert verdict.details == pytest.approx({"rhyme": 2 / 3, "title": 1.0})


def test_a_ci_needs_tune_patterns(judge: PoemJudge, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Give the judge a tune_folder"):
        PoemJudge(str(tmp_path)).judge("请填一首宋词，词牌为《试灯》", "海山流。")
