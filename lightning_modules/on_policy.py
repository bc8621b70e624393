"""On-policy preference training: at every step the policy answers, a judge scores, and the best and worst answers make a pair."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from datamodules.contracts.batches import CompletionBatch, Role, StepShare
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack
from datamodules.contracts.prompts import PromptBatch
from datamodules.contracts.stores import PromptStore, data_of, require
from lightning_modules.losses.base import Loss, Reads
from lightning_modules.models.online_reference import recipe_of
from lightning_modules.models.policy import PolicySpec
from lightning_modules.preference import PreferenceModule
from lightning_modules.processes.ranks import block, of_all_ranks, parts_of, place
from lightning_modules.references.frozen import FrozenPolicy
from lightning_modules.rewards.base import RewardSource, TotalRewards, prepare, total_rewards
from lightning_modules.rewards.checks import require_fitting_models
from lightning_modules.rewards.samples import Samples, draw
from lightning_modules.trained import LRSchedulerCallable, OptimizerCallable

RANKED = "ranked"
"""Kind of a completion between the best and the worst of its prompt, as data of scored responses has it."""

MAX_ROLLOUTS = 8
"""Rollouts without a pair, one after the other, before the run gives up."""


class OnPolicyPreferenceModule(PreferenceModule):
    """Any preference loss on pairs that the policy makes itself, step by step (online DPO, arXiv 2402.04792, with a judge).

    A batch of the loader is a tick and holds nothing: when the first one of a step comes, the policy answers the prompts of all
    its microbatches, each rank a part of them, so that each pair weighs what it would in one batch. Of each prompt the best answer
    is the chosen one and the worst the rejected, unless they score within `min_gap`; a loss of groups reads the others too. The
    loss and all diagnostics are those of `PreferenceModule`. A reference is built and asked if the loss or a source of reward
    reads it.

    Args:
        policy: recipe of the model to train.
        loss: the objective, by class_path.
        rewards: sources of the score, added up with their weights.
        optimizer: builds the optimizer from the parameters that require a gradient.
        lr_scheduler: builds a schedule that is stepped once per optimizer step; constant by default.
        reference: recipe of the frozen reference; the policy as it starts by default.
        min_gap: by which the scores of a pair differ at the least, > 0, in units of the sources.
        max_tokens_per_batch: rows of one forward pass of the reference.
    """

    def __init__(
        self,
        policy: PolicySpec,
        loss: Loss,
        rewards: list[RewardSource],
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None = None,
        reference: PolicySpec | None = None,
        min_gap: float = 0.01,
        max_tokens_per_batch: int = 8192,
    ) -> None:
        reference = recipe_of(reference)
        super().__init__(policy, loss, optimizer, lr_scheduler, reference)
        if not 0 < min_gap < math.inf:
            raise ValueError(f"expected a finite min_gap > 0, got {min_gap}. Answers that score alike are no pair.")
        if max_tokens_per_batch < 1:
            raise ValueError(f"expected max_tokens_per_batch >= 1, got {max_tokens_per_batch}.")
        self.min_gap = min_gap
        self.max_tokens_per_batch = max_tokens_per_batch
        self._sources = rewards
        self._frozen = FrozenPolicy(reference or policy, is_start=reference is None)
        self._number = 0
        self._of_step: list[tuple[list[Example], StepShare]] = []
        self._due: deque[tuple[list[Example], StepShare]] = deque()

    @override
    def on_policy_built(self) -> None:
        super().on_policy_built()
        self._frozen.share(self.policy, is_sharded=self.device_mesh is not None)

    @override
    def on_fit_start(self) -> None:
        self.policy.train()
        if self.loss.needs_reference or self._sources_need_reference:
            self._frozen.use(self.trainer.precision_plugin)
            require_fitting_models(self.policy, self._frozen.policy)
            if self.loss.needs_distribution:
                self.policy.compare_with(self._frozen.policy)
            self.require_readable(self._frozen.policy.limits)
        prepare(self._sources, self._store, self.device, self.trainer.precision_plugin)

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """A tick of the training loader becomes a batch of fresh pairs; other batches stay what they are."""
        if not self.trainer.training:
            return batch
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            if not self._due:
                self._of_step = self._next_step()
                self._due.extend(self._of_step)
            examples, share = self._due.popleft()
            return self._packed(examples, share)

    @override
    def step_batches(self, batch: CompletionBatch) -> Iterator[CompletionBatch]:
        yield from (self._packed(examples, share) for examples, share in self._of_step)

    @override
    def made_with(self) -> dict[str, str]:
        own = {"reference": self._frozen.policy.fingerprint()} if self.loss.needs_reference else {}
        return super().made_with() | own

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["rollouts"] = self._number

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        # A run on frozen pairs, from which this one goes on, has drawn none.
        self._number = checkpoint.get("rollouts", 0)

    @property
    def _store(self) -> PromptStore:
        return require(data_of(self.trainer), PromptStore)

    @property
    def _sources_need_reference(self) -> bool:
        return any(source.needs_reference for source in self._sources)

    def _next_step(self) -> list[tuple[list[Example], StepShare]]:
        """This rank's pairs of each microbatch. The share needs them all before the first one is trained on."""
        rollouts = [self._pairs() for _ in range(self.trainer.accumulate_grad_batches)]
        examples, own = [example for pairs in rollouts for example in pairs], place()
        share = StepShare(len(examples), sum(example.num_targets for example in examples), len(rollouts) * own.size)
        due = []
        for pairs in rollouts:
            sizes = [example.num_rows for example in pairs]
            (part,) = parts_of(sizes, sum(sizes), own)
            due.append(([pairs[number] for number in part.numbers], replace(share, idle=part.idle)))
        return due

    def _pairs(self) -> list[Example]:
        for _ in range(MAX_ROLLOUTS):
            if examples := self._rollout():
                return examples
        raise ValueError(
            f"expected answers that a judge tells apart, got none to {MAX_ROLLOUTS} rollouts of prompts. Lower min_gap, draw more "
            "samples of each prompt, or look at the rewards."
        )

    def _rollout(self) -> list[Example]:
        """The pairs of all ranks, each of which draws and scores a part of the prompts."""
        prompts = self._store.rollout_prompts(self._number)
        self._number += 1
        own = replace(prompts, prompts=tuple(block(prompts.prompts, place())))
        with self.policy.gathered():
            parts = of_all_ranks(lambda: self._scored(own) if own.prompts else None)
        samples = Samples.joined(part[0] for part in parts if part is not None)
        total = TotalRewards.joined(part[1] for part in parts if part is not None)
        total.require_scores()
        examples = list(groups_of(samples, total.scores, self.min_gap, keeps_all=self.loss.reads is Reads.GROUPS))
        found = {"objective/scores": total.scores[total.scores.isfinite()]}
        found["rollout/pair_share"] = torch.tensor([len(examples) / len(samples.prompts)])
        self.count_once(found)
        return examples

    def _scored(self, prompts: PromptBatch) -> tuple[Samples, TotalRewards]:
        samples = draw(self.policy, prompts)
        batches = [batch.to(self.device) for batch in samples.batches(self.max_tokens_per_batch)]
        if self._sources_need_reference:
            batches = [self._with_reference(batch) for batch in batches]
        return samples, total_rewards(self._sources, samples, batches)

    def _packed(self, examples: list[Example], share: StepShare) -> CompletionBatch:
        pairs = pack(examples, share=share).to(self.device)
        return self._with_reference(pairs) if self.loss.needs_reference else pairs

    def _with_reference(self, batch: CompletionBatch) -> CompletionBatch:
        return self._frozen.answered(batch, with_states=self.loss.needs_distribution)


def groups_of(samples: Samples, scores: Tensor, min_gap: float, *, keeps_all: bool) -> Iterator[Example]:
    """A pair for every prompt whose best and worst completion differ by `min_gap` and more; the first of equals is taken.

    Args:
        samples: Q completions.
        scores: `[Q]`; NaN is neither best nor worst, and is left out.
        min_gap: > 0.
        keeps_all: whether the others that are scored stand after the pair, for losses of groups.
    """
    groups = torch.split(scores, [len(group) for group in samples.groups])
    for prompt, completions, group in zip(samples.prompts, samples.groups, groups, strict=True):
        best = int(group.nan_to_num(-torch.inf).argmax())
        worst = int(group.nan_to_num(torch.inf).argmin())
        if group[best] - group[worst] >= min_gap:
            members = [(best, Role.CHOSEN, "chosen"), (worst, Role.REJECTED, "rejected")]
            if keeps_all:
                others = (number for number in range(len(completions)) if number not in (best, worst) and group[number].isfinite())
                members += [(number, Role.SAMPLE, RANKED) for number in others]
            yield Example(
                prompt.prompt_ids,
                tuple(TokenizedCompletion(completions[i].token_ids, role, kind, float(group[i])) for i, role, kind in members),
            )
