"""The runs behind docs/results/toy: `python -m bench.toy_runs [name ...]` (all of them by default), into runs/toy/<name>.

Each is `python train.py fit --config configs/experiment/toy_dpo.yaml` with a few options, on one thread. Fitted initial policies
are shared through the cache, so that variants of one scenario start from the same weights.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

BASELINE_SEEDS, VARIANT_SEEDS = 10, 5
"""Seeds 0-9, and of variants the first five of them."""


def _loss(name: str, **fields: float) -> list[str]:
    options = [str(part) for field, value in fields.items() for part in (f"--model.loss.{field}", value)]
    return ["--model.loss", f"configs/model/loss/{name}.yaml", *options]


def _flex(ratio: float) -> list[str]:
    return _loss("flex_dpo", beta_chosen=0.02, beta_rejected=round(0.02 * ratio, 6))


def _sft(gamma: float) -> list[str]:
    return _loss("sft_dpo", beta=0.02, gamma=gamma)


def _width(units: int) -> list[str]:
    return ["--model.policy.width", str(units)]


VARIANTS: dict[str, tuple[int, list[str]]] = {
    **{f"s{scenario}": (scenario, []) for scenario in (1, 2, 3, 4)},
    **{f"s{scenario}_beta0.1": (scenario, ["--model.loss.beta", "0.1"]) for scenario in (1, 4)},
    **{f"s{scenario}_tanh": (scenario, ["--model.policy.activation", "tanh"]) for scenario in (1, 4)},
    **{f"s1_width{units}": (1, _width(units)) for units in (16, 64, 128, 256)},
    **{f"s1_flex{ratio}": (1, _flex(ratio)) for ratio in (0.8, 0.5, 0.1)},
    **{f"s1_sft{gamma}": (1, _sft(gamma)) for gamma in (0.01, 0.1)},
    "s4_flex0.5": (4, _flex(0.5)),
    "s4_sft0.1": (4, _sft(0.1)),
    "s1_random": (1, ["--data.rejected", "random"]),
    "s1_minibatch": (1, ["--data.batch_size", "2", "--trainer.max_steps", "4000"]),
}
"""Scenario and further options of each run."""


def command(name: str) -> list[str]:
    """Arguments of `train.py` for a run."""
    scenario, options = VARIANTS[name]
    seeds = VARIANT_SEEDS if "_" in name else BASELINE_SEEDS
    fixed = ["--data.init_args.scenario", str(scenario), "--data.num_seeds", str(seeds), "--trainer.logger.name", f"toy/{name}"]
    return ["fit", "--config", "configs/experiment/toy_dpo.yaml", *fixed, *options]


def main(names: list[str]) -> None:
    """Run them one after another; stops at the first that fails."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for name in names or VARIANTS:
        print("python train.py", *command(name), flush=True)
        subprocess.run([sys.executable, "train.py", *command(name)], cwd=ROOT, env=environment, check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
