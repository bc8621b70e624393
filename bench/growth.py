"""What a long run adds to the memory of its process and to its folder, with every callback of a trainer's config.

`python -m bench.growth --out docs/results/scaling/growth.md` (some minutes: a tiny model: callbacks are most of it).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import shlex
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from bench.markdown import write_lines
from bench.measure import resident_bytes
from command_line.experiment import run_experiment
from run_folder.files import append_row
from run_folder.rows import ROWS, read_rows

MODEL = {
    "model_type": "llama",
    "vocab_size": 76,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
}
EVENTS, PAGES, JSON_ROWS = "events", "pages of heat-maps", "rows"
KINDS = (EVENTS, JSON_ROWS, PAGES)
"""What grows with the steps; checkpoints, the policy and the report do not."""


class Resident(Callback):
    """Writes the process's resident memory into the rows, without what has been freed and the allocator keeps (glibc).

    Args:
        every_n_steps: cadence in optimizer steps.
    """

    def __init__(self, every_n_steps: int = 100) -> None:
        self.every_n_steps = every_n_steps

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            gc.collect()
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            append_row(trainer, "resident", {"step": trainer.global_step, "bytes": resident_bytes()})


def run(trainer: str, steps: int, folder: Path) -> Path:
    """Train; returns the run's folder."""
    logs = folder / Path(trainer).stem
    run_experiment(
        [
            *("fit", "--config", "arithmetic_dpo", "--trainer", trainer, "--trainer.max_epochs=-1", f"--trainer.max_steps={steps}"),
            *("--trainer.callbacks+=bench.growth.Resident", "--trainer.enable_progress_bar=false"),
            *(f"--trainer.logger.save_dir={logs}", f"--model.cache_dir={folder / 'cache'}", "--data.batch_size=8"),
            *(
                "--model.policy=RandomPolicy",
                f"--model.policy.config={json.dumps(MODEL)}",
                "--data.tokenizer=assets/arithmetic/base",
            ),
        ]
    )
    return logs / "arithmetic_dpo/version_0"


def sizes(folder: Path) -> Counter[str]:
    """Bytes of the folder by kind of file."""
    found: Counter[str] = Counter()
    for path in (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        if ROWS in path.parts:
            found[PAGES if path.suffix == ".html" else JSON_ROWS] += path.stat().st_size
        else:
            found[EVENTS if path.name.startswith("events.out") else "other"] += path.stat().st_size
    return found


def line_of(trainer: str, folder: Path, steps: int) -> str:
    """A row of the table."""
    memory = {row["step"]: row["bytes"] / 2**20 for row in read_rows(folder, "resident")}
    at = sorted(memory)
    first = next(step for step in at if step >= steps / 10)
    megabytes = [sizes(folder)[kind] / 1e6 * 1000 / steps for kind in KINDS]
    cells = [f"{memory[first]:.0f}", f"{memory[at[-1]]:.0f}", *(f"{size:.2f}" for size in megabytes), f"{sum(megabytes):.2f}"]
    return f"| `{trainer}` | {steps} | {' | '.join(cells)} |"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--trainers", nargs="+", default=["configs/trainer/default.yaml", "configs/trainer/arithmetic_dpo.yaml"])
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    table = [
        f"| trainer | steps | MB in use at a tenth | at the end | {' | '.join(KINDS)} | all |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with TemporaryDirectory() as name:
        table += [line_of(trainer, run(trainer, asked.steps, Path(name)), asked.steps) for trainer in asked.trainers]
    command = shlex.join(["python", "-m", "bench.growth", *sys.argv[1:]])
    text = f"`{command}`: memory of the process that is in use, and MB that the run's folder grows in 1,000 steps.\n\n"
    write_lines(asked.out, "# Growth\n\n" + text, table)


if __name__ == "__main__":
    main()
