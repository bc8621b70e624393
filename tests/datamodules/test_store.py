from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from datamodules.contracts.batches import Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.loading.lengths import Ints
from datamodules.sources.prompt_split import count_shared_prompts, split_by_prompt
from datamodules.sources.store import ExampleStore


def make_examples() -> list[Example]:
    return [
        Example(
            (5, 6, 7),
            (TokenizedCompletion((8, 9), Role.CHOSEN, "chosen", 0.5), TokenizedCompletion((1,), Role.REJECTED, "rejected")),
            4,
        ),
        Example((2,), (TokenizedCompletion((3, 4, 3), Role.CHOSEN, "chosen"),), 0),
        Example((5, 6, 7), (TokenizedCompletion((0,), Role.PROBE, "leftover", -2.0),)),
    ]


def test_a_store_gives_back_what_was_put_in(tmp_path: Path) -> None:
    examples = make_examples()
    store = ExampleStore.of(examples)
    assert list(store) == examples
    store.save(tmp_path)
    loaded = ExampleStore.load(tmp_path)
    assert list(loaded) == examples
    assert loaded.fingerprint() == store.fingerprint()
    assert ExampleStore.of(loaded) is loaded


def test_lengths_and_prompt_keys_by_hand() -> None:
    store = ExampleStore.of(make_examples())
    assert store.lengths().rows.tolist() == [6, 4, 4]
    assert store.lengths().targets.tolist() == [3, 3, 1]
    first, second, third, *_ = store.prompt_keys()
    tokens = np.array([5, 6, 7], dtype=np.int32).tobytes()
    assert first == third == hashlib.blake2b(tokens, digest_size=16).digest() != second


def test_a_selection_is_a_store_of_its_own() -> None:
    examples = make_examples()
    selected = ExampleStore.of(examples).select([2, 0])
    assert list(selected) == [examples[2], examples[0]]
    assert selected.lengths().rows.tolist() == [4, 6]
    assert list(selected.select([1])) == [examples[0]]
    assert list(selected[1:]) == [examples[0]]
    first, second, *_ = selected.prompt_keys()
    assert first == second
    assert selected.fingerprint() == ExampleStore.of([examples[2], examples[0]]).fingerprint()


def test_fingerprint_sees_tokens_cuts_and_order() -> None:
    def pair(prompt: tuple[int, ...], chosen: tuple[int, ...]) -> Example:
        return Example(prompt, (TokenizedCompletion(chosen, Role.CHOSEN, "chosen"),))

    stores = [
        [pair((1, 2), (3,)), pair((4,), (5,))],
        [pair((1,), (2, 3)), pair((4,), (5,))],
        [pair((4,), (5,)), pair((1, 2), (3,))],
        [pair((1, 2), (3,)), pair((4,), (6,))],
    ]
    assert len({ExampleStore.of(examples).fingerprint() for examples in stores}) == 4


def test_an_index_past_the_end_is_an_error() -> None:
    with pytest.raises(IndexError):
        ExampleStore.of(make_examples())[3]


def test_splitting_and_comparing_gather_the_offsets_a_few_times_however_many_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once an example made the set-up of 200,000 pairs take minutes."""
    store = ExampleStore.of(
        Example((1 + i % 150, 7), (TokenizedCompletion((i + 1,), Role.CHOSEN, "chosen"),), i) for i in range(400)
    )
    calls: list[ExampleStore] = []
    segments = ExampleStore._segments

    def counted(self: ExampleStore) -> tuple[Ints, Ints]:
        calls.append(self)
        return segments(self)

    monkeypatch.setattr(ExampleStore, "_segments", counted)
    kept, held_out = split_by_prompt(store, 0.25, seed=3)
    shared = count_shared_prompts(store.select(held_out), store.select([*kept[:-50], 0, held_out[0]]))
    store.fingerprint()
    assert len(calls) <= 4
    prompts = [example.prompt_ids for example in store]
    assert sorted([*kept, *held_out]) == list(range(400))
    assert {prompts[i] for i in kept}.isdisjoint(prompts[i] for i in held_out)
    assert 100 <= len(held_out) < 103
    others = {prompts[i] for i in [*kept[:-50], 0, held_out[0]]}
    assert shared == sum(prompts[i] in others for i in held_out) > 0
