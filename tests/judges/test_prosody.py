import json
import logging
from pathlib import Path

import pytest

from judges.prosody.books import RhymeBooks
from judges.prosody.ci import align, grade_ci
from judges.prosody.regulated import count_kept, templates, tone_share
from judges.prosody.request import Form, PoemRequest, read_request
from judges.prosody.tunes import RawFormat, TuneFormat, TunePatterns, read_format
from judges.prosody.verse import read_lines, read_verse

# A small book: 流 and 楼 rhyme (尤); 空 is level and oblique; 动 rhymes with 空 only across tones.
PINGSHUI = {
    "上平声部": {"甲": list("空风红山"), "乙": list("黄河")},
    "下平声部": {"丙": list("流楼平千穷依层")},
    "上声部": {"丁": list("海里动")},
    "入声部": {"戊": list("白日欲目一"), "己": list("入尽更上")},
    "去声部": {"庚": list("空")},
}
CILIN = {"第一部": {"平声": list("空风红"), "仄声": list("动")}, "第二部": {"平声": list("流楼红")}}
QUATRAIN = ("白日依山尽", "黄河入海流", "欲穷千里目", "更上一层楼")


@pytest.fixture
def books() -> RhymeBooks:
    return RhymeBooks(PINGSHUI, CILIN)


def test_tones_are_those_of_every_reading(books: RhymeBooks) -> None:
    assert books.tones("空") == {"平", "仄"}
    assert books.tones("海") == {"仄"}
    assert books.tones("龘") == frozenset()
    assert books.has_tone("龘", "平")
    assert books.tones("邨") == books.tones("村")


@pytest.mark.parametrize(
    ("endings", "share"),
    [("流楼", 1.0), ("流海", 0.0), ("流楼空风", 1 / 3), ("流流", 0.0), ("流", 0.0), ("红空", 1.0), ("红楼", 1.0), ("空动", 0.0)],
)
def test_the_kinder_book_decides_and_a_repeated_word_is_no_rhyme(books: RhymeBooks, endings: str, share: float) -> None:
    assert books.rhyme_share(endings) == pytest.approx(share)


def test_some_tunes_repeat_a_word_or_rhyme_across_tones(books: RhymeBooks) -> None:
    assert books.rhyme_share("流流", uses=2) == 1.0
    assert books.rhyme_share("流流流", uses=2) == 0.5
    assert books.rhyme_share("空动", across_tones=True) == 1.0


