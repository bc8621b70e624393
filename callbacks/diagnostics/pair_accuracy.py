"""Reading of how well a model tells chosen from rejected, on named sets of pairs (paper Sec. 5.3, Figures 4, 11 and 12)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from typing_extensions import override

from callbacks.base import PolicyDiagnostic
from callbacks.readings import Values
from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.stores import SplitStore, data_of, meets, require
from datamodules.loading.loader import EvaluationLoader, SplitDataset
from datamodules.loading.sampler import evaluation_plan
from datamodules.sources.prompt_split import count_shared_prompts
from datamodules.sources.store import ExampleStore
from lightning_modules.contracts import HasObjective, HasPolicy, HasRewardModel
from lightning_modules.losses.base import Loss, Reads
from lightning_modules.models.scalars.reward_model import RewardModel
from lightning_modules.token_stats import TokenStats


@dataclass(frozen=True)
class PairSet:
    """Where the pairs of a set come from."""

    data: LightningDataModule | None = None
    """A data module of pairs, such as PoolDataModule for another scenario; null for the run's own. What it holds out follows its
    own `seed` and `val_fraction`: give it the run's, and its held-out prompts are the run's."""
    split: str = "val"
    """"train" or "val"."""
    num_pairs: int | None = None
    """Evenly spaced through the split; all by default."""

    def __post_init__(self) -> None:
        if self.num_pairs is not None and self.num_pairs < 1:
            raise ValueError(f"expected num_pairs >= 1, got {self.num_pairs}. Use null for all pairs of the split.")


def ordered(better: Tensor, worse: Tensor) -> Tensor:
    """`[pairs]` 1 where better > worse, 1/2 where they are equal, else 0: a model that tells nothing apart scores 1/2."""
    return ((better - worse).sign() + 1) / 2


def reward_readings(chosen: Tensor, rejected: Tensor) -> dict[str, Tensor]:
    """`accuracy` (see `ordered`), `margin` r+ - r-, `chosen` r+ and `rejected` r-, `[pairs]` each, in the unit of the rewards."""
    return {"accuracy": ordered(chosen, rejected), "margin": chosen - rejected, "chosen": chosen, "rejected": rejected}


class PairAccuracy(PolicyDiagnostic):
    """Reads frozen pairs with the model before training, at a cadence and after it; the same for a reward model and a policy.

    Of a reward model the reward is its own; of a policy that trains with a Loss the implicit reward of the loss (DPO:
    beta (log pi - log pi0)), where log pi0 is what the policy gave when training started, kept in the checkpoint. Of any policy
    there is the ranking by log pi, too. Costs one forward pass over the sets. Row n is of the model after step n. Metrics:
    `pair_accuracy/<set>/...`, docs/metrics.md.

    Args:
        sets: name -> pairs.
        every_n_steps: cadence in optimizer steps.

    Raises:
        ValueError: if there is no set or a name does not do for a metric, or, when a fit starts, if a set is no set of pairs.
    """

    name = "pair_accuracy"

    def __init__(self, sets: dict[str, PairSet], every_n_steps: int = 10) -> None:
        super().__init__(every_n_steps)
        if not sets or any(not name or "/" in name for name in sets):
            raise ValueError(f"expected one set at least, and names without '/', got {list(sets)}. A name is part of a metric's.")
        self.sets = sets
        self._pairs: dict[str, list[CompletionBatch]] = {}
        self._start: dict[str, Tensor] = {}

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pairs = {name: _packed(name, pairs, data_of(trainer)) for name, pairs in self.sets.items()}

    @override
    def has_begun(self, trainer: Trainer) -> bool:
        return self.schedule.acted_at >= 0

    @override
    def measure_policy(self, trainer: Trainer, pl_module: LightningModule) -> Iterable[Values]:
        for name, batches in self._pairs.items():
            logps: list[Tensor] = []
            for batch, start in zip(batches, self._start_of(name), strict=True):
                with _reading(trainer, pl_module):
                    values, now = _readings(pl_module, batch.to(pl_module.device), start)
                logps += [] if now is None else [now]
                # Every rank evaluates (a sharded policy needs them all), one counts.
                if trainer.is_global_zero:
                    yield {f"{self.name}/{name}/{reading}": value.float() for reading, value in values.items()}
            if logps:
                self._start.setdefault(name, torch.cat(logps))

    def _start_of(self, name: str) -> Iterable[Tensor | None]:
        """Token log-probs of each batch of a set when training started; None where this is the start."""
        counts = [batch.num_targets for batch in self._pairs[name]]
        start = self._start.get(name)
        if start is None:
            return [None] * len(counts)
        if len(start) != sum(counts):
            raise ValueError(
                f"expected the pairs of the checkpoint in {name}, with {len(start)} tokens, got {sum(counts)}. Resume with the "
                "sets and the tokenizer the run was started with."
            )
        return torch.split(start, counts)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"token_logps": self._start, "measured_at": self.schedule.acted_at}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._start, self.schedule.acted_at = state_dict["token_logps"], state_dict["measured_at"]


def _readings(
    pl_module: LightningModule, batch: CompletionBatch, start: Tensor | None
) -> tuple[Mapping[str, Tensor], Tensor | None]:
    """What is read off a batch, and its token log-probs on the host; a reward model has none."""
    if (reward_model := _reward_model(pl_module)) is not None:
        chosen, rejected = reward_model(batch)[batch.pairs].unbind(1)
        return reward_readings(chosen, rejected), None
    stats: TokenStats = require(pl_module, HasPolicy).policy(batch)
    values = {"ranking": ordered(*stats.sum_by_sequence()[batch.pairs].unbind(1))}
    if _values_pairs(getattr(pl_module, "loss", None)):
        reference = stats.logps if start is None else start.to(stats.logps.device)
        output = require(pl_module, HasObjective).objective(replace(batch, reference_token_logps=reference), stats)
        assert output.pairs is not None, "a loss that values pairs fills them"
        values |= reward_readings(output.pairs.chosen_rewards, output.pairs.rejected_rewards)
    return values, stats.logps.cpu()


def _values_pairs(loss: object) -> bool:
    """Whether a loss gives the two sides of a pair rewards; one of single completions has nothing to compare."""
    return isinstance(loss, Loss) and loss.reads is not Reads.COMPLETIONS


def _packed(name: str, pairs: PairSet, own: object) -> list[CompletionBatch]:
    """The batches of a set, ready to be read again and again."""
    if pairs.data is not None and pairs.data is not own:
        pairs.data.prepare_data()
        pairs.data.setup("fit")
    store = require(pairs.data or own, SplitStore)
    examples = store.dataset(pairs.split).examples
    if pairs.num_pairs is not None and pairs.num_pairs < len(examples):
        examples = examples.select(np.linspace(0, len(examples) - 1, pairs.num_pairs).round().astype(int))
    dataset = SplitDataset(examples)
    batches = list(EvaluationLoader(dataset, evaluation_plan(dataset.lengths.rows, max_tokens=store.max_tokens_per_batch)))
    if any(len(batch.pairs) < batch.num_prompts for batch in batches):
        raise ValueError(f"expected a chosen and a rejected completion for each prompt of the set {name}. Use data of pairs.")
    rank_zero_info(f"{name}: {len(examples)} pairs, {_trained_on(examples, own)} of them on prompts that are trained on.")
    return batches


def _trained_on(examples: ExampleStore, own: object) -> int:
    """How many of the examples stand on prompts of the run's training split; 0 where it has none, as in a diagnosis."""
    if not meets(own, SplitStore) or "train" not in own.splits():
        return 0
    return count_shared_prompts(examples, own.dataset("train").examples)


def _reward_model(pl_module: LightningModule) -> RewardModel | None:
    return pl_module.reward_model if meets(pl_module, HasRewardModel) else None


@contextmanager
def _reading(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """Evaluation mode, without gradient, in the trainer's precision."""
    model: nn.Module = _reward_model(pl_module) or require(pl_module, HasPolicy).policy
    mode = model.training
    model.eval()
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        yield
    model.train(mode)
