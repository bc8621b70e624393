"""A stage that the data or the model is not made for is refused in words, before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.conftest import Run
from tests.test_sampling import TASK

Write = Callable[[Mapping[str, Any], str], Path]


def reward_module(folder: Path) -> dict[str, Any]:
    arguments = {
        "reward_model": {"path": str(tiny.write_model(folder / "model"))},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.03}},
    }
    return {"class_path": "lightning_modules.reward.RewardModule", "init_args": arguments}


@pytest.mark.parametrize("supervised", [False, True], ids=["pairs", "supervised"])
def test_predict_of_rows_that_have_their_responses(supervised: bool, tmp_path: Path, run: Run, write_config: Write) -> None:
    config = {
        "trainer": tiny.trainer(tmp_path),
        "model": tiny.module(tmp_path, supervised=supervised),
        "data": tiny.pair_data(tmp_path, supervised=supervised),
    }
    with pytest.raises(ValueError, match=r"expected prompts to answer, got rows that have their responses.*arithmetic_sample.yaml"):
        run("predict", "--config", write_config(config, "pairs"))


def test_a_reward_model_answers_nothing(tmp_path: Path, run: Run, write_config: Write) -> None:
    config = {"trainer": tiny.trainer(tmp_path), "model": reward_module(tmp_path), "data": tiny.pair_data(tmp_path)}
    with pytest.raises(ValueError, match=r"expected a policy under `predict`, got RewardModule"):
        run("predict", "--config", write_config(config, "rm"))
    data = {"task": TASK, "tokenizer": str(tmp_path / "model"), "test_decoding": {"max_new_tokens": 2}}
    config["data"] = {"class_path": "datamodules.tasks.sft.TaskSFTDataModule", "init_args": data}
    with pytest.raises(ValueError, match=r"expected pairs to score, got prompts to answer. A reward model answers nothing"):
        run("test", "--config", write_config(config, "rm"))


def test_supervised_training_does_not_learn_the_rejected_side(tmp_path: Path, run: Run, write_config: Write) -> None:
    config = {
        "trainer": tiny.trainer(tmp_path, max_steps=1),
        "model": tiny.module(tmp_path, supervised=True),
        "data": tiny.pair_data(tmp_path),
    }
    with pytest.raises(ValueError, match=r"got the pairs of PreferenceDataModule, whose rejected side would be learned"):
        run("fit", "--config", write_config(config, "pairs"))
