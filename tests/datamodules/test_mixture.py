from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from datamodules.formats.columns import PairColumns
from datamodules.formats.dialogues import HHDialogues
from datamodules.mixture import MixtureDataModule, MixturePart, mixture_counts
from datamodules.sources.readers import DataSource


def test_counts_are_shares_that_sum_to_the_total() -> None:
    sizes = {"a": 100, "b": 50, "c": 1000}
    assert mixture_counts(sizes, {"a": 2, "b": 1, "c": 1}, 40) == {"a": 20, "b": 10, "c": 10}
    assert mixture_counts(sizes, {"a": 1, "b": 1, "c": 1}, 100) == {"a": 34, "b": 33, "c": 33}
    # b has 50 for its fifth: 250 in all.
    assert mixture_counts(sizes, {"a": 0.3, "b": 0.2, "c": 0.5}, None) == {"a": 75, "b": 50, "c": 125}
    with pytest.raises(ValueError, match="at least 100 examples from b, got 50"):
        mixture_counts(sizes, {"a": 1, "b": 1, "c": 2}, 400)
    with pytest.raises(ValueError, match="weights > 0"):
        mixture_counts(sizes, {"a": 1, "b": 0, "c": 1}, 10)


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, MixturePart]:
    """HH dialogues, AlpacaEval-style columns, and UltraFeedback's conversations with scores."""
    dialogue = "\n\nHuman: hh {}\n\nAssistant: "
    turns = [{"role": "user", "content": "uf {}"}, {"role": "assistant", "content": "{}"}]

    def conversation(number: int, reply: str) -> list[dict[str, str]]:
        return [{**turns[0], "content": f"uf {number}"}, {**turns[1], "content": reply}]

    rows: dict[str, list[dict[str, Any]]] = {
        "hh": [{"chosen": dialogue.format(n) + "yes", "rejected": dialogue.format(n) + "no"} for n in range(40)],
        "alpaca": [{"prompt": f"al {n}", "chosen": "yes", "rejected": "no"} for n in range(30)],
        "ultra": [
            {"chosen": conversation(n, "yes"), "rejected": conversation(n, "no"), "score_chosen": 8.5, "score_rejected": 3.0}
            for n in range(20)
        ],
    }
    for name, content in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    formats = {
        "hh": HHDialogues(),
        "alpaca": PairColumns(as_chat=True),
        "ultra": PairColumns(prompt=None, chosen_score="score_chosen", rejected_score="score_rejected"),
    }
    weights = {"hh": 1.0, "alpaca": 2.0, "ultra": 1.0}
    return {name: MixturePart(DataSource(str(tmp_path / f"{name}.jsonl")), formats[name], weights[name]) for name in rows}


def _names(data: MixtureDataModule, split: str) -> Counter[str]:
    return Counter(example.source for example in data.dataset(split).examples)


def test_a_mixture_has_its_shares_and_knows_where_its_rows_come_from(
    parts: dict[str, MixturePart], tmp_path: Path, tokenizer_folder: Path
) -> None:
    def build(seed: int) -> MixtureDataModule:
        data = MixtureDataModule(
            str(tokenizer_folder),
            parts,
            num_examples=24,
            val_fraction=0.2,
            cache_dir=str(tmp_path / "cache"),
            seed=seed,
            batch_size=8,
        )
        data.setup("fit")
        return data

    data = build(0)
    assert _names(data, "train") == {"hh": 6, "alpaca": 12, "ultra": 6}
    # A fifth of each source, whatever its weight.
    assert _names(data, "val") == {"hh": 8, "alpaca": 6, "ultra": 4}
    rows = {split: {(example.source, example.row_number) for example in data.dataset(split).examples} for split in ("train", "val")}
    assert rows["train"].isdisjoint(rows["val"])
    texts = {data.tokenizer.decode(example.prompt_ids) for example in data.dataset("train").examples}
    assert len(texts) == 24
    batch = next(iter(data.train_dataloader()))
    assert len(batch.sources) == batch.num_sequences
    assert set(batch.sources) <= set(parts)
    ultra = [example for example in data.dataset("train").examples if example.source == "ultra"]
    # A row number is the row of the source's own file.
    assert {example.row_number for example in ultra} <= set(range(20))
    assert [completion.score for completion in ultra[0].completions] == [8.5, 3.0]
    drawn = [[example.row_number for example in build(seed).dataset("train").examples] for seed in (0, 1)]
    assert drawn[0] == [example.row_number for example in data.dataset("train").examples] != drawn[1]
