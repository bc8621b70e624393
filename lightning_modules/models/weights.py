"""Identify and write a model's weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from transformers import PreTrainedModel

from lightning_modules.models.lora import has_adapters, merged_state_dict
from lightning_modules.models.sharding import is_first_rank, is_sharded, whole, whole_state_dict

_NOT_WEIGHING = ("_name_or_path", "transformers_version", "_attn_implementation", "quantization_config", "use_cache")
"""Configuration entries that log-probs do not depend on."""


def fingerprint(model: PreTrainedModel) -> str:
    """sha256 over every weight (name, type, shape, bytes) and the configuration, as hex. About a second a gigabyte.

    Call it on every rank, because a sharded model is gathered, tensor by tensor.
    """
    digest = hashlib.sha256(json.dumps(_configuration(model), sort_keys=True, default=str).encode())
    seen: set[int] = set()
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        # A tied output layer is listed twice; its bytes need hashing once.
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values = whole(tensor.detach()).contiguous()
        digest.update(values.flatten().view(torch.uint8).cpu().numpy())  # type: ignore[arg-type]
    return digest.hexdigest()


def _configuration(model: PreTrainedModel) -> dict[str, object]:
    return {key: value for key, value in model.config.to_dict().items() if key not in _NOT_WEIGHING}


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write configuration and safetensors (no pickle) into a new or empty folder; adapters are merged into the weights.

    Call it on every rank; the first one writes.

    Raises:
        FileExistsError: if the folder holds something already.
    """
    # The first rank alone looks: another one, if late, would find what the first has written.
    if is_first_rank() and folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"expected {folder} to be empty, found {len(list(folder.iterdir()))} entries. Choose another folder.")
    weights = _gathered(model)
    if is_first_rank() and has_adapters(model):
        weights = merged_state_dict(model, model.state_dict() if weights is None else weights)
    if is_first_rank():
        model.save_pretrained(folder, state_dict=weights)


def _gathered(model: PreTrainedModel) -> dict[str, torch.Tensor] | None:
    """The whole weights of a sharded model, tied ones once; None where the model itself has them."""
    if not is_sharded(model):
        return None
    weights = whole_state_dict(model)
    # Gathering copies, so that transformers cannot see by their storage which weights are one.
    return {name: tensor for name, tensor in weights.items() if name not in model.all_tied_weights_keys}
