"""The attention function transformers calls while the packed decoder runs: it fills the stores, then reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from typing_extensions import override

from lightning_modules.models.generation.decoders.packed_cohort import PackedCohort
from lightning_modules.models.generation.decoders.shared_prefix import KeyValues
from lightning_modules.models.layers.attention import PackedCall, in_compute_type, packed_attention

DECODING_ATTENTION = "prefscope_decoding"
"""Name under which transformers finds `decoding_attention`."""


class LayerOptions(TypedDict, total=False):
    """What a layer says about its attention (see `packed_attention`)."""

    scaling: float | None
    dropout: float
    softcap: float | None
    sliding_window: int | None
    position_bias: Tensor | None
    s_aux: Tensor | None


class DecodingCall(ABC):
    """What reaches every layer's attention as the keyword `decoding`."""

    @abstractmethod
    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **options: Unpack[LayerOptions]) -> Tensor:
        """`[1, N, Hq, D]` from `[1, Hq, N, D]` queries and `[1, Hk, N, D]` keys and values."""


@dataclass(frozen=True, eq=False)
class PromptCall(DecodingCall):
    """The prompts of a cohort, packed: attention as in training, and the keys and values stored."""

    packed: PackedCall
    cohort: PackedCohort
    max_new_tokens: int

    @override
    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **options: Unpack[LayerOptions]) -> Tensor:
        """Prompt rows (see `DecodingCall`).

        Raises:
            ValueError: if the layer needs something the packed layout does not have, or a window that a response may outgrow.
        """
        segments = self.packed.segments
        longest, window = segments.max_query_length + self.max_new_tokens, options.get("sliding_window")
        if window is not None and window < longest:
            raise ValueError(
                f"expected a sliding window of at least {longest} tokens (prompt plus max_new_tokens), got {window}. "
                "Use `layout: padded` for this model, or shorten prompts or max_new_tokens."
            )
        # Before they are stored: float32 keys would be cast again at every token.
        query, key, value = in_compute_type(query, key, value)
        output, _ = packed_attention(module, query, key, value, None, packed=self.packed, **options)
        self.cohort.store(module, key[0].transpose(0, 1), value[0].transpose(0, 1))
        return output


@dataclass(frozen=True, eq=False)
class StepCall(DecodingCall):
    """One new token for every row of these cohorts."""

    cohorts: Sequence[PackedCohort]

    @override
    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **options: Unpack[LayerOptions]) -> Tensor:
        """Rows, cohort by cohort (see `DecodingCall`)."""
        sizes = [cohort.num_rows for cohort in self.cohorts]
        parts = (torch.split(tensor[0].transpose(0, 1), sizes) for tensor in (query, key, value))
        outputs = [_attend_cohort(module, cohort, q, k, v, options) for cohort, q, k, v in zip(self.cohorts, *parts, strict=True)]
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).unsqueeze(0)


def _attend_cohort(
    module: nn.Module, cohort: PackedCohort, query: Tensor, key: Tensor, value: Tensor, options: LayerOptions
) -> Tensor:
    scaling = options.get("scaling")
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    new = KeyValues(key, value)
    return cohort.stores[module].attend(query, new, cohort.num_own, cohort.layout, factor, options.get("softcap"))


def decoding_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    decoding: DecodingCall | None = None,
    **options: Unpack[LayerOptions],
) -> tuple[Tensor, None]:
    """Attention of the packed decoder, with transformers' calling convention.

    Raises:
        ValueError: if the model makes a mask, or does not hand on its keywords.
    """
    if decoding is None or attention_mask is not None:
        raise ValueError(
            f"expected {type(module).__name__} to hand on what it decodes and no mask, got decoding={decoding is not None}, "
            f"mask={attention_mask is not None}. Use `layout: padded` for this model."
        )
    return decoding.attend(module, query, key, value, **options), None


def register_decoding_attention() -> None:
    """Make `decoding_attention` known to transformers (idempotent)."""
    AttentionInterface.register(DECODING_ATTENTION, decoding_attention)
