"""Finds out whether a checkpoint has a trained reward head, so that an untrained one is never used by mistake."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel

HEAD = "score"
"""Transformers' name of the last layer of a sequence classifier over a decoder."""


def has_head(path: str, model: PreTrainedModel, found: Mapping[str, Collection[Any]]) -> bool:
    """Whether the weights of a sequence classifier with one output had its head; a causal LM has none.

    Args:
        path: where they were found, for the error.
        model: what they were loaded into.
        found: what `from_pretrained(..., output_loading_info=True, ignore_mismatched_sizes=True)` says of them.

    Raises:
        ValueError: if weights of the body are missing or of other shapes, or the head has another name, a bias, or another number
            of outputs.
    """
    _require_shapes(path, found["mismatched_keys"])
    missing, head = set(found["missing_keys"]), f"{HEAD}.weight"
    if missing - {head}:
        raise ValueError(f"expected the weights of a transformer body in {path}, {sorted(missing)[:3]} ... are missing.")
    if others := _other_heads(model, found["unexpected_keys"]):
        raise ValueError(
            f"expected a head in one layer `{HEAD}` without bias, or a causal LM, got {', '.join(others[:4])} in {path}. It "
            f"would be dropped, and the rewards would differ from those that were trained. Rename a linear head's "
            f"weight to `{head}` and remove its bias, which moves all rewards alike; other heads are not supported."
        )
    named = [name for name in model.config.architectures or [] if re.search("Classification|Reward|Score|ValueHead", name)]
    if missing and named:
        raise ValueError(
            f"expected the trained head of {named[0]} as `{head}` in {path}, got weights without it. A new head returns 0 "
            "for every response: name a folder that has the trained head, or a causal LM to train a new head on."
        )
    return not missing


def _require_shapes(path: str, mismatched: Collection[Any]) -> None:
    for name, there, here in mismatched:
        if name == f"{HEAD}.weight":
            raise ValueError(f"expected a reward model with one output, got {there[0]} in {path}. Name another.")
        raise ValueError(f"expected {name} of shape {tuple(here)} in {path}, as its config says, got {tuple(there)}.")


def _other_heads(model: PreTrainedModel, unexpected: Collection[str]) -> list[str]:
    """Weights beside the body that are no output layer over the vocabulary."""
    causal = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(model.config), None)
    layers = {name.rpartition(".")[0] for name in getattr(causal, "_tied_weights_keys", None) or ()} | {"lm_head"}
    body = f"{model.base_model_prefix}."
    return sorted(name for name in unexpected if not name.startswith(body) and name.rpartition(".")[0] not in layers)
