"""Opens what callbacks write to: the run's folder, its rows (read again by `rows`), and its TensorBoard writer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from run_folder.rows import ROWS


def run_folder(trainer: Trainer) -> Path | None:
    """The folder of this run: that of the first logger that has one; None where there is none.

    Unlike `trainer.log_dir` it needs no collective, so that rank 0 may ask alone, and is never the working directory.
    """
    folders = (getattr(logger, "log_dir", None) for logger in trainer.loggers)
    return next((Path(folder) for folder in folders if folder), None)


def append_row(trainer: Trainer, name: str, row: Mapping[str, Any]) -> None:
    """Append one JSON line to `<run>/diagnostics/<name>.jsonl` (rank 0 only; nowhere without a run folder).

    A number that is not finite becomes null: NaN is no JSON, and other readers refuse the file.
    """
    folder = run_folder(trainer)
    if trainer.is_global_zero and folder is not None:
        path = folder / ROWS / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        finite = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
        with path.open("a", encoding="utf-8") as rows:
            rows.write(json.dumps(finite, ensure_ascii=False) + "\n")


def tensorboard_writer(trainer: Trainer) -> SummaryWriter | None:
    """The TensorBoard writer of this rank; None where there is none."""
    if not trainer.is_global_zero:
        return None
    writers: list[SummaryWriter] = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return writers[0] if writers else None
