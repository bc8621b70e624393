"""Damaged files: what comes out is whole rows and bad rows by number, or a sentence that names the file. Nothing else."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from datamodules.formats.columns import PairColumns
from datamodules.pool.files import read_pool
from datamodules.sources.preparation import LengthLimits, Preparation
from datamodules.sources.readers import DataSource
from datamodules.tasks.base import Task
from datamodules.tasks.maths.competition_maths import CompetitionMathsTask
from datamodules.tasks.maths.gsm8k import GSM8KTask
from datamodules.tasks.rows import TaskRows
from datamodules.tasks.writing.poem import PoemTask
from datamodules.tokens.encoding import PromptEncoder
from tests.datamodules.conftest import build_tokenizer
from tests.fuzz.mutations import mutated
from tests.fuzz.samples import COMPRESSIONS, Sample, samples

SAMPLES = list(samples())
CORPUS = Path(__file__).parents[1] / "corpus"
LIMITS = LengthLimits(max_length=64)

# 400 damaged files in the fast suite, 3,000 in the slow one.
FAST, SLOW = 15, 98


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return PromptEncoder(build_tokenizer())


def examine(file: Path, sample: Sample, encoder: PromptEncoder) -> None:
    """Read a file as its sample is read; whatever is wrong with the outcome fails."""
    try:
        if sample.format is not None:
            _examine_pairs(file, sample, encoder)
        elif sample.name.startswith("pool"):
            _examine_pool(file)
        else:
            _examine_task(file, sample)
    except ValueError as error:
        require_sentence(error, file.name)


def require_sentence(error: ValueError, name: str) -> None:
    """One of ours: subclasses are the parsers' own, such as UnicodeDecodeError, ArrowInvalid, JSONDecodeError."""
    assert type(error) is ValueError, repr(error)
    assert str(error).startswith("expected"), error
    assert name in str(error), error


def _examine_pairs(file: Path, sample: Sample, encoder: PromptEncoder) -> None:
    assert sample.format is not None
    store, report = Preparation(DataSource(str(file)), sample.format, encoder, LIMITS).run()
    assert report.rows_kept + report.num_bad == report.rows_read
    assert len(store) == report.rows_kept
    numbers = [number for count in report.faults.values() for number in count.rows] + [example.row_number for example in store]
    assert sorted(numbers) == list(range(report.rows_read))
    has_scores = isinstance(sample.format, PairColumns) and sample.format.chosen_score is not None
    for example in store:
        scores = [completion.score for completion in example.completions]
        assert all(score is None or math.isfinite(score) for score in scores)
        assert None not in scores or not has_scores
        assert len({completion.token_ids for completion in example.completions}) == len(scores)
    decode = build_tokenizer().decode
    if sample.name == "pairs.jsonl":
        # The very rows that another reader finds there, at their numbers.
        lines = [line for line in file.read_bytes().split(b"\n") if line.strip()]
        for example in store:
            row = json.loads(lines[example.row_number])
            assert (decode(list(example.prompt_ids)), example.completions[0].score) == (row["prompt"], row["s"])
    if file.suffix.removeprefix(".") in COMPRESSIONS and sample.name.startswith("pairs.jsonl"):
        # Checksums tell: what is kept of a damaged archive is what was put in.
        known = {(str(row["prompt"]), row["s"]) for row in sample.rows}
        assert {(decode(list(e.prompt_ids)), e.completions[0].score) for e in store} <= known


def _examine_pool(file: Path) -> None:
    rows, report = read_pool(file)
    assert len(rows) + report.num_bad == report.rows_read
    for row in rows.values():
        assert all(response.score is None or math.isfinite(response.score) for response in row.responses)


def _examine_task(file: Path, sample: Sample) -> None:
    kinds: dict[str, type[Task]] = {"poem": PoemTask, "gsm8k": GSM8KTask, "math": CompetitionMathsTask}
    task = kinds[sample.name.split(".")[0]](train=TaskRows(str(file)), on_bad_row="skip")  # type: ignore[call-arg]
    for item in task.items("train"):
        assert item.prompt.strip()
        assert item.answer is None or item.answer.strip()
        item.prompt.encode()


def damaged(sample: Sample, first: int, last: int) -> Iterator[tuple[int, bytes]]:
    for seed in range(first, last):
        yield seed, mutated(sample.content, random.Random(f"{sample.name} {seed}"))


def check(sample: Sample, folder: Path, encoder: PromptEncoder, first: int, last: int) -> None:
    for seed, content in damaged(sample, first, last):
        file = folder / sample.name
        file.write_bytes(content)
        try:
            examine(file, sample, encoder)
        except BaseException as error:
            # To keep: tests/corpus/<anything>.<name of the sample>.
            pytest.fail(f"{sample.name}, seed {seed}: {type(error).__name__}: {error}")


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_a_whole_file_is_read_whole(sample: Sample, tmp_path: Path, encoder: PromptEncoder) -> None:
    """Else the fuzzer would damage what is refused anyway."""
    file = tmp_path / sample.name
    file.write_bytes(sample.content)
    examine(file, sample, encoder)
    assert len(list(DataSource(str(file)).rows())) == len(sample.rows)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_a_damaged_file_gives_rows_and_sentences(sample: Sample, tmp_path: Path, encoder: PromptEncoder) -> None:
    check(sample, tmp_path, encoder, 0, FAST)


@pytest.mark.slow
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_three_thousand_damaged_files_do_too(sample: Sample, tmp_path: Path, encoder: PromptEncoder) -> None:
    check(sample, tmp_path, encoder, FAST, FAST + SLOW)


@pytest.mark.parametrize("file", sorted(CORPUS.iterdir()), ids=lambda file: file.name)
def test_what_was_found_once_stays_found(file: Path, tmp_path: Path, encoder: PromptEncoder) -> None:
    (sample,) = (sample for sample in SAMPLES if file.name.split(".", 1)[1] == sample.name)
    copy = tmp_path / sample.name
    copy.write_bytes(file.read_bytes())
    examine(copy, sample, encoder)
