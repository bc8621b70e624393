"""Where forks begin: a run, the step before its first warning, and the checkpoint that leads there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from advice.settings import Config
from run_folder.rows import first_warning, first_warning_since, read_rows, tracks_of

CONFIG = "config.yaml"
_STEP = re.compile(r"step=(\d+)")
_COMMAND = re.compile(r"# python train\.py (\w+)")
_HINT = (
    "Give the folder of a run, such as runs/<experiment>/version_0; or another trainer's checkpoint, with --reference BASE and "
    "--pairs FILE."
)


@dataclass(frozen=True)
class Origin:
    """A run to be forked."""

    run: Path
    """Its folder."""
    config: Config
    step: int
    """Optimizer step that the forks begin at."""
    checkpoint: Path | None
    """The newest one at or before that step; None to begin where the run began."""
    checkpoint_step: int
    warning: dict[str, Any] | None
    """Row of the first warning; None where there was none."""
    last_step: int
    """As far as the run has come."""
    is_exact: bool = True
    """Whether optimizer state and position in the data are known: False for another trainer's weights."""

    has_ended: bool = False
    """Whether it came to the end that it was planned to have."""

    @property
    def planned_steps(self) -> int:
        """Step that the run is to end at; 0 where passes over the data end it, or the time."""
        return max(int(self.config.get("trainer", {}).get("max_steps") or 0), 0)


def find_origin(run: Path, step: int | None = None, ahead: int = 20) -> Origin:
    """Read a run's folder.

    Args:
        run: the folder.
        step: to fork at; None for the checkpoint before the first warning, and without one the newest from which the run went on
            for `ahead` steps.
        ahead: length of a fork.

    Raises:
        ValueError: if it is no folder of a training of ours, has not come to that step, or began from a checkpoint that is gone.
    """
    config = _config(run)
    last = max((point for track in tracks_of(run).values() for point, _ in track), default=0)
    checkpoints = checkpoints_of(run)
    begin, begin_step = _beginning(config, run)
    last = max([last, *checkpoints])
    warning = first_warning(run)
    if step is None:
        # Strictly before: what the conditions were first read at is on the way already.
        since = first_warning_since(run)
        limit = last - ahead if since is None else since - 1
        step = max((at for at in checkpoints if at <= limit), default=begin_step)
    elif not begin_step <= step <= last:
        raise ValueError(f"expected --from between {begin_step} and {last}, as far as {run} has come, got {step}.")
    at, path = max(((at, path) for at, path in checkpoints.items() if at <= step), default=(begin_step, begin), key=_first)
    planned = int(config.get("trainer", {}).get("max_steps") or -1)
    has_ended = last >= planned if planned > 0 else bool(read_rows(run, "judged"))
    return Origin(run, config, step, path, at, warning, last, has_ended=has_ended)


def checkpoints_of(run: Path) -> dict[int, Path]:
    """Step -> checkpoint, of those that a run has kept."""
    found = {}
    for path in sorted((run / "checkpoints").glob("*.ckpt")):
        named = _STEP.search(path.name)
        if named and not path.is_symlink():
            found[int(named[1])] = path
    return found


def _beginning(config: Config, run: Path) -> tuple[Path | None, int]:
    """The checkpoint that the run itself began from, with its step."""
    path = config.get("ckpt_path")
    if not path:
        return None, 0
    named = _STEP.search(Path(path).resolve().name)
    if not Path(path).exists() or named is None:
        kept = checkpoints_of(run)
        if kept:
            return kept[min(kept)], min(kept)
        raise ValueError(
            f"expected the checkpoint that {run} was resumed from, {path}, or one of its own, got neither. It cannot be forked: "
            "keep checkpoints (callbacks.saving.checkpoint.RunCheckpoint)."
        )
    return Path(path), int(named[1])


def _config(run: Path) -> Config:
    path = run / CONFIG
    if not path.is_file():
        versions = sorted(str(one.parent) for one in run.glob(f"version_*/{CONFIG}"))
        hint = f"Did you mean {versions[-1]}?" if versions else _HINT
        raise ValueError(f"expected the folder of a run (it has a {CONFIG}), got {run}. {hint}")
    text = path.read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    said = _COMMAND.match(text)
    if not isinstance(config, dict) or "model" not in config or (said and said[1] != "fit"):
        raise ValueError(f"expected the folder of a training, got one of {said[1] if said else 'something else'}: {run}.")
    return config


def _first(pair: tuple[int, Path | None]) -> int:
    return pair[0]
