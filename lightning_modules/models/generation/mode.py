"""Put a model into the state it is sampled in, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel


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
