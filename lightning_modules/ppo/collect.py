"""Make a rollout: draw, score, price the KL, estimate advantages, and say what was seen on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, device

from datamodules.batches import CompletionBatch, sum_by_sequence
from datamodules.prompts import PromptBatch
from lightning_modules.advantages import whiten
from lightning_modules.frozen import FrozenPolicy
from lightning_modules.kl import k1, k3
from lightning_modules.models.critic import Critic
from lightning_modules.models.policy import Policy
from lightning_modules.ppo.estimators import AdvantageEstimator, Evidence
from lightning_modules.ppo.health import events_of, explained_variance, kinds_of, repetition
from lightning_modules.ppo.kl_penalty import KLPenalty
from lightning_modules.ppo.rewards import RewardSource, TotalRewards, total_rewards
from lightning_modules.ppo.rollout import Rollout, TokenTable
from lightning_modules.ppo.samples import Samples, draw
from lightning_modules.ppo.settings import PPOSettings


@dataclass(frozen=True, eq=False)
class Models:
    """Who takes part in a rollout."""

    policy: Policy
    reference: FrozenPolicy
    critic: Critic | None
    critic_reads_policy: bool


@dataclass(frozen=True, eq=False)
class Collected:
    """A rollout, and what is logged of it."""

    rollout: Rollout
    metrics: dict[str, Tensor]
    """`{name: [n] values}`, whose means are logged."""
    events: dict[str, int]
    """What went wrong, by name: completions it happened to."""
    num_drawn: int
    """Completions that were drawn, those without a reward among them."""
    kl: float
    """Mean KL of a completion to the reference, nats (k1)."""
    reasons: tuple[str, ...] = ()
    """Why completions have no reward, the commonest first."""


@dataclass(frozen=True, eq=False)
class _Scored:
    """Samples with a reward, and the per-token columns that belong to them."""

    samples: Samples
    batches: tuple[CompletionBatch, ...]
    reference_logps: Tensor
    scores: Tensor
    token_rewards: Tensor
    total: TotalRewards


@dataclass(frozen=True, eq=False)
class Collector:
    """Makes rollouts of one run."""

    models: Models
    sources: Sequence[RewardSource]
    estimator: AdvantageEstimator
    penalty: KLPenalty
    settings: PPOSettings

    @torch.no_grad()
    def collect(self, prompts: PromptBatch, coefficient: float, device: device) -> Collected:
        """Sample answers to the prompts and prepare them for the updates.

        Args:
            prompts: with how to answer them.
            coefficient: of the KL penalty, reward per nat.
            device: where the models are.

        Raises:
            ValueError: if most completions have no reward.
        """
        scored = self._score(draw(self.models.policy, prompts), device)
        samples, lengths = scored.samples, scored.samples.lengths()
        kl = self.penalty.per_token(samples.logps(), scored.reference_logps)
        rewards = scored.token_rewards - coefficient * kl
        rewards[lengths.cumsum(0) - 1] += scored.scores
        values = self._values(scored.batches)
        greedy = self._greedy_scores(prompts, samples, device) if self.estimator.needs_greedy else None
        advantages, returns = self.estimator(Evidence(rewards, lengths, samples.group_numbers(), values, greedy))
        metrics = self._metrics(scored, coefficient, kl, rewards)
        metrics["objective/advantage_std"] = advantages.std(correction=0).reshape(1)
        if values is not None and returns is not None:
            metrics["val/explained_var"] = explained_variance(values, returns).reshape(1)
        if self.settings.whiten_advantages:
            advantages = whiten(advantages)
        table = TokenTable(samples.logps(), scored.reference_logps, advantages, values, returns)
        rollout = Rollout(
            prompts=tuple(prompt.prompt_ids for prompt in samples.prompts),
            completions=tuple(tuple(c.token_ids for c in group) for group in samples.groups),
            kinds=kinds_of(samples, scored.scores),
            table=table,
        )
        reasons = tuple(reason for reason, _ in scored.total.failures.most_common(3))
        events = events_of(samples, scored.total)
        return Collected(rollout, metrics, events, len(scored.total.scores), float(metrics["objective/kl"].mean()), reasons)

    def _score(self, samples: Samples, device: device) -> _Scored:
        batches = self._with_reference(samples, device)
        total = total_rewards(self.sources, samples, batches)
        scores = total.scores - self.settings.missing_eos_penalty * ~samples.finished()
        reference = _reference_of(batches)
        is_scored = scores.isfinite()
        if is_scored.all():
            return _Scored(samples, batches, reference, scores, total.tokens, total)
        of_token = is_scored.repeat_interleave(samples.lengths())
        kept = samples.keep(is_scored)
        # Packed anew: rows of completions that nothing is known of must not be trained on.
        return _Scored(
            kept, self._with_reference(kept, device), reference[of_token], scores[is_scored], total.tokens[of_token], total
        )

    def _with_reference(self, samples: Samples, device: device) -> tuple[CompletionBatch, ...]:
        packed = (batch.to(device) for batch in samples.batches(self.settings.max_tokens_per_batch))
        return tuple(replace(batch, reference_token_logps=self.models.reference.logps(batch)) for batch in packed)

    def _values(self, batches: Sequence[CompletionBatch]) -> Tensor | None:
        critic = self.models.critic
        if critic is None:
            return None
        reads = self.models.critic_reads_policy
        return torch.cat([critic(batch, self.models.policy(batch) if reads else None).cpu() for batch in batches])

    def _greedy_scores(self, prompts: PromptBatch, samples: Samples, device: device) -> Tensor:
        """`[P]` of the prompts that are left; a greedy completion without a score counts as the mean of its prompt's."""
        left = {prompt.prompt_ids for prompt in samples.prompts}
        of_left = replace(prompts, prompts=tuple(prompt for prompt in prompts.prompts if prompt.prompt_ids in left))
        greedy = draw(self.models.policy, of_left, is_greedy=True)
        batches = self._with_reference(greedy, device)
        total = total_rewards(self.sources, greedy, batches)
        sequence = torch.arange(len(greedy.completions)).repeat_interleave(greedy.lengths())
        scores = total.scores + sum_by_sequence(total.tokens, sequence, len(greedy.completions))
        return scores.nan_to_num(float(scores.nanmean()))

    def _metrics(self, scored: _Scored, coefficient: float, kl: Tensor, rewards: Tensor) -> dict[str, Tensor]:
        samples, logps = scored.samples, scored.samples.logps()
        count = len(scored.scores)
        sequence = torch.arange(count).repeat_interleave(samples.lengths())
        per_completion = {
            "objective/kl": k1(logps, scored.reference_logps),
            "objective/kl_k3": k3(logps, scored.reference_logps),
            "objective/entropy": -logps,
            "objective/non_score_reward": -coefficient * kl,
            "objective/rlhf_reward": rewards,
        }
        metrics = {name: sum_by_sequence(values, sequence, count) for name, values in per_completion.items()}
        metrics |= {
            "objective/scores": scored.scores,
            "objective/kl_coef": torch.tensor([coefficient]),
            "rollout/length": samples.lengths().float(),
            "rollout/eos_share": samples.finished().float(),
            "rollout/repetition": torch.tensor([repetition(ids) for ids in samples.token_ids()]),
        }
        own = {f"objective/score/{name}": values[values.isfinite()] for name, values in scored.total.by_source.items()}
        return metrics | own


def _reference_of(batches: Sequence[CompletionBatch]) -> Tensor:
    parts = [batch.reference_token_logps for batch in batches]
    return torch.cat([part.cpu() for part in parts if part is not None])
