"""Puts a model into the state for sampling, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from lightning_modules.models.generation.half_weights import half_weights


@contextmanager
def decoding_mode(model: PreTrainedModel, attention: str) -> Iterator[None]:
    """Evaluation mode with the attention of that name; each module's mode and the attention are put back, also after an error."""
    before = model.config._attn_implementation
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        model.set_attn_implementation(attention)
        yield
    finally:
        model.set_attn_implementation(before)
        for module, training in modes.items():
            module.training = training


@contextmanager
def sampling_mode(model: PreTrainedModel, attention: str) -> Iterator[None]:
    """`decoding_mode`, with what saves time over many tokens."""
    # Not cuDNN's: it makes a plan for every new length, which is every token.
    kernels = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with decoding_mode(model, attention), half_weights(model), sdpa_kernel(kernels):
        yield
