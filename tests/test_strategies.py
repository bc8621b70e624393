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
from torch import Tensor

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
FSDP2 = "lightning.pytorch.strategies.ModelParallelStrategy"
DDP = "lightning.pytorch.strategies.DDPStrategy"
STRATEGIES: dict[str, Any] = {
    "ddp": "ddp",
    "ddp_options": {"class_path": DDP, "init_args": {"find_unused_parameters": True, "gradient_as_bucket_view": True}},
    "fsdp2": {"class_path": FSDP2, "init_args": {"data_parallel_size": 2, "tensor_parallel_size": 1}},
}
PLANS: dict[str, dict[str, Any]] = {"prompts": {}, "tokens": {"batch_size": None, "max_tokens_per_batch": 48}}
"""A fixed number of prompts a step, or microbatches filled to a budget, which hold different numbers of prompts and tokens."""
REWARDS: dict[str, dict[str, Any]] = {
    "last_token": {},
    "token_sum": {"pooling": "sum"},
    "likelihood": {"likelihood_scale": 0.5, "per_token": True},
    "head_alone": {"freeze_body": True},
}
SIZES = "--trainer.strategy.data_parallel_size 2 --trainer.strategy.tensor_parallel_size 1"
CASES = [(strategy, stage, plan) for strategy in ("ddp", "fsdp2") for stage in ("sft", "dpo", "last_token") for plan in PLANS]
CASES += [(strategy, stage, "prompts") for strategy in ("ddp", "fsdp2") for stage in list(REWARDS)[1:]]
CASES += [("ddp_options", "dpo", "prompts")]


def stage_parts(folder: Path, stage: str, data: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Callbacks, module and data of a stage."""
    if stage in REWARDS:
        spec = {"path": str(tiny.write_model(folder / "start")), **REWARDS[stage]}
        module = {
            "class_path": "lightning_modules.reward.RewardModule",
            "init_args": {"reward_model": spec, "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}}},
        }
        sets = {
            "class_path": "callbacks.diagnostics.pair_accuracy.PairAccuracy",
            "init_args": {"sets": {"held_out": {}}, "every_n_steps": 1},
        }
        monitor = {"class_path": "callbacks.diagnostics.reward_monitor.RewardMonitor", "init_args": {"every_n_steps": 1}}
        return (
            [sets, monitor, {"class_path": "callbacks.saving.reward_export.RewardExport"}],
            module,
            tiny.pair_data(folder, **data),
        )
    callbacks = [{"class_path": f"callbacks.diagnostics.{name}", "init_args": {"every_n_steps": 1}} for name in MONITORS]
    callbacks += [{"class_path": "callbacks.saving.policy_export.PolicyExport"}]
    supervised = stage == "sft"
    return callbacks, tiny.module(folder, supervised=supervised), tiny.pair_data(folder, supervised=supervised, **data)


def command(folder: Path, config: dict[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
    """`python train.py fit` in its folder."""
    (folder / "experiment.yaml").write_text(yaml.safe_dump(config))
    words = [sys.executable, str(ROOT / "train.py"), "fit", "--config", str(folder / "experiment.yaml"), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=800, check=False)


def fit(folder: Path, data: dict[str, Any], *, stage: str, strategy: Any, devices: int, accumulation: int) -> Path:
    """Five steps of `python train.py`; the run's folder."""
    folder.mkdir()
    callbacks, module, data = stage_parts(folder, stage, data)
    config = {
        "seed_everything": 0,
        "trainer": tiny.trainer(folder, callbacks, strategy=strategy, devices=devices)
        | {"accumulate_grad_batches": accumulation, "max_steps": 5, "gradient_clip_val": 1.0, "enable_checkpointing": False},
        "model": module,
        "data": data,
    }
    done = command(folder, config)
    assert done.returncode == 0, done.stderr[-4000:]
    # Each of the two loggers has a folder; callbacks write to the first one's.
    (weights,) = (folder / "runs").glob("*/*/*/model.safetensors")
    return weights.parent.parent


def rows(run: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "diagnostics" / f"{name}.jsonl").read_text().splitlines()]


