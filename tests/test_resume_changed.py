"""What a checkpoint is resumed with: other data or another reference are named, and so is a damaged file; no point is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.saving.checkpoint import RunCheckpoint
from callbacks.saving.checkpoint_file import WholeFileIO, require_whole
from datamodules.contracts.batches import Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.sources.store import ExampleStore
from tests import test_resume_ppo, tiny

Run = Callable[..., LightningCLI]
Write = Callable[[Mapping[str, Any], str], Path]
KEEPER = {"class_path": "callbacks.saving.checkpoint.RunCheckpoint", "init_args": {"every_n_train_steps": 2}}
STAGES = ("dpo", "ppo", *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("sft", "rm")))

pytestmark = pytest.mark.filterwarnings("ignore:Rollout", "ignore:You have overridden `on_after_batch_transfer`")


def config(stage: str, folder: Path) -> dict[str, Any]:
    if stage == "ppo":
        parts = test_resume_ppo.config(folder)
        parts["trainer"]["callbacks"] = [KEEPER]
        return parts
    supervised = stage == "sft"
    trainer = tiny.trainer(folder, [KEEPER])
    model = tiny.module(folder, supervised=supervised)
    if stage == "rm":
        policy = {"path": str(tiny.write_model(folder / "model"))}
        optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}}
        model = {
            "class_path": "lightning_modules.reward.RewardModule",
            "init_args": {"reward_model": policy, "optimizer": optimizer},
        }
    data = tiny.pair_data(folder, supervised=supervised, val_fraction=0)
    return {"seed_everything": 3, "trainer": trainer, "model": model, "data": data}


def other_words(path: Path) -> None:
    """Every word becomes another, so that all lengths stay."""
    text = path.read_text(encoding="utf-8")
    swapped = {f"w{number}": f"w{27 - number}" for number in range(28)}
    changed = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]

    def change(value: Any) -> Any:
        if isinstance(value, str):
            return " ".join(swapped.get(word, word) for word in value.split(" "))
        if isinstance(value, dict):
            return {key: item if key == "source" else change(item) for key, item in value.items()}
        return [change(item) for item in value] if isinstance(value, list) else value

    path.write_text("".join(json.dumps(change(row)) + "\n" for row in changed), encoding="utf-8")


@pytest.mark.parametrize("stage", STAGES)
def test_other_data_of_the_same_lengths_are_refused_unless_allowed(
    stage: str, tmp_path: Path, run: Run, write_config: Write
) -> None:
    experiment = write_config(config(stage, tmp_path), "run")
    run("fit", "--config", experiment, "--trainer.max_steps", 2)
    [checkpoint] = tmp_path.rglob("last.ckpt")
    resume = ("fit", "--config", experiment, "--trainer.max_steps", 3, "--ckpt_path", checkpoint)
    other_words(tmp_path / ("pool.jsonl" if stage == "ppo" else "pairs.jsonl"))
    what = "prompts" if stage == "ppo" else "training data"
    with pytest.raises(ValueError, match=f"expected the {what} that the checkpoint was trained with, got others"):
        run(*resume)
    with pytest.warns(UserWarning, match=f"The {what} differ from the checkpoint's"):
        run(*resume, "--allow_changed_data")


def test_other_lengths_are_named_and_go_on_where_allowed(tmp_path: Path, run: Run, write_config: Write) -> None:
    experiment = write_config(config("sft", tmp_path), "run")
    run("fit", "--config", experiment, "--trainer.max_steps", 2)
    [checkpoint] = tmp_path.rglob("last.ckpt")
    tiny.write_pairs(tmp_path / "pairs.jsonl", 30)
    resume = ("fit", "--config", experiment, "--trainer.max_steps", 3, "--ckpt_path", checkpoint)
    with pytest.raises(ValueError, match=r"got another one \(number of prompts: 24, now 30; lengths of the prompts"):
        run(*resume)
    with pytest.raises(ValueError, match=r"got another one \(seed: 0, now 1\)"):
        run(*resume, "--data.init_args.seed", 1, "--allow_changed_data")
    with pytest.warns(UserWarning, match="The training data differ from the checkpoint's"):
        assert run(*resume, "--allow_changed_data").trainer.global_step == 3


@pytest.mark.parametrize("stage", ["dpo", "ppo"])
def test_another_reference_is_refused(stage: str, tmp_path: Path, run: Run, write_config: Write) -> None:
    parts = config(stage, tmp_path)
    run("fit", "--config", write_config(parts, "run"), "--trainer.max_steps", 2)
    [checkpoint] = tmp_path.rglob("last.ckpt")
    arguments = tiny.POLICY["init_args"] | {"seed": 4}
    parts["model"]["init_args"]["reference"] = tiny.POLICY | {"init_args": arguments}
    with pytest.raises(ValueError, match="expected the reference that the checkpoint was trained with"):
        run("fit", "--config", write_config(parts, "run"), "--trainer.max_steps", 3, "--ckpt_path", checkpoint)


def test_an_older_checkpoint_is_resumed_with_a_word(tmp_path: Path, run: Run, write_config: Write) -> None:
    experiment = write_config(config("sft", tmp_path), "run")
    run("fit", "--config", experiment, "--trainer.max_steps", 2)
    [checkpoint] = tmp_path.rglob("last.ckpt")
    state = torch.load(checkpoint, weights_only=True)
    del state["made_with"]
    torch.save(state, tmp_path / "old.ckpt")
    with pytest.warns(UserWarning, match="does not record its training data"):
        run("fit", "--config", experiment, "--trainer.max_steps", 3, "--ckpt_path", tmp_path / "old.ckpt")


def test_content_is_all_that_training_reads() -> None:
    def store(token: int = 5, role: Role = Role.REJECTED, score: float | None = 2.0, row: int = 0) -> str:
        sides = (TokenizedCompletion((3,), Role.CHOSEN, "chosen", 4.0), TokenizedCompletion((token,), role, "other", score))
        return ExampleStore.of([Example((1, 2), sides, row_number=row)]).content()

    assert len({store(), store(token=6), store(role=Role.PROBE), store(score=3.0), store(score=None)}) == 5
    assert store(row=7) == store()


def test_a_damaged_checkpoint_is_named(tmp_path: Path, run: Run, write_config: Write) -> None:
    experiment = write_config(config("sft", tmp_path), "run")
    run("fit", "--config", experiment, "--trainer.max_steps", 2)
    [path] = tmp_path.rglob("epoch=*.ckpt")
    require_whole(path)
    whole = path.read_bytes()
    middle = len(whole) // 2
    zeroed = whole[:middle] + bytes(256) + whole[middle + 256 :]
    for damaged in (zeroed, whole[:middle], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"expected a whole checkpoint, got .*last\.ckpt, which is damaged .*no other one"):
            run("fit", "--config", experiment, "--trainer.max_steps", 3, "--ckpt_path", path.with_name("last.ckpt"))
    # What is checked is not seen without: zeroed weights load.
    path.write_bytes(zeroed)
    torch.load(path, weights_only=True)


def test_a_checkpoint_is_written_beside_its_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "full"))
    WholeFileIO().save_checkpoint({"a": torch.ones(3)}, tmp_path / "runs/a.ckpt")
    assert torch.equal(torch.load(tmp_path / "runs/a.ckpt", weights_only=True)["a"], torch.ones(3))
    with pytest.raises(AttributeError):
        WholeFileIO().save_checkpoint({"a": lambda: 0}, tmp_path / "runs/a.ckpt")
    assert os.listdir(tmp_path / "runs") == ["a.ckpt"]
    assert not torch.load(tmp_path / "runs/a.ckpt", weights_only=True)["a"].isnan().any()


def test_points_up_to_a_checkpoint_are_on_the_disk_with_it(
    tmp_path: Path, run: Run, write_config: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[list[int]] = []
    save = RunCheckpoint._save_checkpoint

    def look(self: RunCheckpoint, trainer: Any, filepath: str) -> None:
        save(self, trainer, filepath)
        # As a reader finds it if the process dies now.
        events = EventAccumulator(str(trainer.loggers[1].log_dir)).Reload()
        found.append([event.step for event in events.Scalars("train/loss")])

    monkeypatch.setattr(RunCheckpoint, "_save_checkpoint", look)
    run("fit", "--config", write_config(config("sft", tmp_path), "run"), "--trainer.max_steps", 4)
    assert found == [[1, 2], [1, 2, 3, 4]]
