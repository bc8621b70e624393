"""The caches that make the next run faster: `python -m datamodules.cache` shows and clears them."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = ".cache/prefscope"
LIMIT = 32 * 2**30
"""Bytes of tokens and reference log-probs that are kept unasked (32 GiB)."""

_PRUNED = ("tokens", "reference")
_DAY = 24 * 60 * 60


@dataclass(frozen=True)
class Entry:
    """One thing that is kept."""

    path: Path
    """A file or a folder, `<cache>/<kind>/<name>`."""
    size: int
    """Bytes."""
    used: float
    """When it was made or last used (seconds since 1970)."""

    @property
    def kind(self) -> str:
        """What it is: tokens, reference, gguf, ..."""
        return self.path.parent.name


def entries(folder: Path, kinds: Sequence[str] = ("*",)) -> list[Entry]:
    """All that is kept below a cache folder, or all of some kinds, the longest unused first."""
    found = (path for kind in kinds for path in folder.glob(f"{kind}/*"))
    return sorted(_measured(found), key=lambda entry: entry.used)


def _measured(paths: Iterable[Path]) -> Iterator[Entry]:
    for path in paths:
        try:
            files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
            yield Entry(path, sum(file.stat().st_size for file in files), path.stat().st_mtime)
        except FileNotFoundError:
            continue  # another process has put it out


def prune(folder: Path, limit: int = LIMIT, unused_for: float = _DAY) -> list[Entry]:
    """Remove tokens and reference log-probs, the longest unused first, until the rest keeps to the limit.

    Args:
        folder: of the cache.
        limit: bytes of both kinds together.
        unused_for: seconds; what was used since stays, so that a run never loses what it works with.

    Returns:
        What was removed.
    """
    kept = entries(folder, _PRUNED)
    total, latest = sum(entry.size for entry in kept), time.time() - unused_for
    removed = []
    for entry in kept:
        if total > limit and entry.used < latest:
            remove(entry)
            removed.append(entry)
            total -= entry.size
    return removed


def remove(entry: Entry) -> None:
    """Put one entry out; what reads it goes on with its open files."""
    if entry.path.is_dir():
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        entry.path.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None, program: str = "python -m datamodules.cache") -> int:
    """Run one command, which help calls by the name of the program; returns the exit code."""
    parser = argparse.ArgumentParser(prog=program, description="Look at what runs keep on disk, or clear it.")
    parser.add_argument("command", nargs="?", choices=("look", "clear"), default="look")
    parser.add_argument("--cache-dir", type=Path, default=Path(FOLDER), help=f"folder of the cache, {FOLDER} by default")
    parser.add_argument("--kind", help="only this kind: tokens, reference, gguf, ...")
    parser.add_argument("--unused-days", type=float, default=0.0, help="only what nobody has used for so many days")
    options = parser.parse_args(arguments)
    chosen = [entry for entry in entries(options.cache_dir) if options.kind in (None, entry.kind)]
    chosen = [entry for entry in chosen if entry.used <= time.time() - options.unused_days * _DAY]
    if options.command == "clear":
        for entry in chosen:
            remove(entry)
    print("\n".join(_lines(options.cache_dir, chosen, "removed" if options.command == "clear" else "kept")))
    return 0


def _lines(folder: Path, chosen: Sequence[Entry], verb: str) -> Iterator[str]:
    total = sum(entry.size for entry in chosen)
    limit = f"; of {' and '.join(_PRUNED)}, {LIMIT / 2**30:.0f} GiB are kept at the most" if verb == "kept" else ""
    yield f"{folder}: {len(chosen)} entries, {total / 2**20:.1f} MiB {verb}{limit}"
    for kind in sorted({entry.kind for entry in chosen}):
        own = [entry for entry in chosen if entry.kind == kind]
        days = (time.time() - own[0].used) / _DAY
        size = sum(entry.size for entry in own) / 2**20
        yield f"  {kind}: {len(own)} entries, {size:.1f} MiB, the oldest used {days:.1f} days ago"


if __name__ == "__main__":
    raise SystemExit(main())
