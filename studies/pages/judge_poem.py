"""The page of the poem judge, measured on real poems.

The file is poems.jsonl.xz (type, title, author, text); the folders hold the rhyme books and the tune patterns.
"""

from __future__ import annotations

import json
import lzma
import random
import re
import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from judges.poem import PoemJudge
from judges.prosody.books import RhymeBooks
from judges.prosody.ci import align, grade_ci
from judges.prosody.tunes import TunePatterns
from judges.prosody.verse import read_verse
from studies.study import Study

COMMAND = "`python -m studies page judge_poem --set poems=FILE rhyme=FOLDER tunes=FOLDER`"

Poem = dict[str, str]
_MARKS = re.compile(r"([，。！？；、])")
PROMPTS = {
    "绝句": "请写一首绝句，题目为《{}》。",
    "律诗": "请写一首律诗，题目为《{}》。",
    "宋词": "请填一首宋词，词牌为《{}》。",
    "古诗": "请写一首古诗，题目为《{}》。",
}


def read_poems(path: Path) -> dict[str, list[Poem]]:
    """The poems of each type."""
    poems: defaultdict[str, list[Poem]] = defaultdict(list)
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            poem = json.loads(line)
            if len(read_verse(poem["text"]).rows) >= 4:  # the others are fragments, titled 句, or lost but for their title
                poems[poem["type"]].append(poem)
    return poems


def measure_regulated(poems: dict[str, list[Poem]], judge: PoemJudge) -> Iterator[str]:
    """Share of real poems, all of them, whose rhyme and tones are perfect, and mean grades."""
    asked = {("绝句", 7): ">= 90%", ("律诗", 7): ">= 85%"}
    for form, num_rows in (("绝句", 4), ("律诗", 8)):
        for words in (5, 7):
            sample = [poem for poem in poems[form] if [len(row) for row in read_verse(poem["text"]).rows] == [words] * num_rows]
            details = [judge.judge(PROMPTS[form].format("题"), poem["text"]).details for poem in sample]
            passed = sum(grades["rhyme"] == 1 for grades in details) / len(details)
            perfect = sum(grades["tone_pattern"] == 1 for grades in details) / len(details)
            tones = sum(grades["tone_pattern"] for grades in details) / len(details)
            cells = [f"{passed:.1%}", asked.get((form, words), ""), f"{perfect:.1%}", f"{tones:.1%}"]
            yield f"| {form}, {words} characters | {len(sample)} | {' | '.join(cells)} |"


def measure_ci(poems: Sequence[Poem], books: RhymeBooks, tunes: TunePatterns) -> Iterator[str]:
    """Agreement of tones over the ci whose tune is known."""
    kept = compared = same = same_kept = same_compared = known = unreadable = 0
    rhyme = 0.0
    for poem in poems:
        names = tunes.find(poem["title"])
        verse = read_verse(poem["text"])
        formats = tunes.formats(names) if names else ()
        unreadable += bool(names) and not formats
        if not formats or not verse.rows:
            continue
        best = max(formats, key=lambda form: grade_ci(verse, [form], books).total)
        places = align(verse, best)
        pairs = [(best.tones[place], verse.text[index]) for place, index in places.items() if best.tones[place] != "中"]
        agreed = sum(books.has_tone(character, tone) for tone, character in pairs)
        known, kept, compared = known + 1, kept + agreed, compared + len(pairs)
        rhyme += grade_ci(verse, [best], books).rhyme
        if len(verse.text) == len(best.tones):
            same, same_kept, same_compared = same + 1, same_kept + agreed, same_compared + len(pairs)
    yield f"| ci whose tune is known | {known} of {len(poems)} ({unreadable} of them without a readable format) | |"
    yield f"| tone positions compared that agree | {kept / compared:.2%} of {compared:,} | >= 95% |"
    exact = f"{same_kept / same_compared:.2%} of {same_compared:,}"
    yield f"| the same, over ci that have exactly the length of a format ({same / known:.1%} of them) | {exact} | |"
    yield f"| mean rhyme grade | {rhyme / known:.3f} | |"


