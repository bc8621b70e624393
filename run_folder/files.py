"""Opens what callbacks write to: the run's folder, its rows (read again by `rows`), and its TensorBoard writer."""

from __future__ import annotations

import gzip
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from run_folder.rows import PACKED, ROWS, part_of, parts_of

DIGITS = 8
"""Significant digits of a number in a row: as fine as float32, in which it was measured."""

PART_BYTES = 256 * 1024
"""Size at which a file of rows is packed and a new one begun. Packed rows take a fifth."""


def run_folder(trainer: Trainer) -> Path | None:
    """The folder of this run: that of the first logger that has one; None where there is none.

    Unlike `trainer.log_dir` it needs no collective, so that rank 0 may ask alone, and is never the working directory.
    """
    folders = (getattr(logger, "log_dir", None) for logger in trainer.loggers)
    return next((Path(folder) for folder in folders if folder), None)


def append_row(trainer: Trainer, name: str, row: Mapping[str, Any]) -> None:
    """Append one JSON line to `<run>/diagnostics/<name>.jsonl` (rank 0 only; nowhere without a run folder).

    Numbers keep `DIGITS` significant digits. One that is not finite becomes null: NaN is no JSON, and readers refuse the file.
    A long file is packed: its rows stand in `<name>.0001.jsonl.gz`, `<name>.0002.jsonl.gz`, ..., and the newest in `<name>.jsonl`.
    """
    folder = run_folder(trainer)
    if trainer.is_global_zero and folder is not None:
        path = folder / ROWS / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as rows:
            rows.write(json.dumps(_rounded(row), ensure_ascii=False, separators=(",", ":")) + "\n")
            size = rows.tell()
        if size >= PART_BYTES:
            _pack(path)


def _rounded(value: object) -> object:
    match value:
        case float():
            if not math.isfinite(value):
                return None
            # A count stays one, however large.
            return float(value) if value.is_integer() else float(f"{value:.{DIGITS}g}")
        case Mapping():
            return {key: _rounded(part) for key, part in value.items()}
        case list() | tuple():
            return [_rounded(part) for part in value]
    return value


def _pack(path: Path) -> None:
    """Turn a file of rows into its next packed part. Killed at any point, it leaves every row readable, and once."""
    folder, name = path.parent, path.stem
    number = 1 + max((part_of(part)[1] for part in parts_of(folder, name)), default=0)
    plain = path.rename(folder / f"{name}.{number:04d}.jsonl")
    unfinished = folder / f".{plain.name}{PACKED}"
    with plain.open("rb") as rows, gzip.GzipFile(unfinished, "wb", mtime=0) as packed:
        shutil.copyfileobj(rows, packed)
    unfinished.replace(folder / f"{plain.name}{PACKED}")
    plain.unlink()


def tensorboard_writer(trainer: Trainer) -> SummaryWriter | None:
    """The TensorBoard writer of this rank; None where there is none."""
    if not trainer.is_global_zero:
        return None
    writers: list[SummaryWriter] = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return writers[0] if writers else None


def flush_loggers(trainer: Trainer) -> None:
    """Put on the disk what has been logged up to now."""
    for logger in trainer.loggers:
        logger.experiment.flush() if isinstance(logger, TensorBoardLogger) else logger.save()
