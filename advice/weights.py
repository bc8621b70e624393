"""Another trainer's checkpoint and its pairs as a run that can be forked: from weights alone, which is weaker, and says so."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from advice.origin import Origin
from advice.settings import Config
from lightning_modules.models.adapters.peft_format import base_of, is_adapter
from lightning_modules.models.files.checkpoint_folders import checkpoints_in, fault_of, has_template, tokenizer_at

Printed = Callable[[Sequence[str]], str]
"""What `train.py` prints for these arguments."""

_EXPERIMENT = Path(__file__).parent.parent / "configs" / "experiment" / "smollm2_alpaca_dpo.yaml"
_HELD_OUT = 0.1
"""Share of the pairs that judge the forks."""


def weights_origin(asked: argparse.Namespace, printed: Printed) -> Origin:
    """A run of DPO that starts from the checkpoint, with its base as the reference and the learning rate that its trainer noted.

    Args:
        asked: `run`, the checkpoint or a folder of them, whose last one is taken; `reference`; `pairs`; `further`, options of
            `train.py fit` that go before all this.
        printed: prints the config.

    Raises:
        ValueError: if the checkpoint cannot be read, or nobody says what it started from.
    """
    path = _checkpoint(str(asked.run))
    base = base_of(path, asked.reference) if is_adapter(path) else None
    reference = asked.reference or base
    if reference is None:
        raise ValueError(f"expected --reference, because {path} does not name the model it was trained from. Give that model.")
    tokenizer = tokenizer_at(path, *filter(None, (base, reference)))
    rate = noted_rate(Path(path))
    options: dict[str, Any] = {
        "config": _EXPERIMENT,
        "model.policy.path": path,
        "model.reference": "lightning_modules.models.specs.PretrainedPolicy",
        "model.reference.path": reference,
        **({"model.policy.base": base} if base else {}),
        "model.lr_scheduler": "null",
        **({"model.optimizer.lr": rate} if rate else {}),
        "data.tokenizer": tokenizer,
        "data.train.path": asked.pairs,
        "data.val_fraction": _HELD_OUT,
        **({} if has_template(tokenizer) else {"data.format.as_chat": "false"}),
    }
    words = ["fit", *(f"--{name}={value}" for name, value in options.items()), *asked.further, "--print_config"]
    config: Config = yaml.safe_load(printed(words))
    return Origin(Path("runs") / Path(path).resolve().name, config, 0, None, 0, None, 0, is_exact=False)


def noted_rate(checkpoint: Path) -> float | None:
    """The highest learning rate that a trainer has logged beside its checkpoint; None where it left no log."""
    log = checkpoint / "trainer_state.json"
    if not log.is_file():
        return None
    try:
        rows = json.loads(log.read_text(encoding="utf-8")).get("log_history", [])
    except (ValueError, AttributeError):
        return None
    rates = [float(row["learning_rate"]) for row in rows if isinstance(row, dict) and row.get("learning_rate")]
    return max(rates, default=None)


def assumed(config: Config, checkpoint: Path) -> str:
    """What a checkpoint does not say, and was set."""
    arguments = config["model"]["init_args"]
    rate = arguments["optimizer"]["init_args"]["lr"]
    where = "as its trainer logged" if noted_rate(checkpoint) == rate else "assumed: --model.optimizer.lr"
    loss = arguments["loss"]["class_path"].rsplit(".", 1)[-1]
    fields = ", ".join(f"{name} {value}" for name, value in arguments["loss"].get("init_args", {}).items())
    return (
        f"From weights alone: a fresh optimizer, pairs in an order of its own, {_HELD_OUT:.0%} of them held out. Learning rate "
        f"{rate:g} ({where}); {loss}, {fields} (assumed: --model.loss); {config['data']['init_args']['batch_size']} pairs a step "
        "(--data.batch_size)."
    )


def _checkpoint(given: str) -> str:
    if not Path(given).exists() and given.count("/") != 1:
        raise ValueError(f"expected a checkpoint, got {given}: there is none. Check the path.")
    path = checkpoints_in(given)[-1]
    fault = fault_of(path)
    if fault:
        raise ValueError(f"expected a whole checkpoint, got {path}: {fault}.")
    return path
