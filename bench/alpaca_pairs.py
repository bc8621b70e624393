"""The AlpacaEval annotations as bench/alpaca_rm.py takes them: short answers, split by prompt, grouped by prompt and in pairs.

In the file each pair has one model's answer and `BASELINE`'s, so a prompt's answers fall in three classes: better than the
baseline's (score 1), the baseline's (0), worse (-1). Columns of a group: prompt, responses, scores; of a pair: prompt, chosen,
rejected.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.sources.readers import DataSource
from datamodules.sources.tokenization import load_tokenizer

RUNS = Path(__file__).parent.parent / "runs" / "alpaca"
BASELINE = "text_davinci_003"
FOLDS = 5
"""Parts of the prompts; one is held out."""
GROUP = 16
"""Answers of a training prompt in one row at the most; a prompt with more has several rows."""
TRAIN_PAIRS = 384
HELD_OUT_PAIRS = 64
"""Pairs that are read during training."""

Group = dict[str, int]
"""Answer -> its score; the baseline's is among them."""


@dataclass(frozen=True)
class Fold:
    """A part of the prompts, which is held out."""

    number: int
    """In [0, FOLDS)."""
    max_tokens: int = 96
    """Of a prompt, and of an answer; longer ones are left out of all folds."""

    @property
    def folder(self) -> Path:
        """Where its data and its runs are."""
        return RUNS / str(self.max_tokens) / f"fold{self.number}"


def all_folds(max_tokens: int) -> list[Fold]:
    """All of them."""
    return [Fold(number, max_tokens) for number in range(FOLDS)]


def write_folds(source: Path, model: str, max_tokens: int) -> None:
    """Write the data of the folds that have none."""
    for fold in all_folds(max_tokens):
        if not (fold.folder / "train_groups.jsonl").exists():
            write(source, model, fold)


def write(source: Path, model: str, fold: Fold, seed: int = 0) -> None:
    """Write `train_groups`, `held_out_groups`, `train_pairs` and `held_out_pairs` as JSONL into the fold's folder.

    Args:
        source: the file of annotations.
        model: whose tokenizer counts.
        fold: what is held out.
        seed: of the parts and of the pairs that are drawn.
    """
    groups = sorted(_short(_groups(source), model, fold.max_tokens).items())
    drawing = random.Random(seed)
    drawing.shuffle(groups)
    first, last = (round(part * len(groups) / FOLDS) for part in (fold.number, fold.number + 1))
    sides = {"held_out": groups[first:last], "train": groups[:first] + groups[last:]}
    _write(fold.folder / "held_out_groups.jsonl", (_row(prompt, group) for prompt, group in sides["held_out"]))
    _write(fold.folder / "train_groups.jsonl", (_row(prompt, part) for prompt, group in sides["train"] for part in _parts(group)))
    for side, number in (("train", TRAIN_PAIRS), ("held_out", HELD_OUT_PAIRS)):
        pairs = [pair for prompt, group in sides[side] for pair in _pairs(prompt, group)]
        _write(fold.folder / f"{side}_pairs.jsonl", drawing.sample(pairs, min(number, len(pairs))))


def _groups(source: Path) -> dict[str, Group]:
    """Prompt -> answers; of a text that two models wrote, the first one's score counts."""
    groups: dict[str, Group] = {}
    for row in DataSource(str(source)).rows():
        assert isinstance(row, Mapping), f"a broken row: {row}"
        lost = row["chosen_model"] == BASELINE
        baseline, other = (row["chosen"], row["rejected"]) if lost else (row["rejected"], row["chosen"])
        group = groups.setdefault(str(row["prompt"]), {str(baseline): 0})
        group.setdefault(str(other), -1 if lost else 1)
    return groups


def _short(groups: Mapping[str, Group], model: str, max_tokens: int) -> dict[str, Group]:
    """What is short enough, where the baseline's answer and another are left."""
    tokenizer = load_tokenizer(model)
    texts = list({text for prompt, group in groups.items() for text in (prompt, *group)})
    tokens = dict(zip(texts, map(len, tokenizer(texts)["input_ids"]), strict=True))
    short = {
        prompt: {text: score for text, score in group.items() if text.strip() and tokens[text] <= max_tokens}
        for prompt, group in groups.items()
        if tokens[prompt] <= max_tokens
    }
    return {prompt: group for prompt, group in short.items() if 0 in group.values() and len(group) > 1}


def _parts(group: Group) -> Iterator[Group]:
    others = [(text, score) for text, score in group.items() if score]
    baseline = {text: score for text, score in group.items() if not score}
    for first in range(0, len(others), GROUP - 1):
        yield baseline | dict(others[first : first + GROUP - 1])


def _row(prompt: str, group: Group) -> dict[str, Any]:
    return {"prompt": prompt, "responses": list(group), "scores": list(group.values())}


def _pairs(prompt: str, group: Group) -> Iterator[dict[str, Any]]:
    baseline = next(text for text, score in group.items() if not score)
    for text, score in group.items():
        if score:
            chosen, rejected = (text, baseline) if score > 0 else (baseline, text)
            yield {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
