"""`torch.compile` of a policy's decoder layers: one program for all layers and all batch lengths."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import AttentionInterface, PreTrainedModel

from lightning_modules.models.attention import PACKED_ATTENTION, packed_attention
from lightning_modules.models.fused_norms import write_norms_out

_COMPILERS = ("g++", "clang++", "c++")


def compile_layers(model: PreTrainedModel, *, backend: str = "inductor") -> None:
    """Compile every decoder layer in place, for any number of tokens; parameters keep their names.

    Layers share what is compiled, at the first step (one to two minutes on a CPU); attention stays the packed call it is.

    Args:
        model: with decoder layers that transformers knows.
        backend: of `torch.compile`.

    Raises:
        ValueError: if the model's layers are not known, or nothing can compile C++.
    """
    layers = [module for module in model.modules() if type(module).__name__ in (model._no_split_modules or ())]
    if not layers:
        raise ValueError(f"expected {type(model).__name__} to name its decoder layers, it names none. Use `compile: false`.")
    if backend == "inductor" and not os.environ.get("CXX") and not any(map(shutil.which, _COMPILERS)):
        raise ValueError(f"expected a C++ compiler for torch.compile, found none of {', '.join(_COMPILERS)}. Use `compile: false`.")
    # Its loop over segments depends on their lengths: traced, every batch would be a program of its own.
    AttentionInterface.register(PACKED_ATTENTION, torch.compiler.disable(packed_attention))
    write_norms_out(model)
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Compiled layers run as they are written: for sampling, whose caches would be compiled again and again."""
    with torch.compiler.set_stance("force_eager"):
        yield
