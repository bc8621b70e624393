"""The base of all trained modules: the optimizer, its schedule, and the averaging and logging of metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from datamodules.contracts.stores import data_of
from lightning_modules.models.adapters.adapter_checkpoints import FrozenBase
from lightning_modules.models.adapters.lora import has_adapters
from lightning_modules.models.checks.limits import ModelLimits
from lightning_modules.models.sharding import Shardable, is_sharded, whole
from lightning_modules.optimization.optimizer_names import by_name, by_number, names_of
from lightning_modules.optimization.precision import gathering_of, parameter_precision
from lightning_modules.optimization.resuming import (
    Hyperparameters,
    apply_changes,
    count_batches_anew,
    hyperparameters,
    require_same,
)
from lightning_modules.optimization.stochastic_rounding import require_weights_that_move
from lightning_modules.optimization.trainer_options import settle_options
from lightning_modules.processes.strategies import require_tested
from lightning_modules.steps.guarded import GuardedModule
from lightning_modules.steps.means import CountedMeans

OptimizerCallable = Callable[[Iterable[Parameter]], Optimizer]
LRSchedulerCallable = Callable[[Optimizer], LRScheduler]


class TrainedModule(GuardedModule):
    """Optimizer, schedule, counted means and their resumption; a subclass says what is trained and how a step goes.

    `save_hyperparameters` is left out on purpose: a resumed run takes its configuration from the config and the command
    line, never from the checkpoint.

    Args:
        optimizer: builds the optimizer from the parameters that require a gradient.
        lr_scheduler: builds a schedule that is stepped once per optimizer step; constant by default.
    """

    allow_changed_data = False
    """Whether a checkpoint that was trained on other data, or against another reference, is resumed."""

    remedies: tuple[str, ...] = ("lower_rate", "stop_here")
    """What `advise.py` tries when a run goes wrong, by file of configs/remedies; where there is a loss, the loss says."""

    def __init__(self, optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable | None = None) -> None:
        super().__init__()
        self._make_optimizer = optimizer
        self._make_scheduler = lr_scheduler
        self._eval_means = CountedMeans()
        self._configured: Hyperparameters = []
        self._configured_then: Hyperparameters = []
        self._made_with: dict[str, str] = {}
        self._made_with_then: dict[str, str] | None = None
        self._frozen_base = FrozenBase(self)

    @override
    def setup(self, stage: str) -> None:
        # The first hook of ours: before the policy is built, and before a batch is converted.
        require_tested(self, stage)
        settle_options(self.trainer, stage)
        self.trainer.strategy.precision_plugin = parameter_precision(self.trainer.precision_plugin)

    def require_readable(self, limits: ModelLimits | None) -> None:
        """Hold the data against what a model can read, before the first step; loaders without a data module are not looked at.

        Raises:
            ValueError: if it cannot read them.
        """
        datamodule = getattr(self._trainer, "datamodule", None)
        demands, tokenizer = getattr(datamodule, "demands", None), getattr(datamodule, "tokenizer", None)
        if limits is not None and demands is not None:
            # While models are built, Lightning makes the accelerator the default device; data are made on the host.
            with torch.device("cpu"):
                limits.require(demands())
        if limits is not None and isinstance(tokenizer, Sized):
            limits.warn_of_tokenizer(len(tokenizer))

    def spread(self, models: Iterable[Shardable]) -> None:
        """Shard what the optimizer moves, where the strategy shards (FSDP2); call it when the models have been built."""
        # Set by ModelParallelStrategy alone.
        if self.device_mesh is not None:
            for model in models:
                model.shard(self.device_mesh["data_parallel"], gathering_of(self.trainer.precision_plugin))
            # A checkpoint of adapters lacks the base; what else it may not lack is looked at by `put_back`.
            self.strict_loading = not has_adapters(self)

    def trained_parameters(self) -> Iterable[Parameter]:
        """The parameters that the optimizer gets, or groups of them with settings, as torch takes them."""
        return [p for p in self.parameters() if p.requires_grad]

    @property
    def digests(self) -> Mapping[str, str]:
        """What `made_with` found when the training started."""
        return self._made_with

    def made_with(self) -> dict[str, str]:
        """`{what: digest}` of what, besides the config, a resumed run has to have again: the training data, the reference."""
        content = getattr(data_of(self.trainer), "training_content", None)
        return {} if content is None else dict(content())

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self._make_optimizer(self.trained_parameters())
        require_weights_that_move(optimizer)
        self._configured = hyperparameters(optimizer)
        if self._make_scheduler is None:
            return optimizer
        # Lightning's default interval is the epoch; schedules here count optimizer steps.
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._make_scheduler(optimizer), "interval": "step"}}

    @override
    def on_train_start(self) -> None:
        self._made_with = self.made_with()
        # on_fit_start would be too early: the optimizer is restored between the two.
        if self._configured_then:
            require_same(self._made_with_then, self._made_with, is_allowed=self.allow_changed_data)
            is_scheduled = self._make_scheduler is not None
            apply_changes(self.trainer.optimizers[0], self._configured_then, self._configured, is_scheduled=is_scheduled)

    @override
    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        # Here and not in on_train_batch_end: Lightning writes checkpoints before it calls that hook of the module, and
        # a run resumed from one would average over other steps. The step is counted after this hook.
        step = self.trainer.global_step + 1
        if step % self._log_every_n_steps() == 0:
            self._log_train_means(step)

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_eval_means("val")

    @override
    def on_test_epoch_end(self) -> None:
        self._log_eval_means("test")

    @override
    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        self.unscale(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        # Lightning's own clipping refuses fused optimizers under mixed precision (issue 21435).
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            norm = torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
        else:
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        self.admit_step(optimizer, {"train/grad_norm": whole(norm).reshape(1)})

    @override
    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """All weights; of adapters in parts over ranks, what is trained."""
        return self._frozen_base.of_parts(super().state_dict(*args, **kwargs))

    def _optimizer_order(self) -> list[str]:
        return names_of(self, self.trained_parameters())

    def _numbers_differ(self) -> bool:
        """Whether the optimizer numbers its parameters otherwise than the module, as Lightning does under FSDP2."""
        return self._optimizer_order() != [name for name, _ in self.named_parameters()]

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["train_means"] = self._train_means.state_dict()
        checkpoint["optimizer_config"] = self._configured
        checkpoint["made_with"] = self._made_with
        checkpoint["microbatches_of_a_rank"] = self.trainer.accumulate_grad_batches
        self._frozen_base.take_out(checkpoint)
        if self._numbers_differ():
            names = self._optimizer_order() if not is_sharded(self) else [name for name, _ in self.named_parameters()]
            checkpoint["optimizer_states"] = [by_name(state, names) for state in checkpoint["optimizer_states"]]

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._frozen_base.put_back(checkpoint)
        if self._numbers_differ() and "optimizer_states" in checkpoint and not is_sharded(self):
            names = self._optimizer_order()
            checkpoint["optimizer_states"] = [by_number(state, names) for state in checkpoint["optimizer_states"]]
        self._configured_then = checkpoint["optimizer_config"]
        self._made_with_then = checkpoint.get("made_with")
        now = self.trainer.accumulate_grad_batches
        count_batches_anew(checkpoint["loops"], checkpoint.get("microbatches_of_a_rank", now), now)
        keep = self.trainer.is_global_zero
        self._train_means.load_state_dict(checkpoint["train_means"], device=self.device, keep=keep)

    def _log_every_n_steps(self) -> int:
        return int(self.trainer.log_every_n_steps)  # type: ignore[attr-defined]

    def _log_train_means(self, step: int) -> None:
        means = self._train_means.compute()
        self._train_means.reset()
        self.require_finite_means(means)
        self._guard.clear()
        # Straight to the loggers, so that a point stands at the step it was measured at (self.log would put it one before).
        for logger in self.trainer.loggers:
            logger.log_metrics(means, step=step)
        # And straight to the progress bar: what self.log is given, the bar reads off the device again at every step. The two are
        # Lightning's own dictionaries, which it gives out to be read: tests/lightning_modules/test_device_syncs.py writes to them.
        self.trainer.callback_metrics.update({name: torch.tensor(mean) for name, mean in means.items()})
        self.trainer.progress_bar_metrics["loss"] = means["train/loss"]

    def _log_eval_means(self, stage: str, *, logger: bool | None = None) -> None:
        """Log what an evaluation has read, and begin anew; `stage` is the prefix of its names."""
        # compute() has already reduced over ranks.
        self.log_dict(self._eval_means.compute(), logger=logger)
        self._eval_means.reset()
