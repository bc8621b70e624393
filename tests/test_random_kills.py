"""Death at random moments in every stage, on one process and on two: each resumed run ends in the bits of one left alone.

The moments are drawn from a seed: a stage, how its processes share the work, a step, a place in it, and a rank. Processes are
forked from this one, which has imported everything; `tests/test_random_signals.py` starts commands and sends signals by the clock.
"""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from bench.gloo import together
from callbacks.saving import checkpoint
from callbacks.saving.checkpoint import RunCheckpoint
from callbacks.saving.checkpoint_file import require_whole
from tests import test_resume_changed, test_resume_ppo, tiny
from tests.test_resume import ROOT, differences
from train import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning", "ignore:Rollout", "ignore:You have overridden"),
]
STEPS, CADENCE, SEED = 8, 2, 15
FSDP2 = {"class_path": "lightning.pytorch.strategies.ModelParallelStrategy"}
LAYOUTS: Mapping[str, tuple[int, Any]] = {
    "one": (1, "auto"),
    "thread": (1, "auto"),
    "ddp": (2, "ddp"),
    "folder": (2, FSDP2 | {"init_args": {"data_parallel_size": 2, "tensor_parallel_size": 1}}),
    "file": (2, FSDP2 | {"init_args": {"data_parallel_size": 2, "tensor_parallel_size": 1, "save_distributed_checkpoint": False}}),
}
"""How processes share the work and write: on one, written by a thread, replicated, sharded into folders or files."""
RUNS = (
    *(("sft", layout) for layout in ("one", "thread", "folder")),
    *(("rm", layout) for layout in ("one", "ddp", "file")),
    *(("dpo", layout) for layout in ("thread", "ddp", "folder")),
    *(("ppo", layout) for layout in ("one", "ddp", "folder")),
    *(("on_policy", layout) for layout in ("one", "ddp")),
)
STEP_PLACES = ("on_train_batch_start", "on_before_backward", "on_before_optimizer_step", "on_train_batch_end")
SAVE_PLACES = ("on_save_checkpoint", "half of the file", "before the link", "before older ones go")


class Death(NamedTuple):
    """When, where and how a run ends."""

    stage: str
    layout: str
    how: str
    """`kill` (SIGKILL), `term` (SIGTERM), or `cut`: killed, and the newest checkpoint is cut afterwards."""
    step: int
    """Steps that have been taken; of places in a save, those that are saved."""
    place: str
    rank: int


