"""Trains two policies with TRL from the embedded model, one harmed and one not, for docs/results/front_door.

`python -m bench.front_door pairs FILE` writes pairs of the shipped pool; `python -m bench.front_door train RECIPE --pairs FILE
--output FOLDER` trains with a live diagnosis beside it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.pool.files import read_pool
from datamodules.pool.scenarios import PairRules, view_scenario

ASSETS = Path(__file__).parents[1] / "assets" / "arithmetic"
STEPS, SAVED = 40, 10
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "dpo": {"learning_rate": 2e-4},
    "dpo_sft": {"learning_rate": 2e-4, "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]},
    "dpo_slow": {"learning_rate": 2e-5},
}
"""The same pairs and steps; the second adds the negative log-likelihood of chosen, per token; the third has a lower rate."""


def write_pairs(path: Path) -> int:
    """Scenario 1 of the shipped pool: the model's own best and worst answers; returns how many pairs there are."""
    rows, _ = read_pool(str(ASSETS / "pool.jsonl.xz"))
    view = view_scenario(rows, 1, rules=PairRules(min_chosen_score=4.0))
    lines = [
        json.dumps({"prompt": rows[pair.row_number].prompt, "chosen": pair.chosen.text, "rejected": pair.rejected.text}) + "\n"
        for pair in view.pairs
    ]
    path.write_text("".join(lines), encoding="utf-8")
    return len(lines)


def train(recipe: str, pairs: Path, output: Path, seed: int) -> None:
    """TRL's DPOTrainer on all pairs, with the callback."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from prefscope.huggingface import PrefscopeCallback

    base = str(ASSETS / "base")
    config = DPOConfig(
        output_dir=str(output),
        max_steps=STEPS,
        save_steps=SAVED,
        logging_steps=SAVED,
        lr_scheduler_type="constant",
        per_device_train_batch_size=32,
        beta=0.1,
        seed=seed,
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        **RECIPES[recipe],
    )
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(base),
        args=config,
        train_dataset=Dataset.from_list([json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]),
        processing_class=AutoTokenizer.from_pretrained(base),
        callbacks=[PrefscopeCallback(pairs=pairs, reference=base)],
    )
    trainer.train()


def main(args: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.front_door", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("pairs").add_argument("file", type=Path)
    training = commands.add_parser("train")
    training.add_argument("recipe", choices=sorted(RECIPES))
    training.add_argument("--pairs", type=Path, required=True)
    training.add_argument("--output", type=Path, required=True)
    training.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(args)
    if asked.command == "pairs":
        print(f"{write_pairs(asked.file)} pairs in {asked.file}")
    else:
        train(asked.recipe, asked.pairs, asked.output, asked.seed)


if __name__ == "__main__":
    main()
