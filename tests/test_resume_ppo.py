"""Kill -9 in sampling, in the middle of an epoch over a rollout, and while saving: PPO goes on to the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests import tiny
from tests.test_resume import PATIENCE, ROOT, checkpoint_at, differences, start

STEPS = 10
"""Two rollouts of four updates, and two updates over a third."""


def pool(path: Path) -> Path:
    """Twelve prompts with two scored answers of the policy each."""
    words = tiny.WORDS
    rows = [
        {
            "prompt": f"{words[n]} {words[n + 1]} {words[n + 2]}",
            "responses": [
                {"text": words[n + 3], "source": "policy", "score": 5.0},
                {"text": words[n + 4], "source": "policy", "score": 1.0},
            ],
        }
        for n in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def config(folder: Path) -> dict[str, Any]:
    model: dict[str, Any] = yaml.safe_load((ROOT / "configs/model/arithmetic_ppo.yaml").read_text(encoding="utf-8"))
    data: dict[str, Any] = yaml.safe_load((ROOT / "configs/data/arithmetic_rollouts.yaml").read_text(encoding="utf-8"))
    judge = {"class_path": "judges.function.CallableJudge", "init_args": {"function": "tests.killing.score"}}
    model["init_args"] |= {"policy": tiny.POLICY}
    model["init_args"]["rewards"][0]["init_args"] = {"judge": judge}
    del data["init_args"]["task"]
    data["init_args"] |= {
        "pool": str(pool(folder / "pool.jsonl")),
        "tokenizer": str(tiny.write_tokenizer(folder / "tokenizer")),
        "shared": [1],
        "prompts_per_rollout": 4,
        "num_samples": 2,
        "max_new_tokens": 8,
        "max_length": 24,
        "num_probe_prompts": 2,
    }
    checkpoint = {
        "class_path": "callbacks.saving.checkpoint.RunCheckpoint",
        "init_args": {"every_n_train_steps": 1, "keep_all": True},
    }
    likelihood = {
        "class_path": "callbacks.diagnostics.likelihood.LikelihoodMonitor",
        "init_args": {"every_n_steps": 2, "probe_every_n_steps": 4},
    }
    trainer = tiny.trainer(folder, [checkpoint, likelihood], limit_val_batches=0, max_epochs=-1, use_distributed_sampler=False)
    return {"seed_everything": 3, "trainer": trainer, "model": model, "data": data}


def final_state(run: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == STEPS
    state["callbacks"] = {key: value for key, value in state["callbacks"].items() if not key.startswith(("RunCheckpoint", "Kill"))}
    return state


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ppo")


@pytest.fixture(scope="module")
def whole(home: Path) -> dict[str, Any]:
    """The end of a run that was left alone, in a process of its own as the others are."""
    (home / "whole.yaml").write_text(yaml.safe_dump(config(home)), encoding="utf-8")
    process = start(home, "fit", "--config", "whole.yaml", "--trainer.max_steps", STEPS)
    assert process.wait(PATIENCE) == 0, (home / "output.txt").read_text()
    return final_state(home / "runs/whole/version_0")


@pytest.mark.slow
@pytest.mark.timeout(3 * PATIENCE)
@pytest.mark.parametrize(
    ("moment", "step", "survivor"),
    [("KillInSampling", 4, 4), ("KillInUpdate", 6, 6), ("KillInSaving", 7, 6), ("KillInSampling", 8, 8)],
)
def test_killed_at_any_moment_it_ends_in_the_same_bits(
    moment: str, step: int, survivor: int, home: Path, whole: dict[str, Any]
) -> None:
    name = f"{moment}_{step}"
    parts = config(home)
    parts["trainer"]["callbacks"].append({"class_path": f"tests.killing.{moment}", "init_args": {"step": step}})
    (home / f"{name}.yaml").write_text(yaml.safe_dump(parts), encoding="utf-8")
    process = start(home, "fit", "--config", f"{name}.yaml", "--trainer.max_steps", STEPS)
    assert process.wait(PATIENCE) == -9, (home / "output.txt").read_text()
    killed = home / "runs" / name / "version_0"
    saved = torch.load(killed / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == survivor
    assert (saved["ppo"]["rollout"] is None) == (survivor % 4 == 0)
    (home / f"{name}_resumed.yaml").write_text(yaml.safe_dump(config(home)), encoding="utf-8")
    ending = ("--trainer.max_steps", STEPS, "--ckpt_path", checkpoint_at(killed, survivor))
    process = start(home, "fit", "--config", f"{name}_resumed.yaml", *ending)
    assert process.wait(PATIENCE) == 0, (home / "output.txt").read_text()
    assert list(differences(whole, final_state(home / "runs" / f"{name}_resumed" / "version_0"))) == []
