"""Reads a trainer's own log from the `trainer_state.json` of its checkpoints: loss and rewards, drawn beside ours."""

from __future__ import annotations

import json
from pathlib import Path

from lightning_modules.models.adapters.peft_format import read_json
from run_folder.rows import ROWS

_NAMES = ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")


def write_trainer_log(folder: Path, checkpoint: str) -> None:
    """Write `<folder>/diagnostics/trainer_log.jsonl`: `trainer/<name>` by step, of all that was logged up to a checkpoint.

    Args:
        folder: of the diagnosis.
        checkpoint: the last one; nothing is written where transformers' Trainer left no state in it.
    """
    history = read_json(Path(checkpoint) / "trainer_state.json").get("log_history")
    rows = [
        {"step": entry["step"], **{f"trainer/{name}": entry[name] for name in _NAMES if isinstance(entry.get(name), int | float)}}
        for entry in (history if isinstance(history, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("step"), int)
    ]
    kept = [json.dumps(row) + "\n" for row in rows if len(row) > 1]
    if kept:
        (folder / ROWS).mkdir(parents=True, exist_ok=True)
        (folder / ROWS / "trainer_log.jsonl").write_text("".join(kept), encoding="utf-8")
