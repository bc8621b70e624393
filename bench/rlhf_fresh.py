"""Greedy accuracy of every policy of docs/results/rlhf on problems that no choice was made on: `python -m bench.rlhf_fresh`.

The runs' own readings are of the first 500 held-out problems, which the recipe of PPO was chosen on. These are the next ones of the
same generator. Writes `fresh.json` beside a run's rows, once; `python -m bench.rlhf_results` shows it.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path
from typing import cast

from torch import Tensor

from bench.rlhf_runs import ARMS, SEEDS, Run
from callbacks.diagnostics.accuracy import examine
from datamodules.in_memory import encode_prompts
from datamodules.prompts import TaskPrompt
from datamodules.sources.tokenization import load_tokenizer
from datamodules.tasks.arithmetic import ArithmeticTask
from judges.arithmetic import ArithmeticJudge
from lightning_modules.models.policy import SamplingParameters
from lightning_modules.models.specs import PretrainedPolicy

BASE = Path("assets/arithmetic/base")
SEEN = 500
NUM_PROBLEMS = 500
FILE = "fresh.json"
PARAMETERS = SamplingParameters(max_new_tokens=80, temperature=0.0)


def problems() -> list[TaskPrompt]:
    """What no run has decoded."""
    items = islice(ArithmeticTask(num_test=SEEN + NUM_PROBLEMS).items("test"), SEEN, None)
    return encode_prompts(list(items), load_tokenizer(str(BASE)))


def accuracy(policy: Path, asked: list[TaskPrompt]) -> float:
    """Share of the problems whose final answer is right."""
    values = examine(
        PretrainedPolicy(path=str(policy)).build().eval(), asked, ArithmeticJudge(), load_tokenizer(str(BASE)), PARAMETERS
    )
    return float(cast(Tensor, values["task/accuracy"]).mean())


def main() -> None:
    """Read the base model and what is complete and was not read yet."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    asked = problems()
    print(f"{BASE}: {accuracy(BASE, asked):.3f}")
    for run in (Run(name, seed) for name in ARMS for seed in SEEDS):
        if run.is_complete and not (run.folder / FILE).exists():
            share = accuracy(run.folder / "policy", asked)
            (run.folder / FILE).write_text(json.dumps({"problems": NUM_PROBLEMS, "accuracy": share}), encoding="utf-8")
            print(f"{run.folder.parent.name}: {share:.3f}", flush=True)


if __name__ == "__main__":
    main()