def deaths() -> list[Death]:
    """Forty-two: three of every run, one of them in the middle of a save and one of them cut or told."""
    draw, found = random.Random(SEED), []
    for stage, layout in RUNS:
        rank = draw.randrange(LAYOUTS[layout][0])
        found.append(Death(stage, layout, "kill", draw.randrange(CADENCE + 1, STEPS), draw.choice(STEP_PLACES), rank))
        found.append(Death(stage, layout, "kill", CADENCE * draw.randrange(2, STEPS // CADENCE), draw.choice(SAVE_PLACES), 0))
        # Two files have to be there, or a signal has to come between two steps.
        steps = draw.randrange(2 * CADENCE + 1, STEPS - 1)
        found.append(Death(stage, layout, draw.choice(("term", "cut")), steps, draw.choice(STEP_PLACES), rank))
    return found


class Dies(Callback):
    """Ends its process at a place.

    Args:
        how: SIGKILL, but for `term`.
        step: of `Death`.
        place: of `Death`.
        rank: of `Death`.
    """

    def __init__(self, how: str, step: int, place: str, rank: int) -> None:
        self.number = signal.SIGTERM if how == "term" else signal.SIGKILL
        self.step, self.place, self.rank = step, place, rank
        self._taken = 0

    def _at(self, place: str, trainer: Trainer, step: int) -> None:
        if (place, step, trainer.global_rank) == (self.place, self.step, self.rank):
            os.kill(os.getpid(), self.number)

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._at("on_train_batch_start", trainer, trainer.global_step)

    def on_before_backward(self, trainer: Trainer, *_: Any) -> None:
        self._at("on_before_backward", trainer, trainer.global_step)

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        self._at("on_before_optimizer_step", trainer, trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        # Before the checkpoint of this step, which is among the last of callbacks.
        self._at("on_train_batch_end", trainer, trainer.global_step - 1)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._at("on_save_checkpoint", trainer, trainer.global_step)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        save, point, make_room = torch.save, checkpoint._point, RunCheckpoint._make_room

        def half(state: Any, file: Any, **options: Any) -> None:
            save(state, file, **options)
            # Of a folder, the part that Lightning writes behind torch's.
            if self.place == "half of the file" and isinstance(state, dict) and state.get("global_step") == self.step:
                path = Path(getattr(file, "name", file))
                os.truncate(path, path.stat().st_size // 2)
                os.kill(os.getpid(), self.number)

        def link(path: Path, target: str) -> None:
            self._at("before the link", trainer, step_of(target))
            point(path, target)

        def room(keeper: RunCheckpoint, trainer: Trainer, older: str) -> None:
            self._at("before older ones go", trainer, step_of(older) + CADENCE)
            make_room(keeper, trainer, older)

        torch.save = half  # type: ignore[assignment]
        checkpoint._point, RunCheckpoint._make_room = link, room  # type: ignore[assignment, method-assign]


def step_of(name: str) -> int:
    """Of a checkpoint."""
    return int(re.findall(r"step=(\d+)", name)[-1])


def config(stage: str, layout: str, folder: Path) -> dict[str, Any]:
    """A run with a checkpoint at every second step, with rows at each."""
    if stage == "on_policy":
        parts = test_resume_ppo.config(folder)
        model = yaml.safe_load((ROOT / "configs/model/arithmetic_on_policy_dpo.yaml").read_text(encoding="utf-8"))
        loss = {"class_path": "lightning_modules.losses.dpo.DPOLoss"}
        model["init_args"] |= {"policy": tiny.POLICY, "rewards": parts["model"]["init_args"]["rewards"], "loss": loss, "min_gap": 0}
        parts["model"] = model
    else:
        parts = test_resume_changed.config(stage, folder)
    keeper = {
        "class_path": "callbacks.saving.checkpoint.RunCheckpoint",
        "init_args": {"every_n_train_steps": CADENCE, "max_share": None},
    }
    name = "reward_monitor.RewardMonitor" if stage == "rm" else "likelihood.LikelihoodMonitor"
    monitor = {"class_path": f"callbacks.diagnostics.{name}", "init_args": {"every_n_steps": 1}}
    size, strategy = LAYOUTS[layout]
    parts["trainer"] |= {"callbacks": [keeper, monitor], "devices": size, "strategy": strategy, "max_steps": STEPS}
    parts["trainer"] |= (
        {"plugins": [{"class_path": "lightning.pytorch.plugins.io.AsyncCheckpointIO"}]} if layout == "thread" else {}
    )
    return parts


def train(folder: Path, name: str, start: Path | None) -> None:
    torch.set_num_threads(1)
    os.chdir(folder)
    main(["fit", "--config", f"{name}.yaml", *(() if start is None else ("--ckpt_path", str(start)))])


def take(folder: Path, name: str, run: tuple[str, str], death: Death | None = None, start: Path | None = None) -> Path:
    """One run, to its end or to its death; its folder."""
    whole = folder / "whole.yaml"
    if not whole.exists():
        folder.mkdir()
        whole.write_text(yaml.safe_dump(config(*run, folder)), encoding="utf-8")
    parts = yaml.safe_load(whole.read_text(encoding="utf-8"))
    if death is not None:
        arguments = {key: getattr(death, key) for key in ("how", "step", "place", "rank")}
        parts["trainer"]["callbacks"].append({"class_path": "tests.test_random_kills.Dies", "init_args": arguments})
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(parts), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py"])
        patch.setattr("callbacks.output.run_report.write_report", lambda folder: None)
        together(LAYOUTS[run[1]][0], train, folder, name, start)
    return folder / "runs" / name / "version_0"


def state(path: Path) -> dict[str, Any]:
    """All but the run's own folder and Lightning's counters, which count an epoch twice that is resumed at its very end."""
    if path.is_dir():
        dcp_to_torch_save(path, path.with_suffix(".whole"))
        whole = torch.load(path.with_suffix(".whole")) | torch.load(path / "meta.pt", weights_only=True)
    else:
        whole = torch.load(path, weights_only=True)
    return {name: value for name, value in whole.items() if name not in ("callbacks", "loops", "epoch")}


def rows(run: Path) -> dict[str, list[Mapping[str, Any]]]:
    """What was logged and noted, by file."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for path in sorted((run / "diagnostics").glob("*.jsonl")):
        found[path.stem] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        # How many microbatches make an epoch is told by Lightning.
        rows = list(csv.DictReader(file))
        found["points"] = [{name: value for name, value in row.items() if value and name != "epoch"} for row in rows]
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def ends() -> dict[tuple[str, str], Path]:
    """Runs that were left alone; made when first asked for."""
    return {}


@pytest.mark.parametrize("death", deaths(), ids=lambda death: "-".join(str(part).replace(" ", "_") for part in death))
def test_a_run_goes_on_to_the_same_bits(death: Death, home: Path, ends: dict[tuple[str, str], Path]) -> None:
    run = death.stage, death.layout
    folder, name = home / "_".join(run), f"{death.how}_{death.step}_{death.place.replace(' ', '_')}"
    if run not in ends:
        ends[run] = take(folder, "whole", run)
    words = "143" if death.how == "term" else "SIGKILL"
    with pytest.raises((ProcessExitedException, ProcessRaisedException), match=words):
        take(folder, name, run, death)
    last = folder / "runs" / name / "version_0" / "checkpoints" / "last.ckpt"
    if death.how == "cut":
        last = cut(last.resolve(), folder, name, run)
    require_whole(last)
    start = last.resolve()
    step = step_of(start.name)
    # A signal waits for the end of the step in hand.
    assert step == death.step + 1 if death.how == "term" else step <= death.step
    resumed = take(folder, f"{name}_resumed", run, start=start)
    newest, expected = (state((one / "checkpoints" / "last.ckpt").resolve()) for one in (resumed, ends[run]))
    assert newest["global_step"] == STEPS
    assert list(differences(newest, expected)) == []
    killed, found, whole = (rows(one) for one in (folder / "runs" / name / "version_0", resumed, ends[run]))
    assert found.keys() == whole.keys()
    for file, lines in whole.items():
        before = [row for row in killed[file] if int(row["step"]) <= step]
        assert before + [row for row in found[file] if int(row["step"]) > step] == lines, file


def cut(newest: Path, folder: Path, name: str, run: tuple[str, str]) -> Path:
    """Truncate the newest checkpoint; the one that the refusal names."""
    path = next(iter(sorted(newest.glob("*.distcp")))) if newest.is_dir() else newest
    os.truncate(path, path.stat().st_size * 2 // 3)
    with pytest.raises(ProcessRaisedException, match="expected a whole checkpoint") as refused:
        take(folder, f"{name}_refused", run, start=newest)
    [other] = [one for one in newest.parent.glob("epoch=*.ckpt") if f"There is also {one}" in str(refused.value)]
    return other
