"""Proximal policy optimization of a language model (arXiv 1707.06347, with rewards as in arXiv 1909.08593)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import rank_zero_warn
from torch.nn import Parameter
from torch.optim import Optimizer
from typing_extensions import override

from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.prompts import PromptBatch
from datamodules.contracts.stores import PromptStore, data_of, require
from lightning_modules.models.policy import Policy, PolicySpec
from lightning_modules.models.scalars.critic import Critic, CriticSpec, OwnBody
from lightning_modules.models.sharding import Shardable
from lightning_modules.policy_module import PolicyModule
from lightning_modules.ppo.collect import Collected, Collector, Models
from lightning_modules.ppo.estimators import GAE, AdvantageEstimator
from lightning_modules.ppo.health import MEANING
from lightning_modules.ppo.kl_penalty import KLPenalty
from lightning_modules.ppo.objective import ppo_loss, step_metrics
from lightning_modules.ppo.progress import Progress
from lightning_modules.ppo.rollout import minibatch_plan
from lightning_modules.ppo.settings import PPOSettings
from lightning_modules.ppo.updates import Piece, Update, clip
from lightning_modules.processes.ranks import Part, place
from lightning_modules.processes.strategies import averaged
from lightning_modules.references.frozen import FrozenPolicy
from lightning_modules.rewards.base import RewardSource, prepare
from lightning_modules.rewards.checks import check_rewards, require_fitting_models
from lightning_modules.step_output import AnswersOutput, EvalStepOutput, TrainingStepOutput
from lightning_modules.trained import LRSchedulerCallable, OptimizerCallable


class PPOModule(PolicyModule):
    """Sample from the policy, score, and take clipped steps on what was sampled; then sample anew.

    A batch of the loader is a tick and holds nothing: when one comes, the module takes the next minibatch of its rollout, and makes
    a new rollout where the last one is used up. So a training step is an optimizer step, and the callbacks see its completions
    as they see any other batch.

    Args:
        policy: recipe of the model to train.
        rewards: sources of reward, added up with their weights.
        optimizer: builds the optimizer from the parameters of policy and critic.
        lr_scheduler: builds a schedule that is stepped once per optimizer step; constant by default.
        advantages: how rewards become advantages; GAE by default.
        critic: recipe of the critic, where the advantages need one; a copy of the policy's body by default.
        critic_lr: learning rate of the critic; the optimizer's own by default.
        reference: recipe of the frozen reference; the policy as it starts by default.
        kl: price of leaving the reference.
        settings: how a rollout is used.
    """

    def __init__(
        self,
        policy: PolicySpec,
        rewards: list[RewardSource],
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None = None,
        advantages: AdvantageEstimator | None = None,
        critic: CriticSpec | None = None,
        critic_lr: float | None = None,
        reference: PolicySpec | None = None,
        kl: KLPenalty | None = None,
        settings: PPOSettings | None = None,
    ) -> None:
        super().__init__(policy, optimizer, lr_scheduler)
        if not any(source.weight for source in rewards):
            raise ValueError(f"expected a source of reward with a weight other than 0, got {len(rewards)} without. Name a judge.")
        if critic_lr is not None and not 0 < critic_lr < float("inf"):
            raise ValueError(f"expected a finite critic_lr > 0, got {critic_lr}. Use null for the optimizer's own rate.")
        self.automatic_optimization = False
        self.critic: Critic | None = None
        self.kl = kl or KLPenalty()
        self.settings = settings or PPOSettings()
        self.progress = Progress(self.kl)
        self._sources: Sequence[RewardSource] = rewards
        self._estimator = advantages or GAE()
        self._critic_spec = (critic or OwnBody()) if self._estimator.needs_critic else None
        self.starts_whole = self._critic_spec is not None
        self._critic_lr = critic_lr
        self._reference = FrozenPolicy(reference or policy, is_start=reference is None)
        self._events: Counter[str] = Counter()

    remedies = ("lower_rate", "stronger_kl", "smaller_clip", "fewer_epochs", "stop_here")

    @override
    def on_policy_built(self) -> None:
        self._reference.share(self.policy, is_sharded=self.device_mesh is not None)
        if self._critic_spec is not None:
            self.critic = self._critic_spec.build(self.policy)

    @override
    def configure_model(self) -> None:
        super().configure_model()
        if self.critic is not None:
            self.require_readable(self.critic.limits)

    @override
    def trained_models(self) -> Sequence[Shardable]:
        return [self.policy] if self.critic is None else [self.policy, self.critic]

    @override
    def reference_policy(self) -> Policy:
        return self._reference.policy

    @override
    def trained_parameters(self) -> list[Parameter]:
        policy = [p for p in self.policy.parameters() if p.requires_grad]
        if self.critic is None:
            return policy
        groups: list[dict[str, Any]] = [{"params": policy}, {"params": [p for p in self.critic.parameters() if p.requires_grad]}]
        if self._critic_lr is not None:
            groups[1]["lr"] = self._critic_lr
        # Groups are as good to every optimizer of torch.
        return cast(list[Parameter], groups)

    @override
    def on_fit_start(self) -> None:
        super().on_fit_start()
        self._reference.use(self.trainer.precision_plugin)
        prepare(self._sources, self._store, self.device, self.trainer.precision_plugin)
        require_fitting_models(self.policy, self._reference.policy)
        self.require_readable(self._reference.policy.limits)

    @override
    def on_train_start(self) -> None:
        super().on_train_start()
        if self.trainer.global_step == 0:
            with self.trainer.precision_plugin.forward_context():
                checks = check_rewards(self._sources, self._store, self.device)
            self.count_once({name: torch.tensor([value]) for name, value in checks.items()})

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """A tick of the training loader becomes the next minibatch; other batches stay what they are."""
        if not self.trainer.training:
            return batch
        if self.progress.rollout is None:
            self._collect()
        return self.progress.packed(self._parts()).to(self.device)

    @override
    def training_step(self, batch: CompletionBatch, batch_idx: int) -> TrainingStepOutput:
        update, parts = Update(), self._parts()
        for number, part in enumerate(parts):
            piece = self._piece(part, batch if len(parts) == 1 else self.progress.packed([part]).to(self.device))
            with averaged(self.trainer.strategy, is_last=number == len(parts) - 1):
                self.manual_backward(piece.loss)
            if not part.idle or batch.share.idle:
                update.add(piece)
        self._train_means.update(update.metrics())  # before the step, which they may forbid
        self._step_optimizer()
        self.progress.advance()
        if self.trainer.global_step % self._log_every_n_steps() == 0:
            self._log_train_means(self.trainer.global_step)
        return {"loss": update.loss(), "step": update.output(batch)}

    @override
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.unscale(optimizer)  # here the gradients are those that the optimizer sees, whatever callbacks did to them
        parts = {"train/grad_norm": self.policy} | ({} if self.critic is None else {"val/grad_norm": self.critic})
        self.admit_step(optimizer, {name: clip(part, self.settings.max_grad_norm) for name, part in parts.items()})

    @override
    def validation_step(self, batch: CompletionBatch, batch_idx: int) -> None:
        _refuse_completions("limit_val_batches")

    @override
    def test_step(self, batch: CompletionBatch | PromptBatch, batch_idx: int) -> AnswersOutput | EvalStepOutput:
        return super().test_step(batch, batch_idx) if isinstance(batch, PromptBatch) else _refuse_completions("limit_test_batches")

    @override
    def made_with(self) -> dict[str, str]:
        return super().made_with() | {"reference": self._reference.policy.fingerprint()}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["ppo"] = self.progress.state_dict() | {"events": dict(self._events)}

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.progress.load_state_dict(checkpoint["ppo"])
        self._events = Counter(checkpoint["ppo"]["events"])

    @property
    def _store(self) -> PromptStore:
        return require(data_of(self.trainer), PromptStore)

    def _collect(self) -> None:
        models = Models(self.policy, self._reference, self.critic)
        collector = Collector(models, self._sources, self._estimator, self.kl, self.settings)
        number = self.progress.number
        with self.trainer.precision_plugin.forward_context():
            collected = collector.collect(self._store.rollout_prompts(number), self.progress.coefficient, self.device)
        self._report(collected)
        settings = self.settings
        plan = minibatch_plan(
            len(collected.rollout.prompts), settings.num_epochs, settings.num_minibatches, (settings.seed, number)
        )
        coefficient = self.kl.updated(self.progress.coefficient, collected.kl, len(collected.metrics["objective/scores"]))
        self.progress.begin(collected.rollout, plan, coefficient)

    def _report(self, collected: Collected) -> None:
        self.count_once(collected.metrics)
        for name in MEANING:
            happened = collected.events.get(name, 0)
            self.count_once({f"rollout/events/{name}": torch.tensor([happened / collected.num_drawn])})
            if happened and not self._events[name]:
                detail = f" ({'; '.join(collected.reasons)})" if name == "unscored" else ""
                told = f"Rollout {self.progress.number}: {happened} completions {MEANING[name]}{detail}."
                rank_zero_warn(f"{told} Later cases are counted without a message.")
            self._events[name] += happened

    def _parts(self) -> list[Part]:
        """This rank's passes of the update that is due."""
        return self.progress.parts(self.settings.max_tokens_per_batch, place())

    def _piece(self, part: Part, batch: CompletionBatch) -> Piece:
        table = self.progress.current().table_of(part.numbers, self.device)
        with self.trainer.precision_plugin.forward_context():
            stats = self.policy(batch)
            values = None if self.critic is None else self.critic(batch, stats)
            loss = ppo_loss(stats, values, table, self.settings, self.progress.totals())
        stats.logps.retain_grad()
        metrics = step_metrics(loss, stats, table)
        counted = {name: values[:0] for name, values in metrics.items()} if part.idle else metrics
        return Piece(loss.total * batch.share.target_scale(), stats, counted)

    def _step_optimizer(self) -> None:
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer), "PPO has one optimizer"
        optimizer.step()
        optimizer.zero_grad()
        for schedule in self.trainer.lr_scheduler_configs:
            cast(Any, schedule.scheduler).step()


def _refuse_completions(limit: str) -> NoReturn:
    raise ValueError(f"expected prompts, got completions: PPO has no loss on frozen data. Set trainer.{limit} to 0.")
