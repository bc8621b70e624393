"""The base of trained modules that keeps them from applying, saving or exporting numbers that are not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from datamodules.contracts.batches import CompletionBatch
from lightning_modules.models.checks.finite import names_of_not_finite, some_of, tensors_of
from lightning_modules.processes.ranks import over_ranks
from lightning_modules.steps.means import CountedMeans
from lightning_modules.steps.step_guard import StepGuard


class GuardedModule(LightningModule):
    """A module whose steps are applied only if their loss, gradient norms and training means are finite; see `StepGuard`.

    A subclass puts the step's numbers into `_train_means`, and calls `admit_step` when the gradients are there.
    """

    def __init__(self) -> None:
        super().__init__()
        self._train_means = CountedMeans()
        self._guard = StepGuard()

    @override
    def on_train_batch_start(self, batch: CompletionBatch, batch_idx: int) -> None:
        self._guard.saw(self.trainer.global_step + 1, batch)

    @override
    def on_train_end(self) -> None:
        self.require_finite()

    def count_once(self, values: Mapping[str, Tensor]) -> None:
        """Put numbers that every rank has into the training means, once."""
        counts = self.trainer.is_global_zero
        self._train_means.update({name: value.to(self.device) for name, value in values.items()}, counts=counts)

    def unscale(self, optimizer: Optimizer) -> None:
        """Take the factor of `16-mixed` off the gradients where Lightning leaves it on: of fused optimizers."""
        if self._scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            self._scaler.unscale_(optimizer)

    def admit_step(self, optimizer: Optimizer, norms: Mapping[str, Tensor]) -> None:
        """Log the step's gradient norms, and have the step left out if they, its loss or another number of it is not finite.

        Call it when the gradients are there, just before the optimizer steps, on every rank.

        Args:
            optimizer: about to step.
            norms: `{name: [1]}` L2 norms before clipping.

        Raises:
            ValueError: if the step is not finite and the optimizer cannot see it by itself; at the next logged point otherwise.
        """
        # float16 overflows now and then: the scaler leaves out what it has seen, and lowers its factor, which has an end.
        scaler = self._scaler
        overflows = scaler is not None and scaler.get_scale() > 1 and any(scaler._found_inf_per_device(optimizer).values())
        step = self.trainer.global_step + 1
        if scaler is not None and overflows:
            rank_zero_info(f"Step {step} is left out: its float16 gradients overflowed at a loss scale of {scaler.get_scale():g}.")
        self._train_means.update({} if overflows else norms)
        if not self._guard.judge(step, optimizer, self._train_means.are_finite(), waits=scaler is not None):
            self.require_finite_means(self._train_means.compute())

    def require_finite(self) -> None:
        """Refuse to go on, or to hand anything on, after a step that was not finite. A collective: call it on every rank.

        Raises:
            ValueError: if a number of a step since the last logged point, or a weight, is not finite.
        """
        self.require_finite_means(self._train_means.compute())
        self._require_finite_state("weights", dict(self.named_parameters()))

    def require_finite_means(self, means: Mapping[str, float]) -> None:
        """Refuse means since the last logged point, over all ranks, if one of them is not finite. Call it on every rank.

        Raises:
            ValueError: if there is one.
        """
        wrong = [name for name, mean in means.items() if not math.isfinite(mean)]
        if not wrong:
            return
        # The loss comes first in a module's means, and the gradient's norm last.
        first, others = wrong[0], wrong[1:]
        name = "training loss" if first == "train/loss" else first
        more = f" (and {some_of(others)})" if others else ""
        step, rows = self._guard.first_bad()
        made_of = f"the rows {', '.join(rows)}" if rows else "completions that were sampled"
        raise ValueError(
            f"expected a finite {name}, got {means[first]}{more} in step {step}, made of {made_of}. The step was not applied, and "
            f"the run ends. {self._way_back()} Look at these rows, or lower the learning rate."
        )

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Here and not where files are written: no callback that saves has dropped an older file yet.
        self.require_finite()
        self._require_finite_state("optimizer state", tensors_of(checkpoint.get("optimizer_states", [])))

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own = dict(self.named_parameters())
        # FSDP2 has loaded both by now and left them out of what it hands on.
        weights = checkpoint.get("state_dict", own)
        states = checkpoint.get("optimizer_states", [optimizer.state_dict() for optimizer in self.trainer.optimizers])
        found = {name: weights[name] for name in weights.keys() & own.keys()} | tensors_of(states)
        broken = sorted(set(over_ranks(names_of_not_finite(found))))
        if broken:
            raise ValueError(
                f"expected finite weights and optimizer state in the checkpoint, got NaN or infinity in {some_of(broken)}. Resume "
                "from an earlier checkpoint."
            )

    @property
    def _scaler(self) -> torch.amp.GradScaler | None:
        """The scaler of `16-mixed`, which scales the loss, so that float16 gradients are not rounded to 0."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def _require_finite_state(self, what: str, tensors: Mapping[str, Tensor]) -> None:
        broken = sorted(set(over_ranks(names_of_not_finite(tensors))))
        if broken:
            raise ValueError(
                f"expected finite {what} after step {self.trainer.global_step}, got NaN or infinity in {some_of(broken)}. Nothing "
                f"was saved, and the run ends. {self._way_back()} Lower the learning rate."
            )

    def _way_back(self) -> str:
        """Names the newest checkpoint, which is finite."""
        saved = [path for keeper in self.trainer.checkpoint_callbacks if (path := getattr(keeper, "newest", None))]
        return f"Go on from the last checkpoint with --ckpt_path {saved[-1]}." if saved else "No checkpoint had been saved."
