"""The file of a checkpoint: written whole or not at all, at once or by a thread, and looked at before it is read."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from typing_extensions import override

from callbacks.saving.checkpoint_folder import damage_of_folder


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

    def then(self, action: Callable[[], None]) -> None:
        """Do what may be done once all checkpoints that were saved are whole: here, now."""
        action()

    def finish(self) -> None:
        """Return when all checkpoints that were saved are whole: here, at once."""


class ThreadedFileIO(WholeFileIO):
    """Writes checkpoints in a thread while the training goes on, one at a time; what Lightning's AsyncCheckpointIO asks for.

    A save waits for the one before it, and copies the state into the host's memory, a tensor once however many names it has.
    Differs from Lightning's: files are whole or not there, nothing on the device is copied on the device, no more than one
    copy waits, and what follows a file (the link to it, the end of an older one) waits for it.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._tasks: list[Future[None]] = []

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        self.finish()
        copied = _on_host(checkpoint)
        self._queue(lambda: WholeFileIO.save_checkpoint(self, copied, path, storage_options))

    @override
    def then(self, action: Callable[[], None]) -> None:
        self._queue(action)

    @override
    def finish(self) -> None:
        """Return when all checkpoints that were saved are whole.

        Raises:
            OSError: or what else it was that kept one from being written.
        """
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.result()

    @override
    def teardown(self) -> None:
        self.finish()

    def _queue(self, action: Callable[[], None]) -> None:
        before = self._tasks[-1:]

        def run() -> None:
            # What follows a file that could not be written is not done: an older one stays.
            if all(task.exception() is None for task in before):
                action()
            else:
                before[0].result()

        self._tasks.append(self._thread.submit(run))


def _on_host(state: dict[str, Any]) -> dict[str, Any]:
    """A copy that later steps do not change; tensors that are one stay one, as tied weights are."""
    copies: dict[tuple[object, ...], Tensor] = {}

    def copied(tensor: Tensor) -> Tensor:
        memory = tensor.device, tensor.untyped_storage().data_ptr(), tensor.dtype
        place = (*memory, tensor.storage_offset(), tensor.shape, tensor.stride())
        if place not in copies:
            copies[place] = tensor.detach().to("cpu", copy=True)
        return copies[place]

    found: dict[str, Any] = apply_to_collection(state, Tensor, copied)
    return found


def require_whole(path: Path) -> None:
    """Refuse a checkpoint that is cut or changed: its parts are held against the checksums that are written with them.

    Raises:
        ValueError: if it is damaged.
    """
    damaged = damage_of_folder(path) if path.is_dir() else _damage_of_file(path)
    if damaged is None:
        return
    others = sorted(other for other in path.resolve().parent.glob("epoch=*.ckpt") if other != path.resolve())
    rest = f"There is also {others[-1]}." if others else "There is no other one beside it."
    raise ValueError(
        f"expected a whole checkpoint, got {path}, which is damaged ({damaged}). {rest} Resume from one that is whole, or start a "
        "new run from exported weights."
    )


def _damage_of_file(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as parts:
            return parts.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        return str(error)
