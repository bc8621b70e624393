"""Recipes for toy policies: random, fitted to an initial row (the paper's step 1), or saved by an earlier run."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_modules.models.policy import PolicySpec
from lightning_modules.models.toy.policy import Activation, ToyPolicy, ToyShape

FIT_STEPS = 1000
"""Full-batch steps of the paper's step 1 in this reconstruction (the paper gives none)."""
FIT_LR = 1e-3
"""Adam learning rate of the paper's step 1 in this reconstruction (the paper gives none)."""


@dataclass(frozen=True)
class ToyPolicySpec(PolicySpec):
    """A toy policy with random weights, the same for the same seed: where the SFT step begins.

    Raises:
        ValueError: if a size is below 1.
    """

    num_seeds: int = 5
    """Independent replicas in one model."""
    num_prompts: int = 4
    """Prompts of each seed."""
    num_responses: int = 10
    """Vocabulary."""
    width: int = 512
    """Units of both hidden layers."""
    activation: Activation = "relu"
    """relu or tanh."""
    seed: int = 0
    """Seed of the first replica; replica s has seed + s."""

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("num_seeds", "num_prompts", "num_responses", "width")}
        if min(sizes.values()) < 1:
            raise ValueError(f"expected sizes of at least 1, got {sizes}.")

    def build(self) -> ToyPolicy:
        """Draw the weights."""
        return ToyPolicy(self.shape, seed=self.seed)

    @property
    def shape(self) -> ToyShape:
        """The policy's sizes."""
        return ToyShape(self.num_seeds, self.num_prompts, self.num_responses, self.width, self.activation)


@dataclass(frozen=True)
class FittedToyPolicySpec(ToyPolicySpec):
    """A toy policy after the paper's step 1: fitted so that every prompt has the same given initial row.

    The fit (`fit_rows`) takes seconds and is done once; its weights are kept in `cache_dir`, keyed by this recipe.

    Raises:
        ValueError: if `initial_row` is not a distribution over `num_responses`.
    """

    initial_row: tuple[float, ...] = (0.1,) * 10
    """`[V]` probabilities of the responses, the same for every prompt. From the command line it follows
    `data.init_args.scenario`."""
    cache_dir: str = ".cache/prefscope"
    """Folder of fitted weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.initial_row) != self.num_responses or abs(sum(self.initial_row) - 1) > 1e-6 or min(self.initial_row) < 0:
            raise ValueError(
                f"expected initial_row to be {self.num_responses} probabilities that sum to 1, got {self.initial_row}. "
                "Take one of datamodules.toy.scenarios."
            )

    def build(self) -> ToyPolicy:
        """Fit, or load what was fitted before."""
        folder = Path(self.cache_dir) / "toy" / self._key()
        if not folder.exists():
            rank_zero_info(f"Fitting {self.num_seeds} toy policies to the initial row; they are kept in {folder}")
            policy = super().build()
            fit_rows(policy, torch.tensor(self.initial_row))
            _save_at_once(policy, folder)
        return ToyPolicy.load(folder)

    def _key(self) -> str:
        recipe = {name: value for name, value in asdict(self).items() if name != "cache_dir"}
        return hashlib.sha256(f"{sorted(recipe.items())} {FIT_STEPS} {FIT_LR}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class SavedToyPolicySpec(PolicySpec):
    """A toy policy as `ToyPolicy.save` wrote it, for instance at the end of a `toy_sft` run.

    Raises:
        ValueError: at `build`, if the folder holds none.
    """

    path: str
    """Folder."""

    def build(self) -> ToyPolicy:
        """Load the weights."""
        return ToyPolicy.load(Path(self.path))


def fit_rows(policy: ToyPolicy, row: Tensor, *, steps: int = FIT_STEPS, lr: float = FIT_LR) -> None:
    """Fit every prompt of every seed to the distribution `row` by full-batch Adam, in place (the paper's step 1).

    Per seed l = -(1/P) sum_x sum_v row_v log pi(v|x): what SFT minimises on responses in the proportions of `row`.

    Args:
        policy: fitted in place.
        row: `[V]` probabilities.
        steps: optimizer steps.
        lr: Adam's learning rate.
    """
    optimizer = torch.optim.Adam(policy.parameters(), lr=lr, fused=True)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            per_seed = -(row * policy.logits().log_softmax(-1)).sum(-1).mean(-1)
            torch.autograd.backward(per_seed.sum())
            optimizer.step()
    optimizer.zero_grad()


def _save_at_once(policy: ToyPolicy, folder: Path) -> None:
    """Save under a temporary name and rename, so that a killed run leaves no half folder and two runs may race."""
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    policy.save(temporary)
    try:
        temporary.rename(folder)
    except OSError:
        shutil.rmtree(temporary)
