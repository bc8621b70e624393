"""The attention function transformers calls in the packed layout, and the dispatch to a backend."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from lightning_modules.models.attention_backends.base import AttentionCase
from lightning_modules.models.attention_backends.selection import BackendSelector
from lightning_modules.models.layers.segments import PackedSegments

PACKED_ATTENTION = "prefscope_packed"
"""Name under which transformers finds `packed_attention`."""


@dataclass(frozen=True, eq=False)
class PackedCall:
    """What reaches every layer's attention as the keyword `packed`: the batch's segments and the policy's backend choice."""

    segments: PackedSegments
    selector: BackendSelector


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: PackedCall | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    position_bias: Tensor | None = None,
    s_aux: Tensor | None = None,
    **_ignored: object,
) -> tuple[Tensor, None]:
    """Attention over packed rows, with transformers' calling convention.

    Args:
        module: the layer.
        query: `[1, Hq, N, D]`.
        key: `[1, Hk, N, D]`.
        value: `[1, Hk, N, D]`.
        attention_mask: must be None, as segments say who sees whom.
        packed: segments and backend choice, handed through the model by `CausalLMPolicy`.
        scaling: factor on the scores, 1 / sqrt(D) by default.
        dropout: must be 0.
        softcap: soft-cap of the scores, if the model has one.
        sliding_window: number of keys a query may see; must cover the longest segment.
        position_bias: must be None (relative biases are not packed).
        s_aux: must be None (attention sinks are not packed).

    Returns:
        `[1, N, Hq, D]`, and None for the weights, which are never formed.

    Raises:
        ValueError: if the call needs something the packed layout does not have.
    """
    if packed is None or attention_mask is not None or position_bias is not None or s_aux is not None:
        raise ValueError(
            f"expected {type(module).__name__} to hand on its segments and no mask, position bias or attention sink, got "
            f"packed={packed is not None}, mask={attention_mask is not None}, position_bias={position_bias is not None}, "
            f"s_aux={s_aux is not None}. Use `layout: padded` for this model."
        )
    if dropout:
        raise ValueError(f"expected attention without dropout, got {dropout}. A policy is built with every dropout at 0.")
    segments = packed.segments
    if sliding_window is not None and sliding_window < segments.max_key_length:
        raise ValueError(
            f"expected a sliding window of at least {segments.max_key_length} tokens (prompt plus completion), got "
            f"{sliding_window}. Use `layout: padded` for this model, or shorten the sequences."
        )
    query, key, value = in_compute_type(query, key, value)
    backend = packed.selector.choose(_case(query, softcap))
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    output = backend.attend(_rows(query), _rows(key), _rows(value), segments, scaling=factor, softcap=softcap)
    return output.unsqueeze(0), None


def in_compute_type(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All three in autocast's type where it is on, and else in that of the values.

    Rotary embeddings and norms of heads make float32 queries and keys of half-precision ones, and kernels want three of a kind.
    float64 stays, as autocast leaves it.
    """
    device, dtype = value.device.type, value.dtype
    if dtype != torch.float64 and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    return query.to(dtype), key.to(dtype), value.to(dtype)


def packing_obstacle(model: PreTrainedModel) -> str | None:
    """Why the layers of a model cannot be packed, in words; None if they can, as far as its class says."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds:
        return f"layers of kind {', '.join(sorted(kinds))}"
    return None if model._supports_attention_backend else "an attention of its own"


def _rows(tensor: Tensor) -> Tensor:
    """`[1, heads, N, D]` as `[N, heads, D]`."""
    return tensor[0].transpose(0, 1)


def _case(query: Tensor, softcap: float | None) -> AttentionCase:
    return AttentionCase(query.device.type, query.dtype, query.shape[-1], softcap is not None)


def register_packed_attention() -> None:
    """Make `packed_attention` known to transformers, unless it is: `compiling` puts a version there that stays as it is."""
    if PACKED_ATTENTION not in AttentionInterface():
        AttentionInterface.register(PACKED_ATTENTION, packed_attention)
