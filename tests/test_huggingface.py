"""The callback for trainers that are built on Hugging Face's: a diagnosis beside a training, which it never harms."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from prefscope.huggingface import PrefscopeCallback
from run_folder.rows import read_rows
from tests import tiny

STAND_IN = """
import json, os, sys
json.dump([sys.argv[1:], dict(os.environ)], open(sys.argv[-1], "w"))
sys.stdin.buffer.read()
print("bars\\r2 checkpoints, step 1 to 2, beside base\\nChosen fell.")
open(sys.argv[-1] + ".over", "w").close()
"""
"""Ends when its input closes, as a diagnosis with --until-closed does."""


@pytest.fixture
def arguments(tmp_path: Path) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path / "run"), report_to="none", use_cpu=True)


def stand_in(monkeypatch: pytest.MonkeyPatch, told: Path, program: str = STAND_IN) -> None:
    monkeypatch.setattr("prefscope.huggingface.own_process", lambda *words: [sys.executable, "-c", program, *words, str(told)])


def began(callback: PrefscopeCallback, arguments: TrainingArguments, *, is_first: bool = True, model: object = None) -> Any:
    state = SimpleNamespace(is_world_process_zero=is_first)
    callback.on_train_begin(arguments, state, None, model=model)
    return state


def test_it_ends_with_the_training(
    arguments: TrainingArguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, tmp_path / "told")
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "SLURM_NTASKS", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", "kept")
    callback = PrefscopeCallback([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    state = began(callback, arguments, model=SimpleNamespace(name_or_path="base"))
    # Another training with the same callback, such as a second call of train(), starts none beside it.
    began(callback, arguments)
    callback.on_train_end(arguments, state, None)
    said = capsys.readouterr().out
    assert "2 checkpoints, step 1 to 2, beside base\nChosen fell." in said
    here = tmp_path / "run" / "prefscope"
    assert f"page: {here / 'report.html'}" in said
    words, environment = json.loads((tmp_path / "told").read_text())
    assert words[:4] == ["diagnose", str(tmp_path / "run"), "--follow", "--until-closed"]
    assert "--reference=base" in words
    assert "--trainer.accelerator=cpu" in words
    assert f"--pairs={here / 'pairs.jsonl'}" in words
    assert json.loads((here / "pairs.jsonl").read_text()) == {"prompt": "a", "chosen": "b", "rejected": "c"}
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "SLURM_NTASKS", "TORCHELASTIC_RUN_ID"} & environment.keys()
    assert environment["HF_HOME"] == "kept"


def test_other_processes_start_none(arguments: TrainingArguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, tmp_path / "told")
    callback = PrefscopeCallback("pairs.jsonl")
    callback.on_train_end(arguments, began(callback, arguments, is_first=False), None)
    assert not (tmp_path / "run").exists()


def test_its_failure_is_no_failure_of_the_training(
    arguments: TrainingArguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, tmp_path / "told", "import sys; sys.exit('prefscope diagnose: expected pairs, got none.')")
    callback = PrefscopeCallback("nothing.jsonl")
    callback.on_train_end(arguments, began(callback, arguments), None)
    assert "exit code 1" in (said := capsys.readouterr().out)
    assert "expected pairs, got none." in said
    # A folder that cannot be written.
    (tmp_path / "file").write_text("")
    other = PrefscopeCallback("pairs.jsonl")
    began(other, TrainingArguments(output_dir=str(tmp_path / "file" / "run"), report_to="none", use_cpu=True))
    assert "the diagnosis of this training could not start" in capsys.readouterr().out


def test_patience_ends(
    arguments: TrainingArguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, tmp_path / "told", "import time; time.sleep(600)")
    callback = PrefscopeCallback("pairs.jsonl", patience=0.1)
    callback.on_train_end(arguments, began(callback, arguments), None)
    assert f"exit code {-signal.SIGTERM}" in capsys.readouterr().out


def test_a_killed_training_leaves_none_behind(tmp_path: Path) -> None:
    program = f"""
import os, signal, sys, types
# Their import takes seconds.
sys.modules["transformers"] = types.SimpleNamespace(
    **dict.fromkeys(("TrainerCallback", "TrainerControl", "TrainerState", "TrainingArguments"), object)
)
import prefscope.huggingface as ours
ours.own_process = lambda *words: [sys.executable, "-c", {STAND_IN!r}, *words, {str(tmp_path / "told")!r}]
state = types.SimpleNamespace(is_world_process_zero=True)
arguments = types.SimpleNamespace(output_dir={str(tmp_path / "run")!r}, save_strategy="steps")
ours.PrefscopeCallback("pairs.jsonl").on_train_begin(arguments, state, None)
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = str(Path(__file__).parents[1])
    killed = subprocess.run([sys.executable, "-c", program], check=False, env={**os.environ, "PYTHONPATH": root})
    assert killed.returncode == -signal.SIGKILL
    until = time.monotonic() + 60
    while not (tmp_path / "told.over").exists():
        assert time.monotonic() < until, "it still waits"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_run_of_trl_is_diagnosed_while_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from trl import DPOConfig, DPOTrainer

    tiny.write_model(tmp_path / "base")
    rows = [json.loads(line) for line in tiny.write_pairs(tmp_path / "pairs.jsonl", 16).read_text().splitlines()]
    options = ["--trainer.accelerator=cpu", "--data.num_probe_prompts=2", "--data.max_length=60"]
    settings = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True}
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tmp_path / "base"),
        args=DPOConfig(str(tmp_path / "run"), max_steps=4, save_steps=2, learning_rate=0.01, **settings),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(tmp_path / "base"),
        callbacks=[PrefscopeCallback(Dataset.from_list(rows), options=options)],
    )
    trainer.train()
    said = capsys.readouterr().out
    assert re.search(rf"2 checkpoints, step 2 to 4, beside {tmp_path / 'base'}, on 16 pairs", said), said
    [folder] = (tmp_path / "run" / "prefscope" / "diagnose").iterdir()
    assert [row["step"] for row in read_rows(folder, "checkpoints")] == [2, 4]
    assert "<html" in (tmp_path / "run" / "prefscope" / "report.html").read_text()