def test_missing_books_are_named(tmp_path: Path) -> None:
    (tmp_path / "Cilin_Rhyme.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"got no Pingshui_Rhyme\.json\. Name a folder"):
        RhymeBooks.load(tmp_path)


def test_a_poem_is_taken_apart() -> None:
    verse = read_verse("《登楼・其一》 佚名\n白日依山尽，黄河、入海流。\n欲穷千里目，更上一层楼！")
    assert verse.title == "登楼・其一"
    assert verse.rows == QUATRAIN
    assert verse.row_ends == (5, 10, 15, 20)
    assert verse.pauses == {7}
    assert verse.sentence_rows == (1, 3)
    assert verse.endings == ("尽", "流", "目", "楼")


@pytest.mark.parametrize(
    ("response", "title"),
    [
        ("登楼\n白日依山尽，黄河入海流。", "登楼"),
        ("题目：登楼\n白日依山尽，", "登楼"),
        ("**《登楼》**\n白日", "登楼"),
        ("白日依山尽，黄河入海流。", None),
        ("白日依山尽\n黄河入海流", None),
        ("", None),
    ],
)
def test_titles(response: str, title: str | None) -> None:
    assert read_verse(response).title == title


def test_lines_of_modern_verse_may_hold_several_clauses() -> None:
    assert read_lines("《海》\n我看海，海看我。\n\n夜来了") == ("海", ("我看海海看我", "夜来了"))


@pytest.mark.parametrize(
    ("prompt", "request_"),
    [
        ("请写一首七言绝句，题目为《春》。", PoemRequest(Form.QUATRAIN, 7, "春")),
        ("以《读七律有感》为题写一首绝句", PoemRequest(Form.QUATRAIN, None, "读七律有感")),
        ("写一首律诗，每句五个字", PoemRequest(Form.REGULATED, 5)),
        ("请填一首宋词，词牌为《浣溪沙》，题目是《春》", PoemRequest(Form.CI, None, "春", "浣溪沙")),
        ("以《浣溪沙》为词牌写一首词", PoemRequest(Form.CI, None, None, "浣溪沙")),
        ("词牌名：如梦令。请写宋词", PoemRequest(Form.CI, None, None, "如梦令")),
        ("写一首五言古诗", PoemRequest(Form.ANCIENT, 5)),
        ('Write a quatrain titled "Spring".', PoemRequest(Form.QUATRAIN, None, "Spring")),
        ("写一首现代诗，标题：海", PoemRequest(Form.MODERN, None, "海")),
    ],
)
def test_a_prompt_says_what_is_wanted(prompt: str, request_: PoemRequest) -> None:
    assert read_request(prompt) == request_


def test_a_prompt_without_a_form_is_refused() -> None:
    with pytest.raises(ValueError, match="got '写一首'"):
        read_request("写一首")


def test_a_perfect_quatrain_keeps_all_its_tones(books: RhymeBooks) -> None:
    assert tone_share(QUATRAIN, 4, 5, books) == 1.0


def test_each_wrong_tone_costs_its_share(books: RhymeBooks) -> None:
    rows = ("白日依海尽", *QUATRAIN[1:])
    assert tone_share(rows, 4, 5, books) == pytest.approx(16 / 17)  # 4 + 5 + 4 + 4 tones are prescribed
    assert tone_share((QUATRAIN[0], "黄河入海", *QUATRAIN[2:]), 4, 5, books) == pytest.approx(12 / 17)


def test_the_twin_of_the_third_row_type_is_accepted(books: RhymeBooks) -> None:
    assert max(count_kept("欲穷海山目", template, books) for template in templates("C", 5)) == 4


def test_rows_of_seven_alternate_in_front() -> None:
    assert [templates(row, 7)[0] for row in "ABCD"] == ["中平中仄平平仄", "中仄平平仄仄平", "中仄中平平仄仄", "中平中仄仄平平"]


def raw(marks: list[str], rhymes: dict[str, list[int]], model: list[str] | None = None) -> RawFormat:
    tones = "".join(character for part in marks for character in part if character in "平仄中")
    return {"ge_lyu_str": tones, "ge_lyu_sep": marks, "ci_sep": model or [], "yun_classify": rhymes}


FORMAT = TuneFormat("中平平仄仄平仄仄平平", (3, 6, 10), frozenset({8}), ((2, 5, 9),))


def test_a_format_is_read_from_its_marks() -> None:
    assert read_format(raw(["中平平韵仄仄平句", "仄仄读平平韵"], {"0": [2, 5, 9], "1": [6]})) == FORMAT


def test_a_format_with_bad_marks_is_read_from_its_model() -> None:
    entry = raw(["中平平韵仄仄平句", "仄仄读平平韵"], {"0": [2, -5, 9]}, ["空空空", "空空空　空空空空"])
    entry["ge_lyu_sep"] = ["中平平韵"]
    assert read_format(entry) == TuneFormat(FORMAT.tones, (3, 6, 10), frozenset(), ((2, 5, 9),), True)
    entry["ci_sep"] = ["空"]
    assert read_format(entry) is None


def test_tunes_are_found_by_any_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = [{"idx": 0, "names": ["试灯", "点灯"]}, {"idx": 1, "names": ["试灯慢"]}]
    (tmp_path / "ci_index.json").write_text(json.dumps(index))
    (tmp_path / "ci_list").mkdir()
    broken = raw(["平句"], {}) | {"ge_lyu_str": "平平"}
    formats = [raw(["中平平韵仄仄平句", "仄仄读平平韵"], {"0": [2, 5, 9]}), broken]
    (tmp_path / "ci_list" / "cipai_0.json").write_text(json.dumps(formats))
    (tmp_path / "ci_list" / "cipai_1.json").write_text(json.dumps([raw(["平平韵"], {})]))
    tunes = TunePatterns(tmp_path)
    assert tunes.find("点灯 其二") == ("点灯",)
    assert tunes.find("元宵・试灯") == ("试灯", "试灯慢")
    assert tunes.find("无名") == ()
    with caplog.at_level(logging.WARNING):
        assert tunes.formats(["试灯", "点灯"]) == (FORMAT,)
    assert "cipai_0.json, format 1" in caplog.text
    assert len(tunes.formats(["试灯", "试灯慢"])) == 2


def test_missing_tunes_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"got no ci_index\.json"):
        TunePatterns(tmp_path)


def test_a_perfect_ci_gets_full_marks(books: RhymeBooks) -> None:
    grades = grade_ci(read_verse("海山流。白日楼，海里、黄平。"), [FORMAT], books)
    assert (grades.row_number, grades.words_per_row, grades.rhyme, grades.tone_pattern) == (1.0, 1.0, 1.0, 1.0)


def test_the_faults_of_a_ci_cost_their_share(books: RhymeBooks) -> None:
    # 山 for 仄 is one of 9 prescribed tones; two of three rhyme, so (2 - 1) / (3 - 1); the first two rows are written as one.
    grades = grade_ci(read_verse("海山流山日楼，海里、黄河。"), [FORMAT], books)
    assert grades.tone_pattern == pytest.approx(8 / 9)
    assert grades.rhyme == pytest.approx(1 / 2)
    assert grades.row_number == pytest.approx(2 / 3)
    assert grades.words_per_row == pytest.approx(1 / 3)


def test_a_ci_of_another_length_is_compared_over_the_rows_that_fit() -> None:
    verse = read_verse("海山流。白日，海里、黄平。")
    assert align(verse, FORMAT) == {0: 0, 1: 1, 2: 2, 6: 5, 7: 6, 8: 7, 9: 8}


def test_an_empty_ci_gets_nothing(books: RhymeBooks) -> None:
    assert grade_ci(read_verse(""), [FORMAT], books).total == 0.0
