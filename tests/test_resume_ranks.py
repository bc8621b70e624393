"""A run goes on with another number of processes: the same steps, weights and logged points as one that was left alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bench.gloo import together
from tests import tiny
from tests.test_strategies import FSDP2, ROOT, largest_difference, points, weights
from train import main

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning", "ignore:You defined a `validation_step`")
STEPS = 8
"""Of 4 an epoch; checkpoints after 3 and 6."""

Step = tuple[str, int, int, str | None]
"""Strategy, processes, microbatches of each in a step, and the checkpoint to go on from."""


def write_config(folder: Path, strategy: str, size: int, accumulation: int) -> Path:
    """DPO with what exports, in a folder of its own."""
    sharded = {"class_path": FSDP2, "init_args": {"data_parallel_size": size, "tensor_parallel_size": 1}}
    keeper = {"class_path": "callbacks.saving.checkpoint.RunCheckpoint", "init_args": {"every_n_train_steps": 3, "keep_all": True}}
    options: dict[str, Any] = {"strategy": {"one": "auto", "fsdp2": sharded}.get(strategy, strategy), "devices": size}
    options |= {"accumulate_grad_batches": accumulation, "max_steps": STEPS, "max_epochs": -1, "limit_val_batches": 0}
    export = {"class_path": "callbacks.saving.policy_export.PolicyExport"}
    folder.mkdir()
    config = {"seed_everything": 0, "trainer": tiny.trainer(folder, [keeper, export], **options)}
    config |= {"model": tiny.module(folder), "data": tiny.pair_data(folder)}
    (folder / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder / "run.yaml"


def run(config: Path, checkpoint: Path | None) -> None:
    torch.set_num_threads(1)
    main(["fit", "--config", str(config), *(() if checkpoint is None else ("--ckpt_path", str(checkpoint)))])


def take(home: Path, name: str, step: Step) -> Path:
    """One run, whole or from a checkpoint; its folder."""
    strategy, size, accumulation, start = step
    config = write_config(home / name, strategy, size, accumulation)
    checkpoint = None
    if start is not None:
        run_name, number = start.split(":")
        (checkpoint,) = (home / run_name).rglob(f"*step={number}.ckpt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py"])
        together(size, run, config, checkpoint)
    return folder_of(home / name)


def folder_of(home: Path) -> Path:
    """Of a run: that of its first logger."""
    (exported,) = home.glob("runs/*/*/policy/model.safetensors")
    return exported.parent.parent


QUICK: dict[str, Step] = {
    "one": ("one", 1, 1, None),
    # Three microbatches were taken, and a step is two now.
    "two_from_one": ("ddp", 2, 2, "one:3"),
    "one_from_two": ("one", 1, 1, "two_from_one:6"),
}
SLOW: dict[str, Step] = {
    "one": ("one", 1, 1, None),
    "fsdp2": ("fsdp2", 2, 1, None),
    "fsdp2_on_one": ("fsdp2", 1, 2, "fsdp2:3"),
    "fsdp2_on_four": ("fsdp2", 4, 1, "fsdp2_on_one:6"),
    "ddp": ("ddp", 4, 1, None),
    "ddp_on_two": ("ddp", 2, 2, "ddp:6"),
}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("runs", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["quick", "slow"])
def test_it_goes_on_with_another_number_of_processes(runs: dict[str, Step], tmp_path: Path) -> None:
    folders = {name: take(tmp_path, name, step) for name, step in runs.items()}
    expected = points(folders["one"])
    for name, folder in folders.items():
        assert largest_difference(weights(folder), weights(folders["one"])) < 1e-5, name
        got = {point["step"]: point for point in points(folder)}
        first = int((runs[name][3] or "x:0").split(":")[1])
        assert sorted(got) == list(range(first + 1, STEPS + 1)), name
        for point in expected[first:]:
            # How many microbatches make an epoch is told by Lightning.
            known = {key: value for key, value in point.items() if key != "epoch"}
            assert {key: got[point["step"]][key] for key in known} == pytest.approx(known, rel=1e-4, abs=1e-6), name


def test_a_step_of_other_microbatches_is_refused(tmp_path: Path) -> None:
    """Filled to a token budget, a step is as many microbatches as processes and accumulation make."""
    from datamodules.loading.loader import ResumableLoader, SplitDataset
    from datamodules.loading.step_plans import TokenBudgetPlan
    from datamodules.sources.store import ExampleStore
    from tests.lightning_modules.stubs import make_pairs

    dataset = SplitDataset(ExampleStore.of(make_pairs(20)))

    def loader(size: int, microbatches: int) -> ResumableLoader:
        plan = TokenBudgetPlan(dataset.lengths, microbatches=microbatches, max_tokens=40, seed=0)
        return ResumableLoader(dataset, plan, rank=0, world_size=size)

    alone = loader(1, 2)
    batches = iter(alone)
    seen = [next(batches) for _ in range(2)]
    assert len(seen) == 2
    both = loader(2, 2)
    both.load_state_dict(alone.state_dict())
    assert both.state_dict()["position"] == 1
    with pytest.raises(ValueError, match=r"batch size: \(40, 2\), now \(40, 4\).*keep that product"):
        loader(2, 4).load_state_dict(alone.state_dict())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_nodes_take_the_steps_of_one_process(tmp_path: Path) -> None:
    """Two launchers of torchrun, as on two machines, with a process each."""
    alone = take(tmp_path, "one", ("one", 1, 2, None))
    config = write_config(tmp_path / "nodes", "ddp", 1, 1)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    nodes = []
    for rank in range(2):
        words = f"-m torch.distributed.run --nnodes 2 --node_rank {rank} --nproc_per_node 1 --master_addr 127.0.0.1"
        words += f" --master_port {port} {ROOT / 'train.py'} fit --config {config} --trainer.num_nodes 2"
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        nodes.append(subprocess.Popen([sys.executable, *words.split()], cwd=tmp_path / "nodes", env=environment))
    assert [node.wait(1000) for node in nodes] == [0, 0]
    assert largest_difference(weights(folder_of(tmp_path / "nodes")), weights(alone)) < 1e-5
