"""Refuses trainer options that would change or skip steps silently."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info


def settle_options(trainer: Trainer, stage: str) -> None:
    """Hold a training's options against what the modules do with them; moves what averages weights behind what reads them.

    Raises:
        ValueError: if an option cannot be kept.
    """
    if stage != "fit":
        return
    numbers = {name: getattr(trainer, name) for name in ("accumulate_grad_batches", "log_every_n_steps", "limit_train_batches")}
    if min(numbers["accumulate_grad_batches"], numbers["log_every_n_steps"]) < 1 or not numbers["limit_train_batches"]:
        raise ValueError(
            "expected accumulate_grad_batches and log_every_n_steps >= 1 and limit_train_batches > 0 for a training, got "
            f"{', '.join(map(str, numbers.values()))}. Use `validate` to train nothing."
        )
    _settle_averaging(trainer)


def is_averaged(trainer: Trainer) -> bool:
    """Whether a callback of the trainer puts an average of the weights in their place when a training ends."""
    return any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]


def _settle_averaging(trainer: Trainer) -> None:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if any(isinstance(callback, StochasticWeightAveraging) for callback in callbacks):
        raise ValueError(
            "expected no StochasticWeightAveraging, got one: it copies the module before its weights are there, and would average "
            "nothing. Use lightning.pytorch.callbacks.EMAWeightAveraging or WeightAveraging."
        )
    if not is_averaged(trainer):
        return
    if isinstance(trainer.strategy, ModelParallelStrategy):
        raise ValueError("expected whole weights to average, got FSDP2, under which Lightning's averaging shards nothing. Use ddp.")
    # The average takes the weights' place in its own on_train_end: a callback that reads the last step has to come before.
    callbacks.sort(key=lambda callback: 2 if isinstance(callback, Checkpoint) else int(isinstance(callback, WeightAveraging)))
    rank_zero_info(
        "Weights are averaged: validation, checkpoints and the exported folder have the average; steps, their diagnostics and "
        "samples have the weights that are trained."
    )
