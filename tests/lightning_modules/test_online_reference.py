"""A reference that is asked in every step: nothing is scored before the first one, and the steps are the same."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.optim import SGD

from lightning_modules.diagnosis import DiagnosisModule
from lightning_modules.losses.base import Loss
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.kto import KTOLoss
from lightning_modules.models.online_reference import OnlineReference
from lightning_modules.models.policy import PolicySpec
from lightning_modules.models.specs import RandomPolicy
from lightning_modules.preference import PreferenceModule
from tests.lightning_modules.stubs import TINY
from tests.lightning_modules.test_reference_parts import ManyRows, trainer, weights

# As the command line does (callbacks.output.console).
pytestmark = pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`")

OTHER = RandomPolicy(**(vars(TINY) | {"seed": 11}))


class Losses(Callback):
    """The loss of every step and of every validation."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_train_batch_end(self, _: Any, __: Any, outputs: Any, *rest: Any) -> None:
        self.seen.append(outputs["loss"].detach().clone())

    def on_validation_end(self, trainer: Any, _: Any) -> None:
        self.seen.append(trainer.callback_metrics["val/loss"].clone())


def fitted(folder: Path, reference: PolicySpec | None, loss: Loss, **options: Any) -> tuple[Tensor, Tensor, PreferenceModule]:
    module = PreferenceModule(RandomPolicy(**vars(TINY)), loss, partial(SGD, lr=0.5), None, reference, str(folder / "cache"))
    losses = Losses()
    runner = trainer(folder, max_steps=4, limit_val_batches=1, val_check_interval=2, callbacks=[losses], **options)
    runner.fit(module, ManyRows())
    return torch.stack(losses.seen), weights(module), module


@pytest.mark.parametrize("recipe", [None, OTHER], ids=["the policy as it starts", "another model"])
@pytest.mark.parametrize(
    ("loss", "options"),
    [(DPOLoss(beta=0.5), {}), (KTOLoss(beta=0.5), {"accumulate_grad_batches": 2})],
    ids=["DPO", "KTO, a step in parts"],
)
def test_its_steps_are_those_of_log_probs_that_were_computed_before(
    tmp_path: Path, recipe: PolicySpec | None, loss: Loss, options: dict[str, Any]
) -> None:
    before = fitted(tmp_path / "before", recipe, loss, **options)
    online = fitted(tmp_path / "online", OnlineReference(recipe), loss, **options)
    assert not before[0].isclose(before[0][0]).all(), "the losses differ from step to step"
    assert torch.equal(online[0], before[0])
    assert torch.equal(online[1], before[1])
    assert (tmp_path / "before" / "cache" / "reference").is_dir()
    assert not (tmp_path / "online" / "cache").exists(), "nothing was scored before the first step"
    # A resumed run has to meet the same reference, however it is asked.
    assert online[2].made_with()["reference"] == before[2].made_with()["reference"]


def test_the_reference_is_none_of_the_modules_weights(tmp_path: Path) -> None:
    _, _, module = fitted(tmp_path, OnlineReference(), DPOLoss())
    assert {name.split(".")[0] for name in module.state_dict()} == {"policy"}


def test_a_diagnosis_wants_the_model_itself(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a recipe of the reference"):
        DiagnosisModule(TINY, OnlineReference(), DPOLoss())
