"""The four scenarios on the embedded model: `python -m bench.scenario_runs`, then `python report.py runs/scenarios/*/version_0`.

DPO on every scenario, and on the first one a setting that does well; the same prompts, steps and learning rate throughout. One run
after another in one process; a run that is complete is not made again.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

from run_folder.rows import read_rows
from train import main as train

RUNS = Path(__file__).parent.parent / "runs" / "scenarios"
SEEDS = (0, 1, 2)
STEPS = 40


@dataclass(frozen=True)
class ScenarioRun:
    """One run of the comparison."""

    experiment: str
    scenario: int
    seed: int

    @property
    def name(self) -> str:
        """Unique, and the folder within runs/scenarios."""
        return f"{self.experiment}_s{self.scenario}_seed{self.seed}"

    @property
    def folder(self) -> Path:
        """Where its rows are."""
        return RUNS / self.name / "version_0"

    @property
    def is_complete(self) -> bool:
        """Whether its last step was measured."""
        rows = read_rows(self.folder, "accuracy")
        return bool(rows) and rows[-1]["step"] == STEPS

    def command(self) -> list[str]:
        """Arguments of `train.py`."""
        return [
            *("fit", "--config", f"configs/experiment/{self.experiment}.yaml", "--trainer", "bench/scenario_trainer.yaml"),
            *("--trainer.max_steps", str(STEPS), "--trainer.logger.name", self.name, "--trainer.logger.version", "0"),
            *("--seed_everything", str(self.seed), "--data.scenario", str(self.scenario), "--data.seed", str(self.seed)),
        ]


def groups() -> dict[str, list[ScenarioRun]]:
    """The runs of each row of the table."""
    cells = [("arithmetic_dpo", scenario) for scenario in (1, 2, 3, 4)] + [("demo_sft_dpo", 1)]
    return {f"{experiment}_s{scenario}": [ScenarioRun(experiment, scenario, s) for s in SEEDS] for experiment, scenario in cells}


def main() -> None:
    """Make what is missing."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
    # Seed by seed: what is there when it is stopped early has every row.
    for run in itertools.chain.from_iterable(zip(*groups().values(), strict=True)):
        if not run.is_complete:
            print("python train.py", *run.command(), flush=True)
            train(run.command())


if __name__ == "__main__":
    main()
