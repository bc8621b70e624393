"""Single labelled completions: rows of one, and pairs taken apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lightning_modules.losses.completions as losses
from datamodules.contracts.batches import Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.formats.columns import PairColumns, RowFormat
from datamodules.formats.unpaired import LabelledRows
from datamodules.sources.readers import DataSource
from datamodules.unpaired import MISMATCHED, UnpairedDataModule, with_mismatched
from tests.tiny import write_tokenizer

KTO: list[dict[str, object]] = [
    {"prompt": "w1 w2", "completion": " w5 w15 w16 w17", "label": True},
    {"prompt": "w1 w3", "completion": " w6 w7 w8", "label": False},
    {"prompt": "w2 w2 w4", "completion": " w9 w18 w19 w20", "label": "true"},
    {"prompt": "w2 w2 w4", "completion": " w10 w11", "label": 0},
]
PAIRS: list[dict[str, object]] = [
    {"prompt": "w1 w2", "chosen": " w5", "rejected": " w12"},
    {"prompt": "w1 w3", "chosen": " w12", "rejected": " w13 w14"},
]


def module(folder: Path, rows: list[dict[str, object]], format: RowFormat, **options: bool) -> UnpairedDataModule:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = UnpairedDataModule(
        tokenizer=str(write_tokenizer(folder / "tokenizer")),
        train=DataSource(str(path)),
        format=format,
        val_fraction=0.0,
        cache_dir=str(folder / "cache"),
        batch_size=2,
        num_probe_prompts=4,
        **options,
    )
    data.setup("fit")
    return data


def test_the_constant_is_that_of_the_loss() -> None:
    assert losses.MISMATCHED == MISMATCHED


def test_labelled_rows_are_good_or_bad_and_have_another_prompts_completion(tmp_path: Path) -> None:
    examples = list(module(tmp_path, KTO, LabelledRows()).dataset("train").examples)
    assert [example.completions[0].kind for example in examples] == ["chosen", "rejected", "chosen", "rejected"]
    by_prompt: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    for example in examples:
        by_prompt.setdefault(example.prompt_ids, set()).add(example.completions[0].token_ids)
    for example in examples:
        _, stray = example.completions
        assert (stray.role, stray.kind) == (Role.PROBE, MISMATCHED)
        assert stray.token_ids not in by_prompt[example.prompt_ids]
        others = {ids for prompt, known in by_prompt.items() if prompt != example.prompt_ids for ids in known}
        assert any(other[: len(stray.token_ids)] == stray.token_ids for other in others)


def test_pairs_are_taken_apart(tmp_path: Path) -> None:
    data = module(tmp_path, PAIRS, PairColumns(), mismatched=False)
    examples = list(data.dataset("train").examples)
    assert [[c.kind for c in example.completions] for example in examples] == [["chosen"], ["rejected"]] * 2
    assert [example.row_number for example in examples] == [0, 0, 1, 1]
    # The bank is of the pairs: whether both sides fall is seen there.
    assert sum(len(batch.pairs) for batch in data.probe_batches()) == 2


def test_the_bank_of_labelled_rows_has_good_and_bad_ones(tmp_path: Path) -> None:
    kinds = [kind for batch in module(tmp_path, KTO, LabelledRows()).probe_batches() for kind in batch.kinds]
    assert (kinds.count("chosen"), kinds.count("rejected"), kinds.count("permuted")) == (2, 2, 2)
    assert MISMATCHED not in kinds


def test_what_is_drawn_does_not_depend_on_the_batches(tmp_path: Path) -> None:
    first, again = (list(module(tmp_path, KTO, LabelledRows()).dataset("train").examples) for _ in range(2))
    assert first == again


def test_a_stray_is_cut_to_what_fits() -> None:
    short = Example((1,), (TokenizedCompletion((2, 3, 4, 5), Role.CHOSEN, "chosen"),))
    long = Example((1, 2, 3, 4), (TokenizedCompletion((6,), Role.REJECTED, "rejected"),))
    strays = [example.completions[1].token_ids for example in with_mismatched([short, long], 0)]
    assert strays == [(6,), (2,)]


def test_one_prompt_has_nothing_to_exchange() -> None:
    example = Example((1,), (TokenizedCompletion((2,), Role.CHOSEN, "chosen"),))
    with pytest.raises(ValueError, match="expected rows with at least two prompts"):
        with_mismatched([example, example], 0)