def shuffle_characters(text: str, rng: random.Random) -> str:
    """The same rows, the characters of each in random order."""
    return "".join("".join(rng.sample(part, len(part))) for part in _MARKS.split(text))


def swap_lines(text: str, other: str, rng: random.Random) -> str:
    """Half of the rows replaced by rows of a poem of another form."""
    parts = _MARKS.split(text)
    rows = [position for position, part in enumerate(parts) if part and not _MARKS.fullmatch(part)]
    spare = [part for part in _MARKS.split(other) if part and not _MARKS.fullmatch(part)]
    for position in rng.sample(rows, max(1, len(rows) // 2)):
        parts[position] = rng.choice(spare)
    return "".join(parts)


def area_under_curve(real: Sequence[float], fake: Sequence[float]) -> float:
    """Probability that a real poem scores above a fake one, ties counting half."""
    ordered = sorted(fake)
    wins = sum(bisect_left(ordered, score) + bisect_right(ordered, score) for score in real) / 2
    return wins / (len(real) * len(fake))


def measure_separation(poems: dict[str, list[Poem]], judge: PoemJudge, per_form: int, seed: int) -> Iterator[str]:
    """AUC of the total, each form apart and all together."""
    rng = random.Random(seed)
    totals: defaultdict[str, list[float]] = defaultdict(list)
    for form in PROMPTS:
        others = [poem for other in PROMPTS if other != form for poem in poems[other]]
        sample = rng.sample(poems[form], per_form)
        scores: dict[str, list[float]] = {"real": [], "shuffled": [], "swapped": []}
        for poem in sample:
            texts = (poem["text"], shuffle_characters(poem["text"], rng), swap_lines(poem["text"], rng.choice(others)["text"], rng))
            prompt, title = PROMPTS[form].format(poem["title"]), f"《{poem['title']}》\n"
            for kind, text in zip(scores, texts, strict=True):
                scores[kind].append(judge.judge(prompt, title + text).score)
        yield _separation_row(form, scores)
        for kind, values in scores.items():
            totals[kind] += values
    yield _separation_row("all", totals)


def _separation_row(form: str, scores: dict[str, list[float]]) -> str:
    means = " | ".join(f"{sum(values) / len(values):.3f}" for values in scores.values())
    curves = " | ".join(f"{area_under_curve(scores['real'], scores[kind]):.4f}" for kind in ("shuffled", "swapped"))
    return f"| {form} | {len(scores['real'])} | {means} | {curves} |"


def write(study: Study) -> None:
    """Write poem.md. `poems` is the file, `rhyme` and `tunes` are the folders."""
    per_form, seed = int(study.setting("per_form")), int(study.setting("seed"))
    poems = read_poems(Path(study.setting("poems")))
    judge = PoemJudge(study.setting("rhyme"), study.setting("tunes"))
    start = time.perf_counter()
    separation = [*measure_separation(poems, judge, per_form, seed)]
    milliseconds = 1000 * (time.perf_counter() - start) / (3 * len(PROMPTS) * per_form)
    lines = [
        f"# {study.title}",
        "",
        f"Version {PoemJudge.version}, {per_form} poems a form, seed {seed}; {COMMAND}. {milliseconds:.1f} ms a poem on one core.",
        "",
        "| form | poems | rhyme passes | asked | every tone kept | tones kept |",
        "|---|---|---|---|---|---|",
        *measure_regulated(poems, judge),
        "",
        "| Song ci | result | asked |",
        "|---|---|---|",
        *measure_ci(poems["宋词"], RhymeBooks.load(Path(study.setting("rhyme"))), TunePatterns(Path(study.setting("tunes")))),
        "",
        "Mean totals, and the AUC of real poems (asked: >= 0.95) against the same poems with each row's characters shuffled,",
        "and against the same poems with half of their rows taken from a poem of another form. Poems of at least four rows.",
        "",
        "| form | poems | real | shuffled | swapped | AUC shuffled | AUC swapped |",
        "|---|---|---|---|---|---|---|",
        *separation,
    ]
    (study.out / "poem.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
