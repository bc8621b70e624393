"""Chooses a model's decoder: the first whose next-token distributions equal those of whole passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_modules.models.attention_backends.selection import BackendSelector
from lightning_modules.models.generation.decoders.cached_decoder import CachedDecoder
from lightning_modules.models.generation.decoders.decoder import Decoder
from lightning_modules.models.generation.decoders.packed_decoder import PackedDecoder
from lightning_modules.models.generation.decoders.uncached_decoder import UncachedDecoder

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.2}
"""Mean absolute difference of log-probs (nats) that rounding may make, as in `layout_check`."""

_COPIES = (2, 1)
_KEPT = (0, 2)
"""Rows that stay after the first step."""


def body_of(model: PreTrainedModel) -> nn.Module:
    """The layers below the head.

    Raises:
        ValueError: if they cannot be had without it.
    """
    head = model.get_output_embeddings()
    for body in (model.get_decoder(), model.base_model):
        if isinstance(body, PreTrainedModel) and not any(module is head for module in body.modules()):
            below: nn.Module = body
            return below
    raise ValueError(f"expected a causal LM whose layers run without its head, got {type(model).__name__}. It cannot be a policy.")


def decoders_of(model: PreTrainedModel, selector: BackendSelector | None, attention: str) -> list[Decoder[Any]]:
    """Ways to decode a model, the fastest first; the last one needs no cache and is right for every model.

    Args:
        model: with a `ScoringHead`.
        selector: the choice of attention backend of a packed policy; None of a padded one.
        attention: name of the attention the model came with.
    """
    body = body_of(model)
    packed = [] if selector is None else [PackedDecoder(model, body, selector)]
    return [*packed, CachedDecoder(model, body, attention), UncachedDecoder(model, body, attention)]


@torch.no_grad()
def first_right(model: PreTrainedModel, decoders: Sequence[Decoder[Any]]) -> int:
    """Number of the first decoder that agrees with the last one on a made-up draw of three tokens."""
    weight = next(model.parameters())
    *faster, whole = decoders
    # In the type of the weights: autocast's rounding would hide what is looked for.
    with torch.autocast(weight.device.type, enabled=False):
        for number, decoder in enumerate(faster):
            if _agree(decoder, whole, weight.dtype):
                return number
    rank_zero_info(
        f"{type(model).__name__} is sampled without a cache, because its own gives other log-probs than whole sequences do: every "
        "token costs a pass over prompt and answer. Sample less (max_new_tokens, num_samples, cadences), or leave out callbacks "
        "that sample."
    )
    return len(faster)


def _agree(decoder: Decoder[Any], whole: Decoder[Any], dtype: torch.dtype) -> bool:
    try:
        found = _log_probs(decoder)
    except torch.OutOfMemoryError:
        raise
    # Whatever a model's code says when it is asked for a cache that it has not.
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False
    return bool((found - _log_probs(whole)).abs().mean() <= TOLERANCE[dtype])


def _log_probs(decoder: Decoder[Any]) -> Tensor:
    """`[rows of three steps, V]`: rows of two prompts, one of them leaving on the way."""
    with decoder.mode():
        cohort, hidden = decoder.start([(1, 2, 0, 1, 2), (2, 1, 1, 0, 2)], _COPIES, 3)
        tokens = torch.tensor([0, 1, 2], device=hidden.device)
        logits = [decoder.logits(hidden), decoder.logits(decoder.advance([cohort], tokens))]
        cohort.keep(_KEPT)
        logits.append(decoder.logits(decoder.advance([cohort], tokens[:2].flip(0))))
    return torch.cat(logits).log_softmax(-1)