def points(run: Path) -> list[dict[str, float]]:
    """What was logged, point by point."""
    with (run / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def weights(run: Path) -> dict[str, Tensor]:
    (file,) = run.glob("*/model.safetensors")
    return load_file(file)


def largest_difference(got: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Of any parameter, relative to its norm."""
    assert got.keys() == expected.keys()
    assert all(weight.any() for weight in expected.values())
    return max(float((got[name] - weight).norm() / weight.norm()) for name, weight in expected.items())


@pytest.mark.slow
@pytest.mark.timeout(1700)  # three processes that start up; a busy machine takes minutes
@pytest.mark.parametrize(("strategy", "stage", "plan"), CASES)
def test_two_processes_equal_one(
    tmp_path: Path, strategy: str, stage: str, plan: str, record_property: Callable[[str, object], None]
) -> None:
    alone = fit(tmp_path / "one", PLANS[plan], stage=stage, strategy="auto", devices=1, accumulation=2)
    together = fit(tmp_path / "two", PLANS[plan], stage=stage, strategy=STRATEGIES[strategy], devices=2, accumulation=1)
    difference = largest_difference(weights(together), weights(alone))
    record_property("largest relative difference of a parameter", f"{difference:.1e}")
    assert difference < 1e-5
    start = RandomPolicy(**tiny.POLICY["init_args"]).build().model.state_dict()
    trained = weights(alone)
    moved = {name: float((weight - start[name]).norm()) for name, weight in trained.items() if name in start}
    # A head starts at zero: that it is not any more was looked at above.
    assert (max(moved.values()) > 1e-2) == (stage != "head_alone")
    assert len(points(alone)) >= 5
    for one, two in zip(points(alone), points(together), strict=True):
        assert one == pytest.approx(two, rel=1e-4, abs=1e-6)
    names = sorted(path.stem for path in (alone / "diagnostics").glob("*.jsonl") if path.stem != "gaining_tokens")
    # The geometry of pairs is nothing to supervised runs.
    assert len(names) == (2 if stage in REWARDS else len(MONITORS) - (stage == "sft"))
    for name in names:
        for one, two in zip(rows(alone, name), rows(together, name), strict=True):
            assert one == pytest.approx(two, rel=1e-4, abs=1e-6)


def resumable(folder: Path, strategy: Any, devices: int, *options: str) -> subprocess.CompletedProcess[str]:
    """Four steps of DPO with checkpoints after two and four."""
    folder.mkdir()
    callbacks, module, data = stage_parts(folder, "dpo", {})
    keeper = {"class_path": "callbacks.saving.checkpoint.RunCheckpoint", "init_args": {"every_n_train_steps": 2, "keep_all": True}}
    trainer = tiny.trainer(folder, [callbacks[-1], keeper], strategy=strategy, devices=devices)
    trainer |= {"accumulate_grad_batches": 2 // devices, "max_steps": 4}
    return command(folder, {"seed_everything": 0, "trainer": trainer, "model": module, "data": data}, *options)


def run_of(folder: Path) -> Path:
    (run,) = {file.parent.parent for file in (folder / "runs").glob("*/*/policy/model.safetensors")}
    return run


@pytest.mark.slow
@pytest.mark.timeout(1700)
@pytest.mark.parametrize("is_folder", [True, False], ids=["folder", "file"])
def test_a_sharded_run_goes_on_or_says_how(tmp_path: Path, is_folder: bool) -> None:
    """To the same bits under FSDP2; DDP and one process read files; one process has no use for a folder, and is told so."""
    strategy = {"class_path": FSDP2, "init_args": STRATEGIES["fsdp2"]["init_args"] | {"save_distributed_checkpoint": is_folder}}
    assert resumable(tmp_path / "whole", strategy, 2).returncode == 0
    (saved,) = (tmp_path / "whole").glob("runs/*/*/checkpoints/*step=2.ckpt")
    assert saved.is_dir() == is_folder
    for name, other in {"fsdp2": strategy, "ddp": "ddp"}.items():
        done = resumable(tmp_path / name, other, 2, "--ckpt_path", str(saved))
        if is_folder and other == "ddp":
            assert done.returncode != 0
            assert "expected a checkpoint that is one file, got the folder" in done.stderr
        else:
            assert done.returncode == 0, done.stderr[-4000:]
            assert largest_difference(weights(run_of(tmp_path / name)), weights(run_of(tmp_path / "whole"))) == 0
    alone = resumable(tmp_path / "alone", "auto", 1, "--ckpt_path", str(saved))
    if is_folder:
        assert alone.returncode != 0
        assert "expected a checkpoint that is one file" in alone.stderr
    else:
        assert alone.returncode == 0, alone.stderr[-4000:]
        assert largest_difference(weights(run_of(tmp_path / "alone")), weights(run_of(tmp_path / "whole"))) < 1e-5


@pytest.mark.slow
@pytest.mark.timeout(1700)
@pytest.mark.parametrize("experiment", ["arithmetic_dpo", "arithmetic_sft"])
def test_shipped_experiments_run_sharded_as_they_are(tmp_path: Path, experiment: str) -> None:
    """With everything that samples: what is drawn, judged and identified is what one process finds."""
    runs = {}
    for name, options in {"one": "", "fsdp2": f"--trainer.devices 2 --trainer.strategy.class_path {FSDP2} {SIZES}"}.items():
        folder = tmp_path / name
        folder.mkdir()
        for part in ("assets", "configs"):
            (folder / part).symlink_to(ROOT / part)
        config = str(ROOT / "configs" / "experiment" / f"{experiment}.yaml")
        words = [sys.executable, str(ROOT / "train.py"), "fit", "--config", config, "--trainer.max_steps", "2", *options.split()]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=800, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        (runs[name],) = (folder / "runs").glob("*/version_0")
    names = {path.stem for path in (runs["one"] / "diagnostics").glob("*.jsonl")}
    assert names >= {"accuracy"} | ({"samples", "freshness", "on_policy"} if experiment == "arithmetic_dpo" else set())
    # From the same weights; two steps on other microbatches are not the same bits, and greedy answers may turn.
    for name in names & {"accuracy", "samples", "freshness", "on_policy"}:
        one, two = ([row for row in rows(runs[kind], name) if row["step"] == 0] for kind in ("one", "fsdp2"))
        assert one
        for row, other in zip(one, two, strict=True):
            assert row.keys() == other.keys()
            for key, value in row.items():
                assert other[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4, abs=1e-6)), key
