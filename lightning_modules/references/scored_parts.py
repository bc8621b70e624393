"""Saves the parts of a long scoring on disk, so that a killed run continues it."""

from __future__ import annotations

import hashlib
import shutil
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_warn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_SECONDS_BETWEEN = 15.0
"""What a killed run loses at the most."""


class ScoredParts:
    """Values of forward passes by the examples that a pass holds, in a folder of small files.

    A file is written under a temporary name, renamed, and carries a checksum; a damaged one is named and left out.
    Values depend on what else is in their pass in their last bits, so that only a pass of the same examples is found again.

    Args:
        folder: of one reference, one data set and one precision; made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Tensor] = {}
        self._new: dict[str, Tensor] = {}
        self._written_at = time.monotonic()
        for file in sorted(folder.glob("*.safetensors")):
            self._known |= _read(file)

    def get(self, examples: Iterable[int]) -> Tensor | None:
        """The values of a pass; None if it is yet to be done."""
        return self._known.get(_name(examples))

    def add(self, examples: Iterable[int], values: Tensor) -> None:
        """Keep the `[targets]` float32 values of a pass; they are on disk some seconds later, or after `flush`."""
        self._new[_name(examples)] = values
        if time.monotonic() - self._written_at > _SECONDS_BETWEEN:
            self.flush()

    def flush(self) -> None:
        """Write down what is not yet on disk."""
        self._written_at = time.monotonic()
        if not self._new:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        name = uuid.uuid4().hex
        temporary = self._folder / f"{name}.tmp"
        save_file(self._new, temporary, metadata={"sha256": _digest(self._new)})
        temporary.replace(self._folder / f"{name}.safetensors")
        self._known |= self._new
        self._new = {}

    def remove(self) -> None:
        """Delete the folder: the whole is in a file of its own."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _read(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as stored:
            parts = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (it is no mapping)
            is_whole = (stored.metadata() or {}).get("sha256") == _digest(parts)
    except (OSError, SafetensorError):
        is_whole, parts = False, {}
    if not is_whole:
        rank_zero_warn(f"The cached reference log-probs in {file} are damaged: they are computed anew.")
        return {}
    return parts


def _digest(parts: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(parts):
        digest.update(name.encode())
        digest.update(parts[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _name(examples: Iterable[int]) -> str:
    return hashlib.sha256(repr(list(examples)).encode()).hexdigest()[:32]
