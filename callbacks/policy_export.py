"""The trained policy in a folder of its own: what the next stage, or any other tool, loads."""

from __future__ import annotations

from itertools import chain, count
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from callbacks.decoding import decoder_of
from callbacks.run_files import run_folder
from lightning_modules.trainer_options import is_averaged


class SavingPolicy(Protocol):
    """What is exported."""

    def save(self, folder: Path) -> None:
        """Write the weights into a folder that is not there yet."""


class ExportedModule(Protocol):
    """What the export needs of a module."""

    policy: SavingPolicy

    def require_finite(self) -> None:
        """Refuse weights, or steps, that are not finite."""


@runtime_checkable
class SavingTokenizer(Protocol):
    """A tokenizer that belongs beside the weights (a Hugging Face one; the toy has none)."""

    def save_pretrained(self, folder: Path) -> object:
        """Write its files into a folder."""


class PolicyExport(Callback):
    """Saves the policy to `<run>/policy` when training has ended; never over an earlier one, and not after an error.

    Where weights are averaged (`WeightAveraging` of Lightning) the average is saved. The tokenizer goes with it, so that the folder
    is all that the next stage, or another tool, needs.

    Raises:
        ValueError: when a fit starts without a run folder, rather than when its work is done.
    """

    folder_name = "policy"

    def __init__(self) -> None:
        self._is_done = False

    def exported(self, pl_module: LightningModule) -> SavingPolicy:
        """What is saved."""
        return cast(ExportedModule, pl_module).policy

    def save_tokenizer(self, tokenizer: SavingTokenizer, folder: Path) -> None:
        """Put the tokenizer beside the weights."""
        tokenizer.save_pretrained(folder)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_done = False
        if trainer.is_global_zero and not _is_trial(trainer) and run_folder(trainer) is None:
            raise ValueError(
                "expected a logger with a folder to save the policy in, got none. Set trainer.logger to TensorBoardLogger."
            )

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not later: before on_fit_end the strategy takes the model off its devices, and a sharded one cannot be gathered. An
        # average of the weights, which is never sharded, takes their place after the last monitor has read them.
        if not is_averaged(trainer):
            self._export(trainer, pl_module)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A run that was killed after its last step has nothing left to train when it is resumed, and no on_train_end.
        self._export(trainer, pl_module)

    def _export(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_done or _is_trial(trainer):
            return
        self._is_done = True
        cast(ExportedModule, pl_module).require_finite()
        target = _agreed_folder(trainer, self.folder_name)
        # Every rank calls it, for a sharded policy is gathered; the first one writes.
        self.exported(pl_module).save(target)
        tokenizer: object = decoder_of(trainer)
        if trainer.is_global_zero and isinstance(tokenizer, SavingTokenizer):
            self.save_tokenizer(tokenizer, target)
        rank_zero_info(f"The trained {self.folder_name.replace('_', ' ')} is in {target}")


def _agreed_folder(trainer: Trainer, name: str) -> Path:
    """Where to save, the same on all ranks: the first one looks, for the others might see what it has written since."""
    folder = run_folder(trainer)
    target = free_folder(folder, trainer.global_step, name) if folder is not None and trainer.is_global_zero else None
    agreed = cast(Path, trainer.strategy.broadcast(target))
    return agreed


def free_folder(run: Path, step: int, name: str = "policy") -> Path:
    """`<run>/policy`, or where that is taken (a second fit into the same folder) `policy_step_<n>`, then with a count."""
    names = chain([name, f"{name}_step_{step}"], (f"{name}_step_{step}_{number}" for number in count(2)))
    return next(folder for name in names if not (folder := run / name).exists())


def _is_trial(trainer: Trainer) -> bool:
    """`fast_dev_run` replaces the loggers: there is no folder, and nothing worth keeping."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
