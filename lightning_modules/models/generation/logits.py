"""Logits of a policy's head, with every change that the model makes to them."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lightning_modules.models.heads.head import ScoringHead


def head_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """`[B, V]` logits, float32 or better, of `[B, H]` hidden states: those whose softmax the `ScoringHead` scores."""
    head = model.get_output_embeddings()
    assert isinstance(head, ScoringHead), "a policy's model has a scoring head"
    raw = head(hidden)
    logits: Tensor = raw.to(torch.promote_types(raw.dtype, torch.float32)) * head.scale
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)
