"""Turns the options of `diagnose.py` into those of `train.py validate`."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from diagnosis.watch import Watch, is_input_closed
from lightning_modules.models.adapters.peft_format import base_of, is_adapter
from lightning_modules.models.files.checkpoint_folders import checkpoints_in, fault_of, has_template, tokenizer_at
from lightning_modules.models.files.pretrained import config_at
from run_folder.program import spelled

_CONFIGS = Path(__file__).parent.parent / "configs"
_STATIC = "callbacks.diagnostics.checkpoints.static_diagnosis.StaticDiagnosis"
_OURS = "diagnosis.checkpoint_verdict.CheckpointVerdict"


def arguments(args: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, parsed; what it does not know is kept in `further`, for `train.py validate`."""
    parser = argparse.ArgumentParser(
        prog=spelled("python diagnose.py"),
        description="What became of a policy, from the checkpoints of TRL, axolotl, LLaMA-Factory, OpenRLHF, verl or Prefscope.",
        epilog="Further options go to the run that reads them: --data.format sharegpt, --model.loss ipo, ...",
        allow_abbrev=False,
    )
    parser.add_argument(
        "checkpoints", nargs="+", metavar="CHECKPOINT", help="models or adapters, or folders that hold them, in order"
    )
    parser.add_argument("--reference", metavar="BASE", help="what the training started from; of an adapter its base by default")
    parser.add_argument("--pairs", required=True, metavar="FILE", help="prompts with a chosen and a rejected answer")
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="the page (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=500, help="pairs to read, drawn at random (default: %(default)s)")
    parser.add_argument("--follow", action="store_true", help="wait for further checkpoints until Ctrl-C")
    parser.add_argument(
        "--until-idle", type=float, default=math.inf, metavar="SECONDS", help="with --follow: end after so long without a new one"
    )
    parser.add_argument(
        "--until-closed",
        action="store_true",
        help="with --follow: end when the standard input closes, as it does when the program that opened it ends",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write verdict, properties and rows for programs too")
    asked, further = parser.parse_known_args(args)
    asked.further = further
    return asked


def validate_options(asked: argparse.Namespace) -> list[str]:
    """Options of `train.py validate`; `asked.reference` is filled in where an adapter names it.

    Raises:
        ValueError: if a checkpoint cannot be read, or nobody says what it started from.
    """
    if asked.limit < 1:
        raise ValueError(f"expected --limit >= 1, got {asked.limit}. It counts pairs.")
    is_over = is_input_closed if asked.until_closed else None
    watch = Watch(asked.checkpoints, until_idle=asked.until_idle, is_over=is_over)
    if asked.follow:
        print(f"Waiting for a whole checkpoint in {', '.join(asked.checkpoints)}. Ctrl-C ends it.", file=sys.stderr, flush=True)
    series = list(watch.wait_for_first()) if asked.follow else _series(asked.checkpoints)
    base = _base(series[-1], asked.reference) if is_adapter(series[-1]) else None
    asked.reference = asked.reference or _reference(series[-1], base)
    callbacks = _callbacks({"output": str(asked.output), "follow": asked.checkpoints if asked.follow else None})
    if asked.follow and math.isfinite(asked.until_idle):
        callbacks[-1]["init_args"]["until_idle"] = asked.until_idle
    callbacks[-1]["init_args"]["until_closed"] = asked.until_closed
    tokenizer = tokenizer_at(series[-1], *filter(None, (base, asked.reference)))
    options = {
        "config": _CONFIGS / "experiment" / "diagnose.yaml",
        "model.policy.path": series[-1],
        "model.checkpoints": json.dumps(series[:-1]),
        "model.reference.path": asked.reference,
        **({"model.policy.base": base} if base else {}),
        **({"model.reference.base": base} if base and is_adapter(asked.reference) else {}),
        "data.tokenizer": tokenizer,
        "data.train.path": asked.pairs,
        "data.limit": asked.limit,
        "trainer.callbacks": json.dumps(callbacks),
        "verbose": "false",
    }
    if Path(tokenizer).is_dir() and not has_template(tokenizer) and not any("data.format" in option for option in asked.further):
        # No template to put plain text into: prompt and answer are joined as they stand, as trainers do.
        options["data.format.as_chat"] = "false"
    return [f"--{name}={value}" for name, value in options.items()] + list(asked.further)


def _series(given: Sequence[str]) -> list[str]:
    """All checkpoints, in order."""
    for path in given:
        if not Path(path).exists() and path.count("/") != 1:
            raise ValueError(f"expected a checkpoint or a folder of checkpoints, got {path}: there is none. Check the path.")
    found = [path for own in given for path in checkpoints_in(own)]
    faults = [f"{path}: {fault}" for path in found if (fault := fault_of(path))]
    if len(faults) == len(found):
        raise ValueError(f"expected a whole checkpoint, got none. {'; '.join(faults[:3])}.")
    return found


def _base(adapter: str, reference: str | None) -> str:
    """The model under an adapter: the one that its configuration names, if it can be had, else the reference."""
    try:
        named = base_of(adapter)
        config_at(named)
    except ValueError:
        if reference is None or is_adapter(reference):
            raise
        return reference
    return named


def _reference(checkpoint: str, base: str | None) -> str:
    """Of an adapter: the frozen copy of an earlier adapter that TRL keeps beside it (`ref`), else its base."""
    if base is None:
        raise ValueError(
            f"expected --reference, because {checkpoint} does not name the model it was trained from. Give that model."
        )
    earlier = Path(checkpoint) / "ref"
    return str(earlier) if is_adapter(str(earlier)) else base


def _callbacks(options: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of configs/trainer/diagnose.yaml; the diagnosis writes the page, and comes last."""
    config = yaml.safe_load((_CONFIGS / "trainer" / "diagnose.yaml").read_text(encoding="utf-8"))
    callbacks: list[dict[str, Any]] = config["callbacks"]
    ours = [callback for callback in callbacks if callback["class_path"] == _STATIC]
    rest = [callback for callback in callbacks if callback["class_path"] != _STATIC]
    return [*rest, *({"class_path": _OURS, "init_args": own["init_args"] | options} for own in ours)]
