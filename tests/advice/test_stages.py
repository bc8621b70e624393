"""Runs of other stages: what judges their forks, held against sums of another path."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from advice.measures import answer_loss, rewarded
from advice.trial import CONTROL
from datamodules.contracts.batches import Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack
from lightning_modules.models.scalars.reward_model import RewardModelSpec
from lightning_modules.models.specs import RandomPolicy
from tests import tiny
from tests.advice.rig import ask, make_run

CPU = torch.device("cpu")


def examples() -> list[Example]:
    sides = [((5, 6, 2), (7, 2)), ((8, 2), (9, 10, 11, 2))]
    return [
        Example(
            (1, 3 + number),
            (TokenizedCompletion(chosen, Role.CHOSEN, "chosen"), TokenizedCompletion(rejected, Role.REJECTED, "rejected")),
        )
        for number, (chosen, rejected) in enumerate(sides)
    ]


def test_a_reward_model_is_judged_by_its_own_accuracy_and_log_loss(tmp_path: Path) -> None:
    model = RewardModelSpec(str(tiny.write_model(tmp_path / "model")), likelihood_scale=0.5).build().eval()
    values = rewarded(model, [pack([example]) for example in examples()], CPU)
    with torch.no_grad():
        # Each answer by itself, where the trial packs the two sides of a pair together.
        alone = [[float(model(pack([Example(one.prompt_ids, (side,))]))[0]) for side in one.completions] for one in examples()]
    chosen, rejected = torch.tensor(alone, dtype=torch.float64).unbind(1)
    assert values["preference_loss"] == pytest.approx((-logsigmoid(chosen - rejected)).tolist(), abs=1e-6)
    assert float((chosen - rejected).abs().min()) > 0.1
    assert values["reward_accuracy"] == (chosen > rejected).double().tolist()


def test_supervised_forks_are_judged_by_held_out_answers() -> None:
    policy = RandomPolicy(**tiny.POLICY["init_args"]).build().eval()
    [values] = answer_loss(policy, [pack(examples())], CPU).values()
    with torch.no_grad():
        alone = [
            -float(policy(pack([Example(one.prompt_ids, (side,))])).logps.mean()) for one in examples() for side in one.completions
        ]
    assert values == pytest.approx(alone, abs=1e-6)


def test_a_supervised_run_without_checkpoints_is_advised_and_another_question_is_asked_anew(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "seed_everything": 3,
        "trainer": tiny.trainer(tmp_path, [], max_steps=3, max_epochs=-1),
        "model": tiny.module(tmp_path, supervised=True),
        "data": tiny.pair_data(tmp_path, supervised=True, val_fraction=0.3, count=30),
    }
    run = make_run(tmp_path, config)
    folder = run.parent / "advice_version_0" / "from_0_steps_1"
    asked = ("--steps", 1, "--remedies", "lower_rate,stop_here")
    assert "held_out_loss" in measures(folder, ask(run, *asked))
    text = tmp_path / "neutral.txt"
    text.write_text("w1 w2 w3 w4 " * 40)
    assert {"held_out_loss", "neutral_nll"} <= measures(folder, ask(run, *asked, "--neutral-text", text))
    # What has moved is named; what it was called is gone.
    moved = Path(shutil.move(tmp_path / "pairs.jsonl", tmp_path / "elsewhere.jsonl"))
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(ValueError, match=r"expected settings of .*config\.yaml, got --data\.nowhere: it has none"):
        ask(run, *asked, "--data.nowhere", moved)
    with pytest.raises(ValueError, match=r"expected the run to go on from step 0 as it was, got: expected data files at "):
        ask(run, *asked, "--problems", 2)
    assert "held_out_loss" in measures(folder, ask(run, *asked, "--data.train.path", moved))


def measures(folder: Path, _: object) -> set[str]:
    """What the control was read by, at its end."""
    content = json.loads((folder / CONTROL / "step_1.json").read_text(encoding="utf-8"))
    return set(content["measures"])
