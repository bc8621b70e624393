"""Makes pairs that differ by one slip of the pen, in the task's own stories and in stories that no model here has seen.

Chosen is a worked solution in sentences, rejected the same with another last result: nothing but the arithmetic tells them apart.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from datamodules.tasks.arithmetic.problems import Problem, generate
from datamodules.tasks.arithmetic.templates import TEMPLATES, Step, Template
from studies.study import ROOT, Study

OTHER_STORIES = (
    Template(
        "bus",
        "A bus has {a} people. Then {b} get off and {c} get on. How many are in it?",
        Step("a", "-", "b", "The bus keeps {equation}."),
        Step("r", "+", "c", "Now it has {equation}."),
        {"a": (10, 40), "b": (2, 20), "c": (2, 20)},
    ),
    Template(
        "market",
        "{name} sells {a} {things} on day one, {b} on day two and {c} on day three. How many together?",
        Step("a", "+", "b", "Two days make {equation}."),
        Step("r", "+", "c", "Three days make {equation}."),
        {"a": (3, 20), "b": (3, 15), "c": (2, 14)},
    ),
    Template(
        "eaten",
        "{b} friends split {a} {things}, then each eats {c}. How many are left to each?",
        Step("a", "/", "b", "The split gives {equation}."),
        Step("r", "-", "c", "Each keeps {equation}."),
        {"a": (12, 50), "b": (2, 9), "c": (2, 15)},
    ),
    Template(
        "trays",
        "{a} {things} lie on {b} trays. How many lie on {c} trays?",
        Step("a", "/", "b", "One tray has {equation}."),
        Step("r", "*", "c", "They have {equation}."),
        {"a": (6, 50), "b": (2, 9), "c": (2, 9)},
    ),
)
"""Two steps each, in pairs of operations that none of the task's stories has."""

NUM_PAIRS = 96

SLIPS = (-10, -2, -1, 1, 2, 10)
"""Errors added to the last result. The policy's own slips are of a tens digit or of one or two ones."""

_END = re.compile(r"= (?P<result>\d+)\.\n#### (?P=result)$")


def slipped(solution: str, by: int) -> str:
    """The solution with another last result, in its equation and as its answer."""
    return _END.sub(lambda end: f"= {int(end['result']) + by}.\n#### {int(end['result']) + by}", solution)


def slip_pairs(problems: Sequence[Problem], seed: int = 0) -> Iterator[dict[str, str]]:
    """`{prompt, chosen, rejected}` of each problem."""
    rng = random.Random(seed)
    for problem in problems:
        result = int(problem.worded.rsplit(" ", 1)[1])
        yield {
            "prompt": problem.prompt,
            "chosen": problem.worded,
            "rejected": slipped(problem.worded, rng.choice([by for by in SLIPS if result + by > 0])),
        }


def prepare(study: Study) -> None:
    """Write both files into the folder of a study's runs."""
    write(ROOT / study.runs, NUM_PAIRS)


def write(folder: Path, count: int) -> dict[str, Path]:
    """`<folder>/<name>.jsonl` with `count` pairs on problems that were never trained on: `slips`, and `other_stories`."""
    folder.mkdir(parents=True, exist_ok=True)
    stories: dict[str, Sequence[Template]] = {"slips": TEMPLATES, "other_stories": OTHER_STORIES}
    files = {name: folder / f"{name}.jsonl" for name in stories}
    for name, templates in stories.items():
        rows = slip_pairs(list(generate("test", count, 0, templates)))
        files[name].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return files
