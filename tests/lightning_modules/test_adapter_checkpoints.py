"""Checkpoints of adapters: small, resumed to the bit, and refused over another base."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import AdamW

from callbacks.saving.checkpoint import RunCheckpoint
from lightning_modules.models.adapters.lora import LoraSpec
from lightning_modules.models.specs import RandomPolicy
from lightning_modules.sft import SFTModule
from tests.lightning_modules.ppo.rig import fit
from tests.lightning_modules.stubs import TINY, InMemoryPairs, make_pairs

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step`")

# Of another size than the tests' usual: the base has to be large beside what a checkpoint holds of the run itself.
LARGE = replace(TINY, config=TINY.config | {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 2048})
ADAPTED = replace(LARGE, lora=LoraSpec(r=1, target_modules=["q_proj"]))


def run(folder: Path, spec: RandomPolicy, max_steps: int, ckpt_path: Path | None = None) -> tuple[SFTModule, Path]:
    module = SFTModule(spec, optimizer=partial(AdamW, lr=1e-2))
    data = InMemoryPairs(make_pairs(4), [[0, 1], [2, 3]], 1)
    options: dict[str, Any] = {"max_steps": max_steps, "enable_checkpointing": True}
    checkpoint = RunCheckpoint(every_n_train_steps=2)
    fit(folder, module, data, [checkpoint], ckpt_path, **options)
    assert checkpoint.newest is not None
    return module, Path(checkpoint.newest)


def test_a_checkpoint_holds_what_is_trained_and_resumes_to_the_bit(tmp_path: Path) -> None:
    _, whole = run(tmp_path / "whole", LARGE, 2)
    through, _ = run(tmp_path / "through", ADAPTED, 4)
    _, adapters = run(tmp_path / "first", ADAPTED, 2)
    assert adapters.stat().st_size <= 0.02 * whole.stat().st_size
    resumed, _ = run(tmp_path / "second", ADAPTED, 4, adapters)
    for name, value in through.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_another_base_is_refused(tmp_path: Path) -> None:
    _, adapters = run(tmp_path / "first", ADAPTED, 2)
    with pytest.raises(ValueError, match="the model that the checkpoint's adapters were trained on, got other weights"):
        run(tmp_path / "other", replace(ADAPTED, seed=4), 4, adapters)
    others = {r"was \[1, 256\] and is \[2, 256\]": LoraSpec(r=2, target_modules=["q_proj"]), "was absent": LoraSpec(r=1)}
    for number, (words, lora) in enumerate(others.items()):
        with pytest.raises(ValueError, match=f"expected the adapters that wrote the checkpoint, got others: .*{words}"):
            run(tmp_path / f"lora_{number}", replace(LARGE, lora=lora), 4, adapters)
    with pytest.raises(ValueError, match="holds adapters without their base, got another"):
        run(tmp_path / "none", LARGE, 4, adapters)
