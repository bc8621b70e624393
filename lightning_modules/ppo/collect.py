"""Makes a rollout: draws and scores completions, prices the KL, estimates advantages, and counts events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, device

from datamodules.contracts.batches import CompletionBatch, sum_by_sequence
from datamodules.contracts.prompts import PromptBatch
from lightning_modules.models.policy import Policy
from lightning_modules.models.scalars.critic import Critic
from lightning_modules.models.sharding import is_sharded, whole_copy
from lightning_modules.ppo.advantages import whiten
from lightning_modules.ppo.estimators import AdvantageEstimator, Evidence
from lightning_modules.ppo.health import events_of, explained_variance, kinds_of, repetition
from lightning_modules.ppo.kl import k1, k3
from lightning_modules.ppo.kl_penalty import KLPenalty
from lightning_modules.ppo.rollout import Rollout, TokenTable
from lightning_modules.ppo.scored import Scored
from lightning_modules.ppo.settings import PPOSettings
from lightning_modules.processes.ranks import block, of_all_ranks, place
from lightning_modules.references.frozen import FrozenPolicy
from lightning_modules.rewards.base import RewardSource, total_rewards
from lightning_modules.rewards.samples import Samples, draw
from lightning_modules.token_stats import TokenStats


@dataclass(frozen=True, eq=False)
class Models:
    """The models and sources that take part in a rollout."""

    policy: Policy
    reference: FrozenPolicy
    critic: Critic | None

    def whole(self) -> Models:
        """Models that this rank runs alone: copies of those that are spread over ranks. A collective: call it on every rank."""
        critic = self.critic
        if critic is not None and is_sharded(critic):
            critic = whole_copy(critic, as_computed=True)
        policy = whole_copy(self.policy, as_computed=True) if is_sharded(self.policy) else self.policy
        return Models(policy, self.reference, critic)


@dataclass(frozen=True, eq=False)
class Collected:
    """A rollout, and what is logged of it."""

    rollout: Rollout
    metrics: dict[str, Tensor]
    """`{name: [n] values}`, whose means are logged."""
    events: dict[str, int]
    """Events by name, with the completions they happened to."""
    num_drawn: int
    """Completions that were drawn, those without a reward among them."""
    kl: float
    """Mean KL of a completion to the reference, nats (k1)."""
    reasons: tuple[str, ...] = ()
    """Why completions have no reward, the commonest first."""


@dataclass(frozen=True, eq=False)
class Collector:
    """Makes rollouts of one run: each rank draws and scores a part of the prompts, and all have the whole."""

    models: Models
    sources: Sequence[RewardSource]
    estimator: AdvantageEstimator
    penalty: KLPenalty
    settings: PPOSettings

    @torch.no_grad()
    def collect(self, prompts: PromptBatch, coefficient: float, device: device) -> Collected:
        """Sample answers to the prompts and prepare them for the updates. A collective: call it on every rank.

        Args:
            prompts: with how to answer them.
            coefficient: of the KL penalty, reward per nat.
            device: where the models are.

        Raises:
            ValueError: if most completions have no reward, or the prompts are answered from another distribution than the policy's.
        """
        require_whole_distribution(prompts)
        scored = self._shared(prompts, device)
        samples, lengths = scored.samples, scored.samples.lengths()
        kl = self.penalty.per_token(scored.logps, scored.reference_logps)
        rewards = scored.token_rewards - coefficient * kl
        rewards[lengths.cumsum(0) - 1] += scored.scores
        values = scored.values
        evidence = Evidence(rewards, lengths, samples.group_numbers(), values, scored.greedy_scores)
        advantages, returns = self.estimator(evidence)
        metrics = self._metrics(scored, coefficient, kl, rewards)
        metrics["objective/advantage_std"] = advantages.std(correction=0).reshape(1)
        if values is not None and returns is not None:
            metrics["val/explained_var"] = explained_variance(values, returns).reshape(1)
        if self.settings.whiten_advantages:
            advantages = whiten(advantages)
        table = TokenTable(scored.logps, scored.reference_logps, advantages, values, returns)
        rollout = Rollout(
            prompts=tuple(prompt.prompt_ids for prompt in samples.prompts),
            completions=tuple(tuple(c.token_ids for c in group) for group in samples.groups),
            kinds=kinds_of(samples, scored.scores),
            table=table,
        )
        reasons = tuple(reason for reason, _ in scored.total.failures.most_common(3))
        events = events_of(samples, scored.total)
        return Collected(rollout, metrics, events, len(scored.total.scores), float(metrics["objective/kl"].mean()), reasons)

    def _shared(self, prompts: PromptBatch, device: device) -> Scored:
        own = replace(prompts, prompts=tuple(block(prompts.prompts, place())))
        alone = replace(self, models=self.models.whole())
        parts = of_all_ranks(lambda: alone._part(own, device) if own.prompts else None)
        scored = Scored.joined(part for part in parts if part is not None)
        for total in (scored.total, scored.greedy_total):
            if total is not None:
                total.require_scores()
        return scored

    def _part(self, prompts: PromptBatch, device: device) -> Scored:
        scored = self._score(draw(self.models.policy, prompts), device)
        return self._with_greedy(prompts, scored, device) if self.estimator.needs_greedy else scored

    def _score(self, samples: Samples, device: device) -> Scored:
        batches = self._with_reference(samples, device)
        total = total_rewards(self.sources, samples, batches)
        scores, tokens = total.scores - self._penalties(samples), total.tokens
        is_scored = scores.isfinite()
        if not is_scored.all():
            tokens = tokens[is_scored.repeat_interleave(samples.lengths())]
            samples, scores = samples.keep(is_scored), scores[is_scored]
            # Packed anew: rows of completions that nothing is known of must not be trained on.
            batches = self._with_reference(samples, device)
        logps, values = self._own(batches)
        return Scored(samples, logps, _reference_of(batches), values, scores, tokens, total)

    def _penalties(self, samples: Samples) -> Tensor:
        return self.settings.missing_eos_penalty * ~samples.finished()

    def _with_reference(self, samples: Samples, device: device) -> tuple[CompletionBatch, ...]:
        packed = (batch.to(device) for batch in samples.batches(self.settings.max_tokens_per_batch))
        return tuple(replace(batch, reference_token_logps=self.models.reference.logps(batch)) for batch in packed)

    def _own(self, batches: Sequence[CompletionBatch]) -> tuple[Tensor, Tensor | None]:
        """Log-probs and values of every token, `[K]` each, as the updates compute them.

        The decoder's log-probs are no old ones: in half precision they differ from the forward pass's, and the ratio of a policy
        that has not moved would not be 1.
        """
        critic = self.models.critic
        logps, values = [], []
        for batch in batches:
            stats: TokenStats = self.models.policy(batch)
            logps.append(stats.logps.float().cpu())
            if critic is not None:
                values.append(critic(batch, stats).cpu())
        return _cat(logps), None if critic is None else _cat(values)

    def _with_greedy(self, prompts: PromptBatch, scored: Scored, device: device) -> Scored:
        """With the scores of the prompts that are left; a greedy completion without one counts as the mean of its prompt's."""
        if not scored.samples.prompts:
            return replace(scored, greedy_scores=torch.empty(0))
        greedy = draw(self.models.policy, replace(prompts, prompts=scored.samples.prompts), is_greedy=True)
        total = total_rewards(self.sources, greedy, self._with_reference(greedy, device))
        scores = _with_tokens(total.scores - self._penalties(greedy), total.tokens, greedy)
        groups = scored.samples.group_numbers()
        sums = torch.zeros_like(scores).index_add(0, groups, _with_tokens(scored.scores, scored.token_rewards, scored.samples))
        greedy_scores = torch.where(scores.isfinite(), scores, sums / groups.bincount())
        return replace(scored, greedy_scores=greedy_scores, greedy_total=total)

    def _metrics(self, scored: Scored, coefficient: float, kl: Tensor, rewards: Tensor) -> dict[str, Tensor]:
        samples, logps = scored.samples, scored.logps
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


