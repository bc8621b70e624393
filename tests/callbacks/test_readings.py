from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import distributed

from callbacks.readings import Counted, Readings


def test_means_weigh_by_count_over_updates_and_nothing_is_left_behind() -> None:
    readings = Readings()
    readings.update({"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([True, False])})
    readings.update({"a": torch.tensor([10.0]), "c": Counted(torch.tensor(6), torch.tensor(4))})
    assert readings.take().means == {"a": 4.0, "b": 0.5, "c": 1.5}
    assert readings.take().means == {}


def test_names_that_counted_nothing_are_left_out() -> None:
    readings = Readings(keeps=lambda name: True)
    readings.update({"a": torch.empty(0), "b": Counted(torch.tensor(0.0), torch.tensor(0)), "c": torch.tensor([2.0])})
    reading = readings.take()
    assert reading.means == {"c": 2.0}
    assert reading.quantiles() == {"c/p5": 2.0, "c/p50": 2.0, "c/p95": 2.0}


def test_quantiles_are_of_all_items_of_the_step() -> None:
    readings = Readings(keeps=lambda name: name == "a")
    values = torch.arange(40, dtype=torch.float32).square()
    for part in torch.split(values, [3, 30, 7]):
        readings.update({"a": part, "b": part})
    quantiles = readings.take().quantiles()
    expected = np.quantile(values.numpy(), [0.05, 0.5, 0.95])
    assert list(quantiles) == ["a/p5", "a/p50", "a/p95"]
    np.testing.assert_allclose(list(quantiles.values()), expected, rtol=1e-12)


def test_ranks_are_merged_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Readings(keeps=lambda name: name == "a")
    other.update({"a": torch.tensor([5.0]), "only there": torch.tensor([7.0])})
    there = other._to_host()

    def gather(shares: list[object], own: object) -> None:
        shares[:] = [own, there]

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_gather_object", gather)
    here = Readings(keeps=lambda name: name == "a")
    here.update({"a": torch.tensor([1.0, 2.0, 4.0])})
    reading = here.take()
    assert reading.means == {"a": 3.0, "only there": 7.0}
    assert reading.kept["a"].tolist() == [1.0, 2.0, 4.0, 5.0]


def test_small_values_do_not_drown_in_large_sums() -> None:
    readings = Readings()
    readings.update({"a": torch.tensor([2.0**30])})
    for _ in range(64):
        readings.update({"a": torch.tensor([1.0])})
    # float32 would lose every one of the additions.
    assert readings.take().means["a"] == (2.0**30 + 64) / 65
