"""Identify and write a model's weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from transformers import PreTrainedModel

_NOT_WEIGHING = ("_name_or_path", "transformers_version", "_attn_implementation", "quantization_config", "use_cache")
"""Configuration entries that log-probs do not depend on."""


def fingerprint(model: PreTrainedModel) -> str:
    """sha256 over every weight (name, type, shape, bytes) and the configuration, as hex. About a second a gigabyte."""
    digest = hashlib.sha256(json.dumps(_configuration(model), sort_keys=True, default=str).encode())
    seen: set[tuple[int, tuple[int, ...]]] = set()
    for name, tensor in sorted(model.state_dict().items()):
        storage = (tensor.data_ptr(), tuple(tensor.shape))
        # A tied output layer is listed twice; its bytes need hashing once.
        if storage in seen:
            continue
        seen.add(storage)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).cpu().numpy())
    return digest.hexdigest()


def _configuration(model: PreTrainedModel) -> dict[str, object]:
    return {key: value for key, value in model.config.to_dict().items() if key not in _NOT_WEIGHING}


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write configuration and safetensors (no pickle) into a new or empty folder.

    Raises:
        FileExistsError: if the folder holds something already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"expected {folder} to be empty, found {len(list(folder.iterdir()))} entries. Choose another folder.")
    model.save_pretrained(folder)
