"""The policy a run leaves behind."""

from __future__ import annotations

from pathlib import Path

import torch

from callbacks.save_policy import SavePolicy
from datamodules.toy import ToySFTDataModule
from lightning_modules.models.toy import ToyPolicy
from lightning_modules.models.toy_specs import ToyPolicySpec
from lightning_modules.sft import SFTModule
from tests.callbacks.rig import fit


def test_the_policy_of_the_last_step_is_in_the_runs_folder(tmp_path: Path) -> None:
    spec = ToyPolicySpec(num_seeds=1, width=8)
    module = SFTModule(spec, lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    trainer = fit(module, [SavePolicy()], tmp_path, data=ToySFTDataModule(num_seeds=1), max_steps=3, max_epochs=-1)
    assert trainer.log_dir is not None
    saved = ToyPolicy.load(Path(trainer.log_dir) / "policy")
    assert saved.fingerprint() == module.policy.fingerprint()
    assert saved.fingerprint() != spec.build().fingerprint()


def test_a_run_without_a_folder_leaves_nothing(tmp_path: Path) -> None:
    module = SFTModule(ToyPolicySpec(num_seeds=1, width=8), lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    fit(module, [SavePolicy()], tmp_path, data=ToySFTDataModule(num_seeds=1), max_steps=1, max_epochs=-1, logger=False)
    assert not any(tmp_path.iterdir())
