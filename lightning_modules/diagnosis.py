"""The module of a diagnosis: a trained checkpoint beside the reference it started from; it never trains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from lightning.pytorch.utilities import rank_zero_warn
from torch.nn import Parameter
from torch.optim import Optimizer
from typing_extensions import override

from lightning_modules.losses.base import Loss
from lightning_modules.models.files.checkpoint_folders import checkpoints_in, fault_of, step_numbers
from lightning_modules.models.online_reference import recipe_of
from lightning_modules.models.policy import PolicySpec
from lightning_modules.models.specs import PretrainedPolicy
from lightning_modules.preference import PreferenceModule
from lightning_modules.references.frozen import frozen


class DiagnosisModule(PreferenceModule):
    """One or more checkpoints of a policy, whichever trainer made them, for `validate` alone.

    Args:
        policy: recipe of the checkpoint, which may be an adapter; where its path is a folder of checkpoints (`checkpoint-100`,
            `checkpoint-200`, ...) all of them, in the order of their numbers, and a model beside them as the last. Those that are
            not whole are left out with a warning.
        reference: recipe of what the training started from.
        loss: the objective whose gradients and rewards are told.
        checkpoints: paths of earlier checkpoints of the same recipe, in order.
        cache_dir: folder of cached reference log-probs.
    """

    def __init__(
        self,
        policy: PolicySpec,
        reference: PolicySpec,
        loss: Loss,
        checkpoints: list[str] | None = None,
        cache_dir: str = ".cache/prefscope",
    ) -> None:
        recipe = recipe_of(reference)
        if recipe is None:
            raise ValueError(
                "expected a recipe of the reference, got `online` without one. Name it: --model.reference.path <model>."
            )
        series = _series(policy, checkpoints or [])
        super().__init__(series[-1], loss, _refuse, reference=recipe, cache_dir=cache_dir)
        self.reference_spec = recipe
        self.series = dict(zip(step_numbers([getattr(spec, "path", "") for spec in series]), series, strict=True))
        """`{step: recipe}` of all checkpoints, the module's own policy last."""

    @override
    def on_validation_epoch_end(self) -> None:
        # Lightning would draw them at step 0, and of the last checkpoint alone: StaticDiagnosis writes them, each at its step.
        self._log_eval_means("val", logger=False)

    def stand_in(self, spec: PolicySpec) -> None:
        """Let another policy be the module's own: in evaluation mode, frozen, on its device."""
        # It holds the policy that stood in before.
        self._probe_memo = None
        policy = frozen(spec, self.trainer.precision_plugin)
        self.require_readable(policy.limits)
        self.policy = policy.to(self.device)


def _series(policy: PolicySpec, earlier: Sequence[str]) -> list[PolicySpec]:
    """Recipes of all checkpoints."""
    if not isinstance(policy, PretrainedPolicy):
        if earlier:
            raise ValueError(
                f"expected a policy with a path beside checkpoints, got {type(policy).__name__}. Use PretrainedPolicy."
            )
        return [policy]
    # A folder of checkpoints may hold some that were named before it.
    paths = list(dict.fromkeys(path for given in (*earlier, policy.path) for path in checkpoints_in(given)))
    faults = {path: fault for path in paths if (fault := fault_of(path))}
    for path, fault in faults.items():
        rank_zero_warn(f"{path} is left out: {fault}.")
    whole = [path for path in paths if path not in faults]
    if not whole:
        raise ValueError(f"expected a whole checkpoint, got {len(paths)} that cannot be read: {'; '.join(faults.values())}.")
    return [replace(policy, path=path) for path in whole]


def _refuse(parameters: Iterable[Parameter]) -> Optimizer:
    raise ValueError("expected `validate`, got a training. DiagnosisModule never trains: use PreferenceModule.")
