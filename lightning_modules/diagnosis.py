"""Checkpoints that somebody trained, beside the reference they started from: looked at, never trained."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from torch.nn import Parameter
from torch.optim import Optimizer
from typing_extensions import override

from lightning_modules.frozen import frozen
from lightning_modules.losses.base import PreferenceLoss
from lightning_modules.models.policy import PolicySpec
from lightning_modules.models.specs import PretrainedPolicy
from lightning_modules.preference import PreferenceModule


class DiagnosisModule(PreferenceModule):
    """One or more checkpoints of a policy, whichever trainer made them, for `validate` alone.

    Args:
        policy: recipe of the checkpoint; where its path is a folder of checkpoints (`checkpoint-100`, `checkpoint-200`, ...) all of
            them, in the order of their numbers.
        reference: recipe of what the training started from.
        loss: the objective whose gradients and rewards are told.
        checkpoints: paths of earlier checkpoints of the same recipe, in order.
        cache_dir: folder of cached reference log-probs.
    """

    def __init__(
        self,
        policy: PolicySpec,
        reference: PolicySpec,
        loss: PreferenceLoss,
        checkpoints: list[str] | None = None,
        cache_dir: str = ".cache/prefscope",
    ) -> None:
        series = _series(policy, checkpoints or [])
        super().__init__(series[-1], loss, _refuse, reference=reference, cache_dir=cache_dir)
        self.reference_spec = reference
        self.series = dict(zip(step_numbers([getattr(spec, "path", "") for spec in series]), series, strict=True))
        """`{step: recipe}` of all checkpoints, the module's own policy last."""

    @override
    def on_validation_epoch_end(self) -> None:
        # Lightning would draw them at step 0, and of the last checkpoint alone: StaticDiagnosis writes them, each at its step.
        self.log_dict(self._eval_means.compute(), logger=False)
        self._eval_means.reset()

    def stand_in(self, spec: PolicySpec) -> None:
        """Let another policy be the module's own: in evaluation mode, frozen, on its device."""
        policy = frozen(spec, self.trainer.precision_plugin)
        self.require_readable(policy.limits)
        self.policy = policy.to(self.device)


def checkpoints_in(path: str) -> list[str]:
    """The path itself; or, of a folder that is no checkpoint but holds some, theirs, in the order of their numbers.

    Raises:
        ValueError: if a folder is neither.
    """
    folder = Path(path)
    if not folder.is_dir() or (folder / "config.json").is_file():
        return [path]
    found = [config.parent for config in folder.glob("*/config.json")]
    if not found:
        raise ValueError(
            f"expected a checkpoint (with a config.json) or a folder of checkpoints, got {path}. "
            "Name a folder that save_pretrained wrote."
        )
    return [str(checkpoint) for checkpoint in sorted(found, key=lambda own: (_number(own.name) or 0, own.name))]


def step_numbers(paths: Sequence[str]) -> list[int]:
    """Steps of checkpoints: the numbers their names end in (`checkpoint-500`) if those rise from above 0, else 1, 2, 3, ..."""
    numbers = [_number(Path(path).name) or 0 for path in paths]
    rising = all(earlier < later for earlier, later in zip([0, *numbers], numbers, strict=False))
    return numbers if rising else [*range(1, len(paths) + 1)]


def _series(policy: PolicySpec, earlier: Sequence[str]) -> list[PolicySpec]:
    """Recipes of all checkpoints."""
    if not isinstance(policy, PretrainedPolicy):
        if earlier:
            raise ValueError(
                f"expected a policy with a path beside checkpoints, got {type(policy).__name__}. Use PretrainedPolicy."
            )
        return [policy]
    paths = [path for given in (*earlier, policy.path) for path in checkpoints_in(given)]
    return [replace(policy, path=path) for path in paths]


def _number(name: str) -> int | None:
    ending = re.search(r"\d+$", name)
    return int(ending[0]) if ending else None


def _refuse(parameters: Iterable[Parameter]) -> Optimizer:
    raise ValueError("expected `validate`, got a training. DiagnosisModule only looks: train with PreferenceModule.")