def require_whole_distribution(prompts: PromptBatch) -> None:
    """Refuse prompts that are answered from another distribution than the policy's own: the ratios of PPO would be of two.

    Raises:
        ValueError: if temperature or top_p is not 1.
    """
    temperature, top_p = prompts.sampling.temperature, prompts.sampling.top_p
    if (temperature, top_p) != (1, 1):
        raise ValueError(
            f"expected prompts that are answered at temperature 1 and top_p 1, got {temperature} and {top_p}: what is "
            "drawn otherwise is no sample of the policy whose probability PPO's ratio divides by. Set both to 1 in the data."
        )


def _reference_of(batches: Sequence[CompletionBatch]) -> Tensor:
    parts = [batch.reference_token_logps for batch in batches]
    return _cat([part.cpu() for part in parts if part is not None])


def _cat(parts: Sequence[Tensor]) -> Tensor:
    """A rank whose completions all have no reward has no part."""
    return torch.cat(list(parts)) if parts else torch.empty(0)


def _with_tokens(scores: Tensor, tokens: Tensor, samples: Samples) -> Tensor:
    """`[Q]` scores with the rewards of each completion's tokens."""
    sequence = torch.arange(len(scores)).repeat_interleave(samples.lengths())
    return scores + sum_by_sequence(tokens, sequence, len(scores))
