"""A batch goes to an accelerator in one copy, and arrives as it left."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.one_copy import ALIGNMENT, copy_to
from datamodules.contracts.packing import pack
from tests.lightning_modules.stubs import make_pairs


class Copies(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


def tensors_of(batch: CompletionBatch) -> dict[str, Tensor]:
    return {f.name: value for f in fields(batch) if isinstance(value := getattr(batch, f.name), Tensor)}


def test_a_batch_of_many_tensors_is_one_copy() -> None:
    batch = pack(make_pairs(3))
    with Copies() as copies:
        moved = batch.to("meta")
    assert copies.count == 1
    assert len(tensors_of(batch)) > 12
    for name, tensor in tensors_of(moved).items():
        assert (tensor.device.type, tensor.dtype, tensor.shape) == (
            "meta",
            *(lambda t: (t.dtype, t.shape))(tensors_of(batch)[name]),
        )
    assert batch.to("cpu").input_ids is batch.input_ids, "what is there already is not copied"


def test_values_types_shapes_and_alignment_arrive() -> None:
    tensors = {
        "odd": torch.arange(5, dtype=torch.int32),
        "none": torch.empty(0, 2, dtype=torch.int64),
        "floats": torch.randn(3, generator=torch.Generator().manual_seed(0)),
        "flags": torch.tensor([True, False, True]),
        "pairs": torch.arange(6).view(3, 2),
        "number": torch.tensor(7.0, dtype=torch.float64),
    }
    there = copy_to(tensors, torch.device("cpu"))
    for name, tensor in tensors.items():
        torch.testing.assert_close(there[name], tensor, rtol=0, atol=0)
        assert there[name].numel() == 0 or there[name].storage_offset() * tensor.element_size() % ALIGNMENT == 0


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    batch = pack(make_pairs(5))
    moved = batch.to("cuda").to("cpu")
    for name, tensor in tensors_of(batch).items():
        torch.testing.assert_close(tensors_of(moved)[name], tensor, rtol=0, atol=0)
