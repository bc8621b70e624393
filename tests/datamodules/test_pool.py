from __future__ import annotations

import json
import lzma
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.contracts.prompts import Sampling
from datamodules.contracts.records import BadRowError, Fault, Message
from datamodules.pool.commands import main
from datamodules.pool.files import PoolAppender, read_pool, write_pool
from datamodules.pool.merge import merge_rows, pool_stats
from datamodules.pool.schema import PoolRow, Response, parse_row, row_to_json

ROOT = Path(__file__).parents[2]
SAMPLED = Response("12", "policy", 5.0, "arithmetic", "1", "f00d", Sampling(64, 1.0, 0.9), 7, is_cut=True)
OWN = Response("twelve\n#### 12", "dataset", 4.0)
ROWS = [
    PoolRow("How many?", (OWN, SAMPLED), answer="12", task="arithmetic"),
    PoolRow("And now?", (Response("一", "small", None),)),
]
CHAT = [PoolRow((Message("user", "Hi"), Message("assistant", "Ho"), Message("user", "Well?")), (OWN,))]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.xz", ".parquet"])
@pytest.mark.parametrize("rows", [ROWS, CHAT])
def test_what_is_written_is_read_again(tmp_path: Path, ending: str, rows: list[PoolRow]) -> None:
    path = tmp_path / f"pool{ending}"
    write_pool(path, rows)
    read, report = read_pool(path)
    assert read == dict(enumerate(rows))
    assert (report.rows_read, report.num_bad) == (len(rows), 0)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    for ending in (".jsonl.gz", ".jsonl.xz"):
        first, second = tmp_path / f"a{ending}", tmp_path / f"b{ending}"
        write_pool(first, ROWS)
        write_pool(second, ROWS)
        assert first.read_bytes() == second.read_bytes()


def test_unknown_ending_and_mixed_prompts_in_parquet_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.jsonl"):
        write_pool(tmp_path / "pool.csv", ROWS)
    with pytest.raises(ValueError, match="both"):
        write_pool(tmp_path / "pool.parquet", [*ROWS, *CHAT])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"responses": []}, Fault.MISSING_FIELD),
        ({"prompt": "x"}, Fault.MISSING_FIELD),
        ({"prompt": " ", "responses": []}, Fault.EMPTY_PROMPT),
        ({"prompt": 3, "responses": []}, Fault.WRONG_TYPE),
        ({"prompt": "x", "responses": {}}, Fault.WRONG_TYPE),
        ({"prompt": "x", "responses": ["y"]}, Fault.WRONG_TYPE),
        ({"prompt": "x", "responses": [{"text": "y"}]}, Fault.MISSING_FIELD),
        ({"prompt": "x", "responses": [{"text": "y", "source": "a", "score": "5"}]}, Fault.WRONG_TYPE),
        ({"prompt": "x", "responses": [{"text": "y", "source": "a", "seed": 1.5}]}, Fault.WRONG_TYPE),
        ({"prompt": "x", "responses": [{"text": "y", "source": "a", "sampling": 1}]}, Fault.WRONG_TYPE),
        ({"prompt": "x", "responses": [{"text": "y", "source": "a", "sampling": {"top_p": 1}}]}, Fault.MISSING_FIELD),
        ({"prompt": "x", "responses": [], "answer": 12}, Fault.WRONG_TYPE),
    ],
)
def test_bad_rows(row: dict[str, object], fault: Fault) -> None:
    with pytest.raises(BadRowError) as error:
        parse_row(row)
    assert error.value.fault is fault


