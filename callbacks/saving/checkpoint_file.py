"""Writes a checkpoint whole or not at all, and checks a file before it is read."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from typing_extensions import override


class WholeFileIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target and renames it, so that it is there whole or not at all.

    Differs from Lightning's: the file takes up no memory first and no room under TMPDIR, which may be another, smaller disk.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                # The older file goes next: this one has to be on the disk by then.
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def require_whole(path: Path) -> None:
    """Refuse a checkpoint that is cut or changed: its parts are held against the checksums that are written with them.

    A folder, as a sharded run may write one, is not looked at.

    Raises:
        ValueError: if it is damaged.
    """
    if path.is_dir():
        return
    try:
        with zipfile.ZipFile(path) as parts:
            damaged = parts.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        damaged = str(error)
    if damaged is None:
        return
    others = sorted(other for other in path.resolve().parent.glob("epoch=*.ckpt") if other != path.resolve())
    rest = f"There is also {others[-1]}." if others else "There is no other one beside it."
    raise ValueError(
        f"expected a whole checkpoint, got {path}, which is damaged ({damaged}). {rest} Resume from one that is whole, or start a "
        "new run from exported weights."
    )
