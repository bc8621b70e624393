"""A run of TRL's DPOTrainer, full and LoRA, diagnosed afterwards and beside it: the same numbers as its own evaluation."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

import diagnose
from diagnosis.watch import Watch
from run_folder.rows import read_rows
from tests import tiny
from tests.test_diagnose import QUICK, model_at

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

STEPS = 6


def messages(row: dict[str, str]) -> dict[str, Any]:
    asked = [{"role": "user", "content": row["prompt"]}]
    return {"prompt": asked, **{side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}}


def train_with_trl(folder: Path, rows: list[dict[str, Any]], lora: bool) -> None:
    from trl import DPOConfig, DPOTrainer

    config = DPOConfig(
        output_dir=str(folder / "run"),
        max_steps=STEPS,
        save_steps=2,
        eval_steps=2,
        eval_strategy="steps",
        logging_steps=1,
        learning_rate=0.05 if lora else 0.01,
        lr_scheduler_type="constant",
        per_device_train_batch_size=4,
        per_device_eval_batch_size=4,
        beta=0.1,
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "base"),
        args=config,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder / "base"),
        peft_config=LoraConfig(r=4, target_modules="all-linear") if lora else None,
    )
    trainer.train()
    trainer.save_model()


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("follows", [False, True], ids=["afterwards", "beside it"])
def test_the_diagnosis_is_the_trainers_own_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lora: bool, follows: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["diagnose.py"])
    monkeypatch.setattr(Watch.__init__, "__kwdefaults__", (Watch.__init__.__kwdefaults__ or {}) | {"seconds": 0.2})
    tiny.write_tokenizer(model_at(tmp_path / "base", 3))
    source = tiny.write_pairs(tmp_path / "text.jsonl", 16)
    rows = [messages(json.loads(line)) for line in source.read_text().splitlines()]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer = threading.Thread(target=train_with_trl, args=(tmp_path, rows, lora))
    trainer.start()
    if not follows:
        trainer.join()
    reference = [] if lora else ["--reference", "base"]
    watching = ["--follow", "--until-idle", "10"] if follows else []
    diagnose.main(["run", *reference, *watching, "--pairs", "pairs.jsonl", *QUICK])
    trainer.join()
    [folder] = (tmp_path / "runs" / "diagnose").iterdir()
    ours = {row["step"]: row for row in read_rows(folder, "checkpoints")}
    state = json.loads((tmp_path / "run" / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    theirs = {entry["step"]: entry for entry in state["log_history"] if "eval_loss" in entry}
    # The model in the folder itself is the last checkpoint once more.
    assert list(ours) == list(theirs) == [2, 4, 6]
    assert abs(theirs[6]["eval_loss"] - math.log(2)) > 1e-3, "the policy has moved"
    for step, entry in theirs.items():
        for name in ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen"):
            assert ours[step][f"val/{name}"] == pytest.approx(entry[f"eval_{name}"], rel=2e-4, abs=1e-4), (step, name)
    lines = capsys.readouterr().out.splitlines()
    verdict = next(number for number, line in enumerate(lines) if line.startswith("3 checkpoints, step 2 to 6"))
    assert len(lines[verdict:]) < 10
