"""Activation checkpointing: recomputes whole layers, or only their cheap operations, in the backward pass."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

Checkpointing = bool | Literal["selective"]
"""False keeps all activations. True keeps each layer's input: least memory, a third more compute. "selective" also keeps the
outputs of matrix products and attention, so that only norms, activation functions and rotations are computed again."""

_PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm"})


def enable_checkpointing(model: PreTrainedModel, how: Literal[True, "selective"]) -> None:
    """Checkpoint every decoder layer, in training mode.

    Raises:
        ValueError: if `how` is neither True nor "selective", or the model's layers cannot be checkpointed.
    """
    if how not in (True, "selective"):
        raise ValueError(f"expected gradient_checkpointing to be false, true or selective, got {how!r}.")
    options: dict[str, Any] = {"use_reentrant": False}
    if how == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _keep_products_and_attention)
    # Renamed in transformers 5.2x; the old name warns there.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(options)


def _keep_products_and_attention(_context: object, operator: object, *_args: object, **_kwargs: object) -> CheckpointPolicy:
    # An operator's name is the one thing that is the same for the kernels of every device and package.
    name = str(operator).split("::")[-1].split(".")
    base = next((part for part in name if part not in ("aten", "ops")), "")
    keep = base in _PRODUCTS or "attn" in base or "attention" in base
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE
