from __future__ import annotations

import pytest
import torch

from lightning_modules.steps.means import CountedMeans


def test_weighs_by_count_over_updates() -> None:
    means = CountedMeans()
    means.update({"a": torch.tensor([1.0, 2.0, 3.0])})
    means.update({"a": torch.tensor([10.0]), "b": torch.tensor([True, False])})
    assert means.compute() == {"a": 4.0, "b": 0.5}


def test_an_empty_value_weighs_nothing_and_a_name_without_values_is_left_out() -> None:
    means = CountedMeans()
    means.update({"a": torch.empty(0), "b": torch.tensor([2.0])})
    assert means.compute() == {"b": 2.0}


def test_reset_forgets() -> None:
    means = CountedMeans()
    means.update({"a": torch.tensor([1.0])})
    means.reset()
    assert means.compute() == {}


@pytest.mark.parametrize(("keep", "expected"), [(True, {"a": 2.5}), (False, {"a": 5.0})])
def test_state_continues_in_the_middle(keep: bool, expected: dict[str, float]) -> None:
    before = CountedMeans()
    before.update({"a": torch.tensor([0.0])})
    after = CountedMeans()
    after.load_state_dict(before.state_dict(), device="cpu", keep=keep)
    after.update({"a": torch.tensor([5.0])})
    assert after.compute() == expected


def test_small_values_do_not_drown_in_large_sums() -> None:
    means = CountedMeans()
    means.update({"a": torch.tensor([2.0**30])})
    for _ in range(64):
        means.update({"a": torch.tensor([1.0])})
    # float32 would lose every one of the additions.
    assert means.compute()["a"] == (2.0**30 + 64) / 65
