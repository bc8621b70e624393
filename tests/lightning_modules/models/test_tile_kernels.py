"""The fused passes over a tile give what those written out give: as they stand, compiled, and on a GPU."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch

from lightning_modules.models.heads import tile_kernels
from lightning_modules.models.heads.tile_kernels import (
    WRITTEN,
    TileKernels,
    failure,
    fused,
    fusible_gradient,
    fusible_update,
    kernels_for,
)

FUSIBLE = TileKernels("fusible", fusible_update, fusible_gradient, needs_scratch=False)
COMPILER_WARNINGS = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def test_what_is_fused_gives_what_is_written_out() -> None:
    assert failure(FUSIBLE, "cpu") is None
    assert failure(WRITTEN, "cpu") is None


@pytest.mark.parametrize(
    "wrong", [{"update": lambda *a: fusible_update(-a[0], *a[1:])}, {"gradient": lambda *a: -fusible_gradient(*a)}]
)
def test_the_self_test_notices_wrong_numbers(wrong: dict[str, Any]) -> None:
    assert "relative error" in (failure(replace(FUSIBLE, **wrong), "cpu") or "")


def test_the_self_test_notices_nan_and_a_compiler_that_fails() -> None:
    def broken(*_: object) -> tuple[torch.Tensor, ...]:
        raise RuntimeError("no ptxas\nand more")

    assert failure(replace(FUSIBLE, gradient=lambda *a: fusible_gradient(*a) * torch.nan), "cpu") is not None
    assert failure(replace(FUSIBLE, update=broken), "cpu") == "they failed their self-test (RuntimeError: no ptxas)"


def test_a_cpu_takes_what_is_written_out() -> None:
    assert kernels_for("cpu") is WRITTEN


def test_a_gpu_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    kernels_for.cache_clear()
    monkeypatch.setattr(tile_kernels, "find_spec", lambda _: object())
    monkeypatch.setattr(tile_kernels, "fused", lambda: FUSIBLE)
    monkeypatch.setattr(tile_kernels, "failure", lambda *_: "they are slow today")
    with caplog.at_level(logging.WARNING):
        assert kernels_for("cuda") is WRITTEN
    assert "without fused kernels: they are slow today" in caplog.text
    kernels_for.cache_clear()
    monkeypatch.setattr(tile_kernels, "failure", lambda *_: None)
    assert kernels_for("cuda") is FUSIBLE
    kernels_for.cache_clear()


@pytest.mark.slow
@COMPILER_WARNINGS
def test_compiled_for_the_cpu_they_give_the_same() -> None:
    assert failure(fused(), "cpu") is None


@pytest.mark.gpu
@COMPILER_WARNINGS
def test_a_gpu_takes_the_fused_ones() -> None:
    assert kernels_for("cuda") is fused()
