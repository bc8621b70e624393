"""`torch.compile` of a policy's decoder layers: one program for all layers and all batch lengths."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, PreTrainedModel

from lightning_modules.models.layers.attention import PACKED_ATTENTION, packed_attention
from lightning_modules.models.layers.fused_norms import write_norms_out

_COMPILERS = ("g++", "clang++", "c++")


@dataclass(frozen=True, eq=False)
class CompiledForward:
    """The forward of a decoder layer, compiled.

    Checkpoints are made around the compiled code. transformers makes them inside a layer, where the compiler would give up on the
    layer silently: a checkpointed function that it traces must not break its graph, and packed attention does.
    """

    layer: nn.Module
    compiled: Callable[..., Any]
    checkpoints: bool
    """Whether only the layer's input is kept in training, and the rest computed again in backward."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """What the layer's own forward gives."""
        if self.checkpoints and self.layer.training and torch.is_grad_enabled():
            # Nothing is random: policies have no dropout.
            return checkpoint(self.compiled, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
        return self.compiled(*args, **kwargs)


def compile_layers(model: PreTrainedModel, *, backend: Any = "inductor", checkpoints: bool = False) -> None:  # noqa: ANN401
    """Compile every decoder layer in place, for any number of tokens; parameters keep their names.

    Layers share what is compiled, at the first step (one to two minutes on a CPU); attention stays the packed call it is.

    Args:
        model: with decoder layers that transformers knows, which are not checkpointed by transformers.
        backend: of `torch.compile`.
        checkpoints: keep each layer's input alone in training, and compute the rest again in backward.

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
        # `forward` and not the call: hooks, such as those of FSDP2, stay outside and run once.
        compiled = torch.compile(layer.forward, dynamic=True, backend=backend)
        layer.forward = CompiledForward(layer, compiled, checkpoints)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Compiled layers run as they are written: for sampling, whose caches would be compiled again and again."""
    with torch.compiler.set_stance("force_eager"):
        yield
