"""The page of other kinds of problems: greedy answers of each policy to what nobody trained on, decoded once, kept in its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from callbacks.diagnostics.accuracy import examine
from datamodules.contracts.prompts import TaskPrompt
from datamodules.tasks.arithmetic.task import ArithmeticTask
from datamodules.tasks.base import TaskItem
from datamodules.text import encode_prompts
from datamodules.tokens.tokenization import load_tokenizer
from judges.arithmetic import ArithmeticJudge
from lightning_modules.models.specs import PretrainedPolicy
from run_folder.rows import ROWS, read_rows
from studies.pages import table
from studies.pages.rlhf import BASE, PARAMETERS
from studies.study import ROOT, Cell, Study
from studies.verdict.chores import ChoresTask

NAME = "other_kind"
"""Of the rows."""
NUM_PROBLEMS = 200


def write(study: Study) -> None:
    """Read what was not read yet, the base model first, then write the table."""
    asked = {name: encode_prompts(items, load_tokenizer(str(BASE))) for name, items in problems().items()}
    read(study.cells, asked)
    table.write(study)
    base = accuracies(BASE, asked)
    path = study.out / study.settings["file"]
    shown = ", ".join(f"{name.removeprefix(f'{NAME}/').replace('_', ' ')} {value:.3f}" for name, value in base.items())
    path.write_text(f"{path.read_text(encoding='utf-8')}\nBefore training: {shown}.\n", encoding="utf-8")


def problems() -> dict[str, Sequence[TaskItem]]:
    """Held-out problems behind a sentence that has nothing to do with them, and stories of another family."""
    held_out = ArithmeticTask(num_test=NUM_PROBLEMS).items("test")
    more = [replace(item, prompt=f"Ida has {7 + number % 20} pens. {item.prompt}") for number, item in enumerate(held_out)]
    # The line break at their end belongs to the second model's prompts.
    others = [replace(item, prompt=item.prompt.strip()) for item in ChoresTask(num_test=NUM_PROBLEMS).items("test")]
    return {"one_sentence_more": more, "other_stories": others}


def read(cells: Sequence[Cell], asked: Mapping[str, list[TaskPrompt]]) -> None:
    """Write the accuracies into the rows of the complete runs that have none."""
    for cell in cells:
        folder = ROOT / cell.folder
        if cell.is_complete and not read_rows(folder, NAME):
            row = {"step": read_rows(folder, "likelihood")[-1]["step"], **accuracies(folder / "policy", asked)}
            (folder / ROWS / f"{NAME}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")


def accuracies(policy: Path, asked: Mapping[str, list[TaskPrompt]]) -> dict[str, float]:
    """Share of each kind of problems whose final answer is right."""
    model, tokenizer = PretrainedPolicy(path=str(policy)).build().eval(), load_tokenizer(str(BASE))
    found = {name: examine(model, items, ArithmeticJudge(), tokenizer, PARAMETERS) for name, items in asked.items()}
    return {f"{NAME}/{name}": float(values["task/accuracy"].mean()) for name, values in found.items()}
