"""Every strategy of Lightning runs as one process does, or is refused in words before a model is built."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import (
    DDPStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
    StrategyRegistry,
)
from torch.optim import SGD

from lightning_modules.diagnosis import DiagnosisModule
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.preference import PreferenceModule
from lightning_modules.processes import strategies
from lightning_modules.processes.strategies import (
    Parallel,
    Split,
    averaging,
    kind_of,
    require_readable_checkpoint,
    require_same_ranks,
    require_supported_name,
)
from tests import tiny
from tests.callbacks.rig import BigramSpec
from train import main

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


@pytest.mark.parametrize("name", StrategyRegistry.available_strategies())
def test_every_registered_name_is_supported_or_refused_with_a_reason(name: str) -> None:
    if name in strategies.NAMES:
        assert StrategyRegistry[name]["strategy"] is DDPStrategy
        require_supported_name(name)
        return
    with pytest.raises(ValueError, match=rf"got the strategy {name}: (?!nobody).*Use `strategy: ddp`, or FSDP2"):
        require_supported_name(name)


def test_classes_are_told_from_their_paths() -> None:
    known = "lightning.pytorch.strategies"
    for name in ("DDPStrategy", "ModelParallelStrategy", "SingleDeviceStrategy"):
        require_supported_name(SimpleNamespace(class_path=f"{known}.{name}", init_args=SimpleNamespace()))
    for name, reason in (("FSDPStrategy", "flattens"), ("DeepSpeedStrategy", "engine"), ("XLAStrategy", "TPU")):
        with pytest.raises(ValueError, match=f"{name}: .*{reason}"):
            require_supported_name(SimpleNamespace(class_path=f"{known}.{name}", init_args=SimpleNamespace()))
    with pytest.raises(ValueError, match=r"DDPStrategy: a class is given with"):
        require_supported_name(f"{known}.DDPStrategy")
    with pytest.raises(ValueError, match="start_method"):
        require_supported_name(SimpleNamespace(class_path=f"{known}.DDPStrategy", init_args=SimpleNamespace(start_method="spawn")))


def test_the_command_line_refuses_before_it_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, Lightning's own words would come first, and name another way out."""
    monkeypatch.setattr("sys.argv", ["train.py"])
    config = {
        "trainer": tiny.trainer(tmp_path, strategy="deepspeed_stage_3", devices=2),
        "model": tiny.module(tmp_path),
        "data": tiny.pair_data(tmp_path, tokenizer="nowhere"),
    }
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="got the strategy deepspeed_stage_3: its engine"):
        main(["fit", "--config", str(tmp_path / "experiment.yaml")])


class OwnDDP(DDPStrategy):
    """Does otherwise somewhere."""


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (partial(SingleDeviceStrategy, device="cpu"), Parallel.ONE),
        (DDPStrategy, Parallel.DDP),
        (partial(DDPStrategy, find_unused_parameters=True, gradient_as_bucket_view=True), Parallel.DDP),
        (partial(DDPStrategy, static_graph=False, bucket_cap_mb=None, device_mesh=None), Parallel.DDP),
        (ModelParallelStrategy, Parallel.FSDP2),
    ],
)
def test_what_a_strategy_does(make: Callable[[], Strategy], kind: Parallel) -> None:
    assert kind_of(make()) is kind


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (FSDPStrategy, "FSDPStrategy: it flattens"),
        (OwnDDP, "got OwnDDP"),
        (partial(DDPStrategy, ddp_comm_hook=print), "average gradients as they are, got ddp_comm_hook"),
        (partial(DDPStrategy, model_averaging_period=4), "got model_averaging_period"),
        (partial(DDPStrategy, mixed_precision=object()), "got mixed_precision"),
        (partial(DDPStrategy, static_graph=True, broadcast_buffers=False), r"got broadcast_buffers, static_graph\."),
    ],
)
def test_strategies_that_average_otherwise_are_refused(make: Callable[[], Strategy], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind_of(make())


def meshed(data: Split, layers: int) -> Any:
    """What is read of ModelParallelStrategy once its processes are up."""
    group = SimpleNamespace(size=lambda: data.size, get_local_rank=lambda: data.rank)
    return SimpleNamespace(device_mesh={"data_parallel": group, "tensor_parallel": SimpleNamespace(size=lambda: layers)})


def test_the_mesh_says_who_averages() -> None:
    assert averaging(meshed(Split(3, 4), 1), Parallel.FSDP2) == Split(3, 4)
    with pytest.raises(ValueError, match=re.escape("tensor_parallel_size: 1, got 2") + ".*data_parallel_size to 8"):
        averaging(meshed(Split(3, 4), 2), Parallel.FSDP2)


def test_data_split_over_other_ranks_is_refused() -> None:
    require_same_ranks(Split(1, 2), Split(1, 2))
    with pytest.raises(ValueError, match="got part 1 of 4 of each step at place 1 of 2"):
        require_same_ranks(Split(1, 4), Split(1, 2))
    with pytest.raises(ValueError, match="got part 0 of 2 of each step at place 1 of 2"):
        require_same_ranks(Split(0, 2), Split(1, 2))


def attached(module: LightningModule, strategy: Strategy, part: Split) -> LightningModule:
    data = SimpleNamespace(step_part=tuple(part))
    module._trainer = SimpleNamespace(strategy=strategy, world_size=part.size, datamodule=data)  # type: ignore[assignment]
    return module


def test_a_module_is_checked_against_the_table_and_its_data() -> None:
    alone = SingleDeviceStrategy(device="cpu")
    dpo = PreferenceModule(BigramSpec(), DPOLoss(), partial(SGD, lr=0.1))
    strategies.require_tested(attached(dpo, alone, Split(0, 1)), "fit")
    with pytest.raises(ValueError, match="got part 1 of 2 of each step at place 0 of 1"):
        strategies.require_tested(attached(dpo, alone, Split(1, 2)), "fit")
    diagnosis = DiagnosisModule(BigramSpec(), BigramSpec(), DPOLoss())
    strategies.require_tested(attached(diagnosis, alone, Split(0, 1)), "validate")
    with pytest.raises(ValueError, match=r"DiagnosisModule to run `validate` under one process.*got DDP with 2 process"):
        strategies.require_tested(attached(diagnosis, DDPStrategy(), Split(0, 2)), "validate")


def test_a_sharded_checkpoint_is_not_opened_as_a_file(tmp_path: Path) -> None:
    sharded = SimpleNamespace(class_path="lightning.pytorch.strategies.ModelParallelStrategy")
    (tmp_path / "file.ckpt").touch()
    for path, strategy in ((None, "ddp"), (str(tmp_path / "file.ckpt"), "ddp"), (str(tmp_path), sharded)):
        require_readable_checkpoint(path, strategy)
    with pytest.raises(ValueError, match=r"one file, got the folder .*which FSDP2 wrote.*save_distributed_checkpoint: false"):
        require_readable_checkpoint(str(tmp_path), "auto")


def test_the_page_shows_the_table() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    shown = {row[0]: row[1:] for row in rows if len(row) == 1 + len(Parallel)}
    tables = {"fit": strategies.TRAINED, "validate, test, predict": strategies.EVALUATED}
    expected = {
        f"`{name}`, {command}": ["yes" if kind in tested else "refused" for kind in Parallel]
        for command, table in tables.items()
        for name, tested in table.items()
    }
    assert {name: shown.get(name) for name in expected} == expected
