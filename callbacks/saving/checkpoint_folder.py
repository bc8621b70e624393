"""The folder of a checkpoint that all processes of a sharded run write together (FSDP2): there whole or not at all."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path

from torch import distributed

_SUMS = "checksums.json"
"""Entry of the folder: `{file: [bytes, crc32]}` of all others."""
_NEEDED = (".metadata", "meta.pt")
"""What torch and Lightning write last."""
_CHUNK = 1 << 24


def seal(written: Path, target: Path) -> None:
    """Add checksums to a folder that all processes have written, and give it its name. A collective: call it on every rank."""
    distributed.barrier()
    names = sorted(path.name for path in written.iterdir())
    own = names[distributed.get_rank() :: distributed.get_world_size()]
    found: list[dict[str, list[int]]] = [{} for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(found, {name: _sum_of(written / name) for name in own})
    if distributed.get_rank() == 0:
        sums = {name: value for part in found for name, value in part.items()}
        (written / _SUMS).write_text(json.dumps(sums, indent=1), encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        written.rename(target)
    distributed.barrier()


def damage_of_folder(path: Path) -> str | None:
    """What is wrong with a folder; None if it is as it was written."""
    missing = [name for name in _NEEDED if not (path / name).is_file()]
    if missing:
        return f"{missing[0]} is missing: it was not written to its end"
    if not (path / _SUMS).is_file():
        # Of an earlier version, or of another trainer.
        return None
    for name, expected in json.loads((path / _SUMS).read_text(encoding="utf-8")).items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if _sum_of(path / name) != expected:
            return f"{name} is not what was written"
    return None


def _sum_of(path: Path) -> list[int]:
    size, checksum = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            size, checksum = size + len(chunk), zlib.crc32(chunk, checksum)
    return [size, checksum]
