"""The runs behind docs/results/rlhf: `python -m bench.rlhf_runs [arm ...] [--seeds 0,1]`, then `python -m bench.rlhf_results`.

All start from the embedded model and read the same prompts and the same frozen bank. `ppo_rm` and `ppo_rm_mean` take the reward
model of `python train.py fit --config configs/experiment/arithmetic_rm.yaml`, one for all seeds; the arms of RTO take the policy of
`dpo`, or of `sft_dpo`, with their seed. One run after another in one process, seeds outermost, so that what is there when it is
stopped early has every arm; a run that is complete is not made again.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from train import main as train

RUNS = Path(__file__).parent.parent / "runs" / "rlhf"
SEEDS = tuple(range(5))
PROBLEMS = ("--data.task.init_args.num_test", "500")
PAIRS = ("--trainer.gradient_clip_val", "1.0", "--model.optimizer.lr", "2e-4", *PROBLEMS)
RLOO = "lightning_modules.ppo.estimators.RLOO"


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    title: str
    """As results call it."""
    experiment: str
    steps: int
    options: tuple[str, ...] = ()


def loss(name: str, *options: str) -> tuple[str, ...]:
    """Options of `train.py` for another preference loss."""
    return ("--model.loss", f"configs/model/loss/{name}.yaml", *options)


def reward_model(per_token: str) -> tuple[str, ...]:
    """Options for rewards from the reward model, its log-likelihood summed or per token."""
    return (*PROBLEMS, "--model.advantages", RLOO, "--model.rewards.init_args.per_token", per_token)


def rto(arm: str, weight: str) -> tuple[str, ...]:
    """Options for the exact judge and token rewards from the policy of an arm."""
    source = "--model.rewards.init_args"
    path = f"{{runs}}/{arm}_seed{{seed}}/version_0/policy"
    return (*PROBLEMS, f"{source}.policy.init_args.path", path, f"{source}.weight", weight)


ARMS: Mapping[str, Arm] = {
    "sft_chosen": Arm("SFT on chosen", "arithmetic_dpo", 40, (*loss("chosen_sft", "--model.loss.per_token", "true"), *PAIRS)),
    "dpo": Arm("DPO, scenario 1", "arithmetic_dpo", 40, PAIRS),
    "flex_dpo": Arm(
        "Flex-DPO, beta 0.1 / 0.04", "arithmetic_dpo", 40, (*loss("flex_dpo", "--model.loss.beta_rejected", "0.04"), *PAIRS)
    ),
    "sft_dpo": Arm("SFT-DPO, gamma 0.1", "demo_sft_dpo", 40, PAIRS),
    "on_policy_dpo": Arm("on-policy DPO", "arithmetic_on_policy_dpo", 120, PAIRS),
    "ppo": Arm("PPO (GAE), exact judge", "arithmetic_ppo", 120, PROBLEMS),
    "rloo": Arm("PPO (RLOO), exact judge", "arithmetic_rloo", 120, PROBLEMS),
    "ppo_rm": Arm("PPO (RLOO), reward model", "arithmetic_ppo_rm", 120, reward_model(per_token="false")),
    "ppo_rm_mean": Arm("PPO (RLOO), reward model per token", "arithmetic_ppo_rm", 120, reward_model(per_token="true")),
    "rto": Arm("RTO (GAE), weight 0.05", "arithmetic_rto", 120, rto("dpo", "0.05")),
    "rto_light": Arm("RTO (GAE), weight 0.005", "arithmetic_rto", 120, rto("dpo", "0.005")),
    "rto_sft_dpo": Arm("RTO, weight 0.05, policy of SFT-DPO", "arithmetic_rto", 120, rto("sft_dpo", "0.05")),
}
"""Name -> how it is run. `{runs}` and `{seed}` are filled in: a run may start from another's result."""


@dataclass(frozen=True)
class Run:
    """An arm with a seed."""

    name: str
    seed: int

    @property
    def arm(self) -> Arm:
        """How it is run."""
        return ARMS[self.name]

    @property
    def folder(self) -> Path:
        """Where its rows are."""
        return RUNS / f"{self.name}_seed{self.seed}" / "version_0"

    @property
    def is_complete(self) -> bool:
        """Whether its policy was saved, which is the last thing a run does."""
        return (self.folder / "policy").is_dir()

    def command(self) -> list[str]:
        """Arguments of `train.py`."""
        return [
            *("fit", "--config", f"configs/experiment/{self.arm.experiment}.yaml", "--trainer", "bench/rlhf_trainer.yaml"),
            *("--trainer.max_steps", str(self.arm.steps), "--trainer.logger.save_dir", str(RUNS)),
            *("--trainer.logger.name", self.folder.parent.name, "--trainer.logger.version", "0"),
            *("--seed_everything", str(self.seed), "--data.seed", str(self.seed)),
            *(option.format(runs=RUNS, seed=self.seed) for option in self.arm.options),
        ]


def make(runs: Sequence[Run]) -> None:
    """Make what is missing; what was cut short is made anew."""
    for run in runs:
        if not run.is_complete:
            shutil.rmtree(run.folder, ignore_errors=True)
            print("python train.py", *run.command(), flush=True)
            train(run.command())


def main() -> None:
    """Make the runs that are asked for; all by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="*", choices=[*ARMS, []], help="all by default")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=SEEDS)
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
    make([Run(arm, seed) for seed, arm in itertools.product(arguments.seeds, arguments.arms or ARMS)])


if __name__ == "__main__":
    main()
