"""Exports the trained policy as a folder that the next stage, or any other tool, loads."""

from __future__ import annotations

from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from typing_extensions import override

from callbacks.answers.texts import hub_tokenizer_of
from datamodules.contracts.stores import require
from lightning_modules.contracts import HasPolicy, HasRewardModel
from lightning_modules.models.files.weights import keep_weights
from lightning_modules.models.policy import Policy
from lightning_modules.models.scalars.reward_model import RewardModel
from lightning_modules.models.sharding import is_sharded
from lightning_modules.optimization.trainer_options import is_averaged
from run_folder.files import run_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PolicyExport(Callback):
    """Saves the policy to `<run>/policy` when training has ended; never over an earlier one, and not after an error.

    Where weights are averaged (`WeightAveraging` of Lightning) the average is saved. The tokenizer goes with it, so that the folder
    is all that the next stage, or another tool, needs.

    What can fail is tried before the first step. If it fails all the same, the weights as they were trained are written to
    `<run>/policy_weights.safetensors`, a state that `load_state_dict` of the same recipe takes; a half-written folder is called
    `policy.partial`.

    Raises:
        ValueError: when a fit starts without a run folder or with a policy that cannot be saved, rather than when its work is done.
    """

    folder_name = "policy"

    def __init__(self) -> None:
        self._is_done = False
        self.written: Path | None = None
        """The folder, once it is written; on the first rank."""

    def trained(self, pl_module: LightningModule) -> HasPolicy | HasRewardModel:
        """The module, as one that has what is saved.

        Raises:
            ValueError: if it trains something else.
        """
        return require(pl_module, HasPolicy)

    def exported(self, pl_module: LightningModule) -> Policy | RewardModel:
        """What is saved."""
        return require(pl_module, HasPolicy).policy

    def save_tokenizer(self, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        """Put the tokenizer beside the weights."""
        tokenizer.save_pretrained(folder)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_done, self.written = False, None
        if _is_trial(trainer):
            return
        if not trainer.is_global_zero:
            # The first rank alone knows the folder; the others take part in gathering.
            self.exported(pl_module).try_save(Path())
            return
        folder = run_folder(trainer)
        if folder is None:
            raise ValueError(
                "expected a logger with a folder to save the policy in, got none. Set trainer.logger to TensorBoardLogger."
            )
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".try_save_") as name:
            self.exported(pl_module).try_save(Path(name))
            self._write_tokenizer(trainer, Path(name))

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
        self.trained(pl_module).require_finite()
        target = _agreed_folder(trainer, self.folder_name)
        partial = target.with_name(f"{target.name}.partial")
        try:
            # Every rank calls it, because a sharded policy is gathered; the first one writes.
            self.exported(pl_module).save(partial)
            self._write_tokenizer(trainer, partial)
            if trainer.is_global_zero:
                partial.rename(target)
                self.written = target
        except Exception as error:
            kept = self._keep(pl_module, target)
            raise ValueError(f"expected to write the trained {self.folder_name} to {target}, got: {error!r}. {kept}") from error
        rank_zero_info(f"The trained {self.folder_name.replace('_', ' ')} is in {target}")

    def _write_tokenizer(self, trainer: Trainer, folder: Path) -> None:
        tokenizer = hub_tokenizer_of(trainer)
        if trainer.is_global_zero and tokenizer is not None:
            self.save_tokenizer(tokenizer, folder)

    def _keep(self, pl_module: LightningModule, target: Path) -> str:
        """Write the weights as they were trained; says where they are."""
        model, file = self.exported(pl_module), target.with_name(f"{target.name}_weights.safetensors")
        # Gathering shards takes all ranks, and this one may be here alone.
        if not isinstance(model, nn.Module) or is_sharded(model):
            return "The last checkpoint of the run has the weights."
        keep_weights(model, file)
        return (
            f"Nothing is lost: the weights as they were trained are in {file}, for load_state_dict of what the config builds "
            "(safetensors.torch.load_file reads it)."
        )


def _agreed_folder(trainer: Trainer, name: str) -> Path:
    """Where to save, the same on all ranks: the first one looks, for the others might see what it has written since."""
    folder = run_folder(trainer)
    target = free_folder(folder, trainer.global_step, name) if folder is not None and trainer.is_global_zero else None
    agreed = trainer.strategy.broadcast(target)
    assert agreed is not None, "a run without a folder is refused when it starts"
    return agreed


def free_folder(run: Path, step: int, name: str = "policy") -> Path:
    """`<run>/policy`, or where that is taken (a second fit into the same folder) `policy_step_<n>`, then with a count."""
    names = chain([name, f"{name}_step_{step}"], (f"{name}_step_{step}_{number}" for number in count(2)))
    return next(folder for name in names if not (folder := run / name).exists())


def _is_trial(trainer: Trainer) -> bool:
    """`fast_dev_run` replaces the loggers: there is no folder, and nothing worth keeping."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
