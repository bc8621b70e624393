"""Every shipped experiment in the precisions that train: the losses of float32, half-precision attention, all its callbacks on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from run_folder.rows import read_rows
from run_folder.tensorboard import RunLogger
from tests.conftest import Run
from tests.half_kernel import half_kernel_is_there
from tests.shipped import EXPERIMENTS, Config, Shipped

pytestmark = [
    pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`"),
    pytest.mark.filterwarnings("ignore:Rollout"),
]

Write = Callable[[Mapping[str, Any], str], Path]
Execute = Callable[[str, Config, str], tuple[list[float], set[tuple[torch.dtype, str]]]]

QUICK = {
    "smollm2_alpaca_sft",
    "smollm2_alpaca_dpo",
    "smollm2_alpaca_rm",
    "arithmetic_dpo",
    "arithmetic_on_policy_dpo",
    "arithmetic_ppo",
    "gsm8k_sample",
    "diagnose",
    "toy_dpo",
}
"""A stage, a data module or a set of callbacks each; the others are made of the same parts."""

SDPA, KERNEL = (torch.float32, "sdpa"), (torch.bfloat16, "half kernel")
HALVES = ("bf16-mixed", "bf16-true")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    return Shipped(tmp_path_factory.mktemp("shipped"))


@pytest.fixture
def execute(run: Run, write_config: Write) -> Execute:
    """A command in a precision: the training losses, and (type, attention backend) of all that attended."""

    def execute(command: str, config: Config, precision: str) -> tuple[list[float], set[tuple[torch.dtype, str]]]:
        config["trainer"] |= {"precision": precision} | ({"max_steps": 2, "log_every_n_steps": 1} if command == "fit" else {})
        if precision == "bf16-true" and command == "fit":
            optimizer = config["model"]["init_args"]["optimizer"]
            optimizer["class_path"] = "lightning_modules.optimization.stochastic_rounding.StochasticAdamW"
            optimizer["init_args"] = {name: value for name, value in optimizer["init_args"].items() if name != "fused"}
        losses: list[float] = []

        def log(self: RunLogger, metrics: Mapping[str, float], step: int | None = None) -> None:
            losses.extend(value for name, value in metrics.items() if name == "train/loss")

        with half_kernel_is_there() as used, patch.object(RunLogger, "log_metrics", log):
            run(command, "--config", write_config(config, "experiment"))
        return losses, set(used)

    return execute


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in EXPERIMENTS], ids=list(EXPERIMENTS)
)
def test_the_same_losses_and_the_kernel_of_the_precision(name: str, shipped: Shipped, execute: Execute) -> None:
    command = "predict" if name.endswith("_sample") else "validate" if name == "diagnose" else "fit"
    has_attention = not name.startswith("toy")
    exact, used = execute(command, shipped.config(name), "32-true")
    assert used == ({SDPA} if has_attention else set())
    assert len(exact) == (2 if command == "fit" else 0)
    for precision in HALVES:
        losses, used = execute(command, shipped.config(name), precision)
        assert used == ({KERNEL} if has_attention else set()), precision
        # Of the samples of PPO few differ, and a reward is rounded.
        assert losses == pytest.approx(exact, rel=0.02, abs=0.006), precision


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize(("name", "command"), [("smollm2_alpaca_dpo", "test"), ("smollm2_alpaca_rm", "validate")])
def test_evaluation_reaches_the_kernel_too(name: str, command: str, precision: str, shipped: Shipped, execute: Execute) -> None:
    config = shipped.config(name)
    config["data"]["init_args"]["test"] = {"path": shipped.pairs}
    # What decodes and judges needs a task.
    config["trainer"]["callbacks"] = [one for one in config["trainer"]["callbacks"] if "ResultsTable" not in one["class_path"]]
    _, used = execute(command, config, precision)
    assert used == {KERNEL}


TASKS = [
    name
    for name in EXPERIMENTS
    if name.endswith(("_dpo", "_ppo", "_rloo", "_rto", "_sft")) and not name.startswith(("smollm", "toy", "ultra"))
]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "arithmetic_ppo" else [pytest.mark.slow]) for name in TASKS if name != "common_dpo"],
)
def test_what_is_trained_on_a_task_is_tested_on_it(name: str, shipped: Shipped, run: Run, write_config: Write) -> None:
    """The table is there, by the task's own judge, and the answers have room."""
    cli = run("test", "--config", write_config(shipped.config(name), "experiment"))
    cells = read_rows(Path(cli.trainer.log_dir or ""), "test")
    # Of joined tasks there is a line for each, and one for all.
    assert max(cell["count"] for cell in cells) == len(cli.datamodule.task_prompts())