def test_bad_rows_are_counted_by_number_and_the_others_keep_theirs(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_text("\n".join([json.dumps(row_to_json(ROWS[0])), "{broken", '{"prompt": "x"}', json.dumps(row_to_json(ROWS[1]))]))
    rows, report = read_pool(path)
    assert rows == {0: ROWS[0], 3: ROWS[1]}
    assert {kind: count.rows for kind, count in report.faults.items()} == {Fault.MALFORMED: [1], Fault.MISSING_FIELD: [2]}
    assert main(["validate", str(path)]) == 1


def test_appending_goes_on_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    PoolAppender(path).append(ROWS[:1])
    whole = path.read_bytes()
    second = json.dumps(row_to_json(ROWS[1]), ensure_ascii=False).encode()
    for lost in range(1, len(second) + 1, 7):
        # Killed while it wrote the second batch: any part of its line may be on disk, its end is not.
        path.write_bytes(whole + second[:lost])
        appender = PoolAppender(path)
        assert appender.rows == ROWS[:1]
        appender.append(ROWS[1:])
        assert list(read_pool(path)[0].values()) == ROWS


def test_a_second_process_that_appends_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    hold = "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); "
    hold += "sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / ".pool.jsonl.lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"expected no other process to append to {path}"):
            PoolAppender(path)
        other.kill()
    # The lock of a killed process is free.
    appender = PoolAppender(path)
    appender.append(ROWS[:1])
    appender.close()
    assert list(read_pool(path)[0].values()) == ROWS[:1]


def test_appending_refuses_other_formats_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pool merge"):
        PoolAppender(tmp_path / "pool.jsonl.xz")
    (tmp_path / "broken.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="missing field"):
        PoolAppender(tmp_path / "broken.jsonl")


def test_merging_joins_by_prompt_and_keeps_what_was_drawn_twice() -> None:
    drawn_twice = PoolRow("How many?", (SAMPLED, SAMPLED), answer="12")
    (merged,) = merge_rows([ROWS[0], drawn_twice])
    assert merged == PoolRow("How many?", (OWN, SAMPLED, SAMPLED), "12", "arithmetic")
    assert merge_rows([*ROWS, *ROWS]) == ROWS
    with pytest.raises(ValueError, match="one answer"):
        merge_rows([ROWS[0], PoolRow("How many?", (), answer="13")])


def test_stats_by_source() -> None:
    dataset, policy, small = pool_stats([*ROWS, PoolRow("x", (SAMPLED, SAMPLED, OWN))])
    assert (dataset.source, dataset.responses, dataset.prompts, dataset.distinct) == ("dataset", 2, 2, 1.0)
    assert (policy.responses, policy.distinct, policy.mean_score) == (3, 0.75, 5.0)
    assert policy.judges == ("arithmetic/1",)
    assert policy.models == ("f00d",)
    assert (small.unscored, small.scores.total()) == (1, 0)


def test_stats_of_graded_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graded = tuple(Response(f"poem {number}", "policy", number / 20) for number in range(12))
    write_pool(tmp_path / "pool.jsonl", [PoolRow("Write.", graded)])
    assert main(["stats", str(tmp_path / "pool.jsonl")]) == 0
    assert "scenario 1 alone: 0 of 1" in capsys.readouterr().out
    assert main(["stats", "--min-gap", "0.5", "--min-chosen-score", "0.5", str(tmp_path / "pool.jsonl")]) == 0
    output = capsys.readouterr().out
    assert "scenario 1 alone: 1 of 1" in output
    assert "0 to 0.55, median 0.275" in output
    assert main(["stats", "--min-gap", "0.5", "--min-chosen-score", "0.6", str(tmp_path / "pool.jsonl")]) == 0
    assert "not good enough" in capsys.readouterr().out


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, merged = tmp_path / "a.jsonl", tmp_path / "b.parquet", tmp_path / "c.jsonl.xz"
    write_pool(first, ROWS[:1])
    write_pool(second, ROWS[1:])
    assert main(["merge", str(first), str(second), "--output", str(merged)]) == 0
    assert [json.loads(line)["prompt"] for line in lzma.decompress(merged.read_bytes()).splitlines()] == ["How many?", "And now?"]
    assert main(["validate", str(merged)]) == 0
    assert main(["stats", str(merged)]) == 0
    printed = capsys.readouterr().out
    assert "policy: 1 responses to 1 prompts" in printed
    assert "2 of 2 rows kept" in printed


def test_a_reader_that_has_seen_enough_ends_a_command_quietly(tmp_path: Path) -> None:
    write_pool(tmp_path / "pool.jsonl", ROWS)
    command = [sys.executable, "-m", "datamodules.pool", "stats", str(tmp_path / "pool.jsonl")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # as `| head -0` does
        assert process.stderr.read() == b""
    assert process.returncode == 0
