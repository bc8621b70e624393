"""The runs behind docs/results/alarm: `python -m bench.alarm_runs [embedded] [toy]` (both by default), into runs/alarm/<name>.

One after another in one process, so that the reference's log-probs and the fitted toy policies are made once. A run that is
complete is not made again.
"""

from __future__ import annotations

import itertools
import logging
import shutil
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from run_folder.rows import read_rows
from train import main as train

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "runs" / "alarm"

EMBEDDED_STEPS, TOY_STEPS = 20, 2000


@dataclass(frozen=True)
class Setting:
    """One of the two worlds of the labelled set."""

    name: str
    experiment: str
    steps: int
    methods: dict[str, list[str]]
    learning_rates: tuple[str, ...]
    seeds: tuple[int, ...]
    options: tuple[str, ...]
    last_rows: str
    """File of rows whose last one stands at the last step when a run is complete."""


def loss_options(name: str, **fields: float) -> list[str]:
    """Options of `train.py` for a loss with some fields set."""
    options = [str(part) for field, value in fields.items() for part in (f"--model.loss.{field}", value)]
    return ["--model.loss", f"configs/model/loss/{name}.yaml", *options]


QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")

EMBEDDED = Setting(
    name="embedded",
    experiment="arithmetic_dpo",
    steps=EMBEDDED_STEPS,
    methods={
        "dpo": loss_options("dpo", beta=0.1),
        "sft_dpo": loss_options("sft_dpo", beta=0.1, gamma=0.1),
        "ipo": loss_options("ipo"),
    },
    learning_rates=("1e-4", "3e-4", "1e-3"),
    seeds=(0, 1),
    options=("--trainer", "bench/alarm_embedded.yaml", "--data.batch_size", "16", "--data.num_probe_prompts", "16"),
    last_rows="accuracy",
)

TOY = Setting(
    name="toy",
    experiment="toy_dpo",
    steps=TOY_STEPS,
    methods={
        "dpo": loss_options("dpo", beta=0.02),
        "flex_dpo": loss_options("flex_dpo", beta_chosen=0.02, beta_rejected=0.01),
        "sft_dpo": loss_options("sft_dpo", beta=0.02, gamma=0.01),
    },
    learning_rates=("3e-5", "1e-4"),
    seeds=(0,),
    options=("--trainer", "bench/alarm_toy.yaml", "--data.num_seeds", "3"),
    last_rows="toy",
)


@dataclass(frozen=True)
class Run:
    """One labelled run."""

    setting: Setting
    method: str
    scenario: int
    learning_rate: str
    seed: int

    @property
    def name(self) -> str:
        """Unique, and the folder within runs/alarm."""
        return f"{self.setting.name}_{self.method}_s{self.scenario}_lr{self.learning_rate}_seed{self.seed}"

    @property
    def folder(self) -> Path:
        """Where its rows are."""
        return RUNS / self.name / "version_0"

    @property
    def is_tuning(self) -> bool:
        """Which half its cell belongs to (docs/results/alarm: the parity of the cell)."""
        method = list(self.setting.methods).index(self.method)
        return (self.scenario + method + self.setting.learning_rates.index(self.learning_rate)) % 2 == 0

    @property
    def is_complete(self) -> bool:
        """Whether its last step was measured."""
        rows = read_rows(self.folder, self.setting.last_rows)
        return bool(rows) and rows[-1]["step"] == self.setting.steps

    def command(self) -> list[str]:
        """Arguments of `train.py`."""
        return [
            *("fit", "--config", f"configs/experiment/{self.setting.experiment}.yaml", *self.setting.options, *QUIET),
            *("--trainer.max_steps", str(self.setting.steps), "--trainer.logger.save_dir", "runs/alarm"),
            *("--trainer.logger.name", self.name, "--trainer.logger.version", "0", "--seed_everything", str(self.seed)),
            *("--data.init_args.scenario", str(self.scenario), "--data.seed", str(self.seed)),
            *self.setting.methods[self.method],
            *("--model.optimizer.lr", self.learning_rate),
        ]


def runs_of(setting: Setting) -> list[Run]:
    """Every run of a setting."""
    cells = itertools.product(setting.seeds, setting.methods, (1, 2, 3, 4), setting.learning_rates)
    return [Run(setting, method, scenario, rate, seed) for seed, method, scenario, rate in cells]


def make(runs: Iterable[Run]) -> None:
    """Make those that are not complete."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
    for run in runs:
        if not run.is_complete:
            # What a killed run has left: rows are appended.
            shutil.rmtree(run.folder, ignore_errors=True)
            print("python train.py", *run.command(), flush=True)
            train(run.command())


def main(names: list[str]) -> None:
    """Make what is missing of the named settings."""
    make(run for setting in (EMBEDDED, TOY) if not names or setting.name in names for run in runs_of(setting))


if __name__ == "__main__":
    main(sys.argv[1:])
