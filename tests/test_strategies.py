"""Two processes, replicated (DDP) or sharded (FSDP2), take the steps that one process takes on the same global batch."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from lightning_modules.models.specs import RandomPolicy
from tests import tiny

ROOT = Path(__file__).parent.parent
MONITORS = [
    "likelihood.LikelihoodMonitor",
    "softmax_gradient.SoftmaxGradientMonitor",
    "degradation.DegradationMonitor",
    "disentanglement.DisentanglementMonitor",
    "dispersion.DispersionMonitor",
    "mass_gains.MassMonitor",
]
STRATEGIES: dict[str, Any] = {
    "ddp": "ddp",
    "fsdp2": {
        "class_path": "lightning.pytorch.strategies.ModelParallelStrategy",
        "init_args": {"data_parallel_size": 2, "tensor_parallel_size": 1, "save_distributed_checkpoint": False},
    },
}


PLANS: dict[str, dict[str, Any]] = {"prompts": {}, "tokens": {"batch_size": None, "max_tokens_per_batch": 48}}
"""A fixed number of prompts a step, or microbatches filled to a budget, which hold different numbers of prompts and tokens."""


def fit(folder: Path, data: dict[str, Any], *, supervised: bool, strategy: Any, devices: int, accumulation: int) -> Path:
    """Five steps of `python train.py`; the run's folder."""
    folder.mkdir()
    callbacks = [{"class_path": f"callbacks.{name}", "init_args": {"every_n_steps": 1}} for name in MONITORS]
    callbacks += [{"class_path": "callbacks.policy_export.PolicyExport"}]
    config = {
        "seed_everything": 0,
        "trainer": tiny.trainer(folder, callbacks, strategy=strategy, devices=devices)
        | {"accumulate_grad_batches": accumulation, "max_steps": 5, "gradient_clip_val": 1.0, "enable_checkpointing": False},
        "model": tiny.module(folder, supervised=supervised),
        "data": tiny.pair_data(folder, supervised=supervised, **data),
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump(config))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py"), "fit", "--config", str(folder / "experiment.yaml")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    # Each of the two loggers has a folder; callbacks write to the first one's.
    (policy,) = (folder / "runs").glob("*/*/policy")
    return policy.parent


def rows(run: Path, name: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "diagnostics" / f"{name}.jsonl").read_text().splitlines()]


def points(run: Path) -> list[dict[str, float]]:
    """What was logged, point by point."""
    with (run / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def largest_difference(got: Path, expected: Path) -> float:
    """Of any parameter, relative to its norm."""
    ours, theirs = (load_file(run / "policy" / "model.safetensors") for run in (got, expected))
    assert ours.keys() == theirs.keys()
    assert all(weight.any() for weight in theirs.values())
    return max(float((ours[name] - weight).norm() / weight.norm()) for name, weight in theirs.items())


@pytest.mark.slow
@pytest.mark.timeout(1700)  # three processes that start up; a busy machine takes minutes
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("supervised", [True, False], ids=["sft", "dpo"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_equal_one(
    tmp_path: Path, strategy: str, supervised: bool, plan: str, record_property: Callable[[str, object], None]
) -> None:
    alone = fit(tmp_path / "one", PLANS[plan], supervised=supervised, strategy="auto", devices=1, accumulation=2)
    together = fit(tmp_path / "two", PLANS[plan], supervised=supervised, strategy=STRATEGIES[strategy], devices=2, accumulation=1)
    difference = largest_difference(together, alone)
    record_property("largest relative difference of a parameter", f"{difference:.1e}")
    assert difference < 1e-5
    RandomPolicy(**tiny.POLICY["init_args"]).build().save(tmp_path / "start" / "policy")
    assert largest_difference(alone, tmp_path / "start") > 1e-2
    assert len(points(alone)) >= 5
    for one, two in zip(points(alone), points(together), strict=True):
        assert one == pytest.approx(two, rel=1e-4, abs=1e-6)
    names = sorted(path.stem for path in (alone / "diagnostics").glob("*.jsonl") if path.stem != "gaining_tokens")
    assert len(names) == len(MONITORS) - supervised, "the geometry of pairs is nothing to supervised runs"
    for name in names:
        for one, two in zip(rows(alone, name), rows(together, name), strict=True):
            assert one == pytest.approx(two, rel=1e-4, abs=1e-6)
