"""The page of PPO beside DPO: the accuracy of every policy on problems that no choice was made on, then the tables.

The runs' own readings are of the first 500 held-out problems, which the recipe of PPO was chosen on. These are the next ones of the
same generator. They are decoded once for a run, and stand in its rows as `fresh/accuracy`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from callbacks.diagnostics.accuracy import examine
from datamodules.contracts.prompts import Sampling, TaskPrompt
from datamodules.tasks.arithmetic.task import ArithmeticTask
from datamodules.text import encode_prompts
from datamodules.tokens.tokenization import load_tokenizer
from judges.arithmetic import ArithmeticJudge
from lightning_modules.models.specs import PretrainedPolicy
from run_folder.rows import ROWS, read_rows
from studies.pages import table
from studies.study import ROOT, Cell, Study

BASE = ROOT / "assets" / "arithmetic" / "base"
SEEN = NUM_PROBLEMS = 500
PARAMETERS = Sampling(max_new_tokens=80, temperature=0.0)


def write(study: Study) -> None:
    """Read what was not read yet, then write the tables and the figure."""
    read_fresh(study.cells)
    table.write(study)


def read_fresh(cells: Sequence[Cell]) -> None:
    """Write the accuracy on fresh problems into the rows of the complete runs that have none."""
    asked = problems()
    for cell in cells:
        folder = ROOT / cell.folder
        if cell.is_complete and not read_rows(folder, "fresh"):
            row = {"step": read_rows(folder, "likelihood")[-1]["step"], "fresh/accuracy": accuracy(folder / "policy", asked)}
            (folder / ROWS / "fresh.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")


def problems() -> list[TaskPrompt]:
    """What no run has decoded."""
    items = islice(ArithmeticTask(num_test=SEEN + NUM_PROBLEMS).items("test"), SEEN, None)
    return encode_prompts(list(items), load_tokenizer(str(BASE)))


def accuracy(policy: Path, asked: list[TaskPrompt]) -> float:
    """Share of the problems whose final answer is right."""
    model, tokenizer = PretrainedPolicy(path=str(policy)).build().eval(), load_tokenizer(str(BASE))
    values = examine(model, asked, ArithmeticJudge(), tokenizer, PARAMETERS)
    return float(values["task/accuracy"].mean())
