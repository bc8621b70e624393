"""Writes settings and final metrics of a run for TensorBoard's HParams tab."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from run_folder.rows import Track, tracks_of

FINAL = (
    "task/accuracy",
    "val/accuracy",
    "val/loss",
    "val/rewards/accuracies",
    "train/loss",
    "likelihood/bank/drop_share",
    "dispersion/bank/off_data_mass",
    "on_policy/kl",
    "objective/kl",
)
"""Metrics whose last values stand beside the settings."""

_TRAINER = ("max_steps", "max_epochs", "precision", "accumulate_grad_batches", "gradient_clip_val")
_LEFT_OUT = ("cache_dir", "tokenizer")


def hyperparameters(folder: Path) -> dict[str, float | str]:
    """`{name: value}` of a run's config: seed, model, data, and of the trainer what bears on learning; what is null is left out."""
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    trainer = {name: (config.get("trainer") or {}).get(name) for name in _TRAINER}
    parts = {"trainer": trainer, "model": config.get("model"), "data": config.get("data")}
    found = {"seed_everything": config.get("seed_everything")} | dict(_leaves(parts, ""))
    return {
        name: value if isinstance(value, int | float | str) else str(value) for name, value in found.items() if value is not None
    }


def final_metrics(folder: Path, logged: Mapping[str, float]) -> dict[str, float]:
    """The last values of `FINAL`, as far as they were measured.

    Args:
        folder: of the run.
        logged: what the module logged last, which stands in no rows.
    """
    tracks: Mapping[str, Track] = tracks_of(folder)
    values = {name: tracks[name][-1][1] if name in tracks else logged.get(name) for name in FINAL}
    return {name: value for name, value in values.items() if value is not None}


def _leaves(value: object, name: str) -> Iterable[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            # What every part has says nothing.
            within = name if key == "init_args" else f"{name}.{key}" if name else str(key)
            yield from _leaves(item, within)
    elif isinstance(value, list):
        yield name, str(value)
    elif not name.endswith(_LEFT_OUT):
        yield name.removesuffix(".class_path"), str(value).rsplit(".", 1)[-1] if name.endswith("class_path") else value
