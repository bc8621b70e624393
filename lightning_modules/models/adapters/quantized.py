"""Weights in four bits (NF4, QLoRA: arXiv 2305.14314) under adapters, through bitsandbytes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

_PACKS = "support_avx512bf16_for_cpu"
"""Attribute of its layers."""


def four_bits(dtype: torch.dtype) -> BitsAndBytesConfig:
    """How transformers loads linear layers in NF4, with the blocks' scales quantized too: about 4.1 bits a weight.

    Args:
        dtype: that products are computed in, and that all other weights have.

    Raises:
        ValueError: if bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            "expected the package bitsandbytes for load_in_4bit, got none. Install it (pip install bitsandbytes), or set "
            "load_in_4bit: false: bfloat16 weights (dtype: bfloat16) under adapters take four times the memory."
        )
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def keep_gradients(model: nn.Module) -> None:
    """Keep bitsandbytes from a layout of weights that it turns to at an evaluation on some CPUs, and that has no gradient."""
    for module in model.modules():
        if hasattr(module, _PACKS):
            setattr(module, _PACKS, False)


def is_quantized(model: nn.Module) -> bool:
    """Whether any weight is in four bits."""
    return any(_state_of(parameter) is not None for parameter in model.parameters())


def dequantized(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """A state with every weight as a plain tensor, and without what describes four-bit ones.

    Args:
        state: with the parameters themselves (`keep_vars`).
        dtype: of the weights that were in four bits.
    """
    described = {name for name, value in state.items() if _state_of(value) is not None}
    plain: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in described:
            from bitsandbytes.functional import dequantize_4bit

            plain[name] = dequantize_4bit(value.detach(), _state_of(value)).to(dtype)
        elif described_by(name) not in described:
            plain[name] = value.detach()
    return plain


def described_by(name: str) -> str:
    """The weight that an entry of a state describes (`x.weight` of `x.weight.absmax`); the name itself otherwise."""
    before, found, _ = name.partition(".weight.")
    return f"{before}.weight" if found else name


def _state_of(value: Tensor) -> object | None:
    return getattr(value, "quant_state", None)
