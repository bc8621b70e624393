"""A user's own model and 300 own rows whose columns are called otherwise: every stage of docs/usage.md, one after the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefscope import command
from run_folder.rows import read_rows
from tests import tiny

COLUMNS = ("--data.format.prompt", "question", "--data.format.chosen", "better", "--data.format.rejected", "worse")
QUICK = ("--trainer.accelerator", "cpu", "--data.num_probe_prompts", "4", "--data.batch_size", "16")


def told(*arguments: str) -> None:
    assert command.main(list(arguments)) == 0


def fit(experiment: str, model: str, steps: int, *more: str) -> None:
    own = ("--model.policy.path", model, "--data.train.path", "data/answers.jsonl", *COLUMNS)
    told("fit", "--config", experiment, *own, *QUICK, "--trainer.max_steps", str(steps), *more)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_own_model_and_rows_from_sft_to_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["prefscope"])
    (tmp_path / "data").mkdir()
    tiny.write_model(tmp_path / "data" / "my_model")
    rows = [json.loads(line) for line in tiny.write_pairs(tmp_path / "pairs.jsonl", 300).read_text().splitlines()]
    own = [{"question": row["prompt"], "better": row["chosen"], "worse": row["rejected"]} for row in rows]
    (tmp_path / "data" / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    asked = [{"question": row["prompt"], "answer": row["chosen"]} for row in rows[:3]]
    (tmp_path / "data" / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))

    fit("smollm2_alpaca_sft", "data/my_model", 2)
    sft = "runs/smollm2_alpaca_sft/version_0/policy"
    fit("smollm2_alpaca_dpo", sft, 2)
    fit("smollm2_alpaca_dpo", sft, 4, "--ckpt_path", "runs/smollm2_alpaca_dpo/version_0/checkpoints/last.ckpt")
    fit("smollm2_alpaca_dpo", sft, 4)
    # Stopped and resumed, or not: the same weights, which plain transformers loads.
    resumed, whole = (AutoModelForCausalLM.from_pretrained(f"runs/smollm2_alpaca_dpo/version_{n}/policy") for n in (1, 2))
    for name, tensor in resumed.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name
    start = AutoModelForCausalLM.from_pretrained(sft).state_dict()
    assert any(not torch.equal(tensor, start[name]) for name, tensor in resumed.state_dict().items())
    policy = "runs/smollm2_alpaca_dpo/version_1/policy"
    assert AutoTokenizer.from_pretrained(policy).chat_template == tiny.CHAT_TEMPLATE

    prompts = ("--data.task.prompt", "question", "--trainer.accelerator", "cpu", "--model.policy.path", policy)
    drawn = ("--data.task.pool.path", "data/questions.jsonl", "--data.num_samples", "2", "--data.max_new_tokens", "4")
    told("predict", "--config", "prompts_sample", *prompts, *drawn, "--trainer.callbacks.pool", "runs/pool.jsonl")
    pool = [json.loads(line) for line in (tmp_path / "runs" / "pool.jsonl").read_text().splitlines()]
    assert [row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][0]["content"] for row in pool] == [
        row["question"] for row in asked
    ]
    test = ("--data.task.test.path", "data/questions.jsonl", "--data.test_decoding.max_new_tokens", "4")
    told("test", "--config", "prompts_test", *prompts, *test)
    [folder] = (tmp_path / "runs" / "prompts_test").iterdir()
    assert len(read_rows(folder, "test_responses")) == 3
    capsys.readouterr()
    told("report", "runs/smollm2_alpaca_sft/version_0", "runs/smollm2_alpaca_dpo/version_1", "--output", "report.html")
    assert capsys.readouterr().out.split() == ["report.html"]
