"""Identifies and writes a model's weights."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from lightning_modules.models.adapters.lora import base_state, has_adapters, merged_state_dict
from lightning_modules.models.adapters.peft_format import save_adapter
from lightning_modules.models.adapters.quantized import is_quantized
from lightning_modules.models.sharding import is_first_rank, is_sharded, whole, whole_copy, whole_state_dict

ADAPTER = "adapter"
"""Folder of the adapters alone, in that of the model with them merged."""

_NOT_WEIGHING = ("_name_or_path", "transformers_version", "_attn_implementation", "quantization_config", "use_cache")
"""Configuration entries that log-probs do not depend on."""


def fingerprint(model: PreTrainedModel) -> str:
    """sha256 over every weight (name, type, shape, bytes) and the configuration, as hex. About a second a gigabyte.

    Call it on every rank, because a sharded model is gathered, tensor by tensor.
    """
    return _digest(model, model.state_dict(keep_vars=True))


def base_fingerprint(model: PreTrainedModel) -> str:
    """The fingerprint that a model had before it got adapters; theirs do not count. Call it on every rank."""
    return _digest(model, base_state(model))


def _digest(model: PreTrainedModel, state: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(_configuration(model), sort_keys=True, default=str).encode())
    seen: set[int] = set()
    for name, tensor in sorted(state.items()):
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


def save_model(model: PreTrainedModel, folder: Path, base: str | None = None, head: str | None = None) -> None:
    """Write configuration and safetensors (no pickle) into a new or empty folder; adapters are merged into the weights.

    Call it on every rank; the first one writes.

    Args:
        model: whole, or sharded over all ranks.
        folder: where to.
        base: where the model is that adapters were trained on; they are then written alone as well, into `<folder>/adapter`.
        head: name of the layer that was trained beside adapters, if there is one.

    Raises:
        FileExistsError: if the folder holds something already.
    """
    # The first rank alone looks: another one, if late, would find what the first has written.
    if is_first_rank() and folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"expected {folder} to be empty, found {len(list(folder.iterdir()))} entries. Choose another folder.")
    held = whole_copy(model) if has_adapters(model) and is_sharded(model) else model
    weights = _to_write(held)
    if is_first_rank():
        _write(model, folder, weights)
        if base is not None and has_adapters(model):
            layer = None if head is None else (head, held.get_submodule(head).get_parameter("weight"))
            save_adapter(held, folder / ADAPTER, base, layer)


def _write(model: PreTrainedModel, folder: Path, weights: dict[str, torch.Tensor] | None) -> None:
    if not is_quantized(model):
        model.save_pretrained(folder, state_dict=weights)
        return
    # transformers would write what it has loaded, in four bits.
    config = copy.deepcopy(model.config)
    del config.quantization_config
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tied = model.all_tied_weights_keys
    save_torch_state_dict({name: value for name, value in (weights or {}).items() if name not in tied}, folder)


def try_save(model: PreTrainedModel, folder: Path) -> None:
    """Do all of `save_model` that can fail, but for the writing of the weights: merge adapters, write the rest, look for room.

    Call it on every rank.

    Args:
        model: as `save_model` takes it.
        folder: an empty one on the disk that the model will go to; the first rank writes configurations into it.

    Raises:
        ValueError: if an adapter cannot be merged, a configuration cannot be written, or there is no room for the weights.
    """
    if has_adapters(model):
        _to_write(whole_copy(model) if is_sharded(model) else model)
    if not is_first_rank():
        return
    needed = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"expected {needed / 1e9:.1f} GB of room for the weights on the disk of {folder}, got {free / 1e9:.1f}. Free some, or "
            "set trainer.logger.init_args.save_dir to another disk."
        )
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)


def keep_weights(model: nn.Module, file: Path) -> None:
    """Write a state as it is, one tensor after another, where the proper save has failed: `load_state_dict` takes it back."""
    state = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in model.state_dict().items()}
    save_file(state, file)


def _to_write(model: PreTrainedModel) -> dict[str, torch.Tensor] | None:
    """The plain model's weights on the first rank; None where the model itself has them. A collective for a sharded model.

    Args:
        model: whole where it has adapters.
    """
    if not has_adapters(model):
        return _gathered(model)
    return merged_state_dict(model) if is_first_rank() else None


def _gathered(model: PreTrainedModel) -> dict[str, torch.Tensor] | None:
    """The whole weights of a sharded model, tied ones once; None where the model itself has them."""
    if not is_sharded(model):
        return None
    weights = whole_state_dict(model)
    # Gathering copies, so that transformers cannot see by their storage which weights are one.
    return {name: tensor for name, tensor in weights.items() if name not in model.all_tied_weights_keys}
