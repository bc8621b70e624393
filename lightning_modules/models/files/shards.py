"""A model that is sharded before it has weights: each rank reads its own rows of the files, and none holds the whole."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from lightning_modules.models.adapters.lora import plain_name


@dataclass(frozen=True)
class WeightFiles:
    """Where each parameter of a model is in safetensors files."""

    places: Mapping[str, tuple[Path, str]]
    """Parameter's name in the model (without adapters) -> its file, and its name there."""

    @torch.no_grad()
    def fill(self, model: nn.Module) -> None:
        """Read every rank's own part, a tensor at a time; what has no place is left as it is.

        Args:
            model: sharded, with or without adapters.
        """
        named = ((plain_name(name), value) for name, value in model.named_parameters())
        own = {name: value for name, value in named if name in self.places and isinstance(value, DTensor)}
        for name, parameter in own.items():
            file, key = self.places[name]
            # Opened for each: an open file keeps every page in memory that was read.
            with safe_open(file, framework="pt") as opened:
                parameter.to_local().copy_(opened.get_slice(key)[_own_rows(parameter)])


def files_of(path: str, revision: str | None, model: PreTrainedModel) -> WeightFiles | None:
    """Where the parameters of an empty model are; None where files do not hold them by name, as they are.

    That is so where transformers converts what it reads, experts that it fuses for instance, or where weights are missing.
    """
    found = _names_in_files(path, revision)
    prefix = f"{model.base_model_prefix}."
    places: dict[str, tuple[Path, str]] = {}
    for name, parameter in model.named_parameters():
        key = next((key for key in (name, name.removeprefix(prefix), prefix + name) if key in found), None)
        if key is None:
            return None
        with safe_open(found[key], framework="pt") as opened:
            if list(opened.get_slice(key).get_shape()) != list(parameter.shape):
                return None
        places[name] = found[key], key
    return WeightFiles(places)


def empty_causal_lm(
    config: PreTrainedConfig, path: str, revision: str | None, dtype: torch.dtype
) -> tuple[PreTrainedModel, WeightFiles] | None:
    """The model that `from_pretrained` gives, without weights, and where they are; None where `files_of` gives none.

    Its parameters take no memory, their elements are one number; its buffers are as always.
    """
    with torch.random.fork_rng(devices=[]), no_init_weights(), init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    # Outside: parameters that come to have a second name in there become another.
    model.tie_weights()
    _take_no_memory(model)
    keeps_float32 = any(getattr(model, name, None) for name in ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict"))
    files = None if keeps_float32 and dtype != torch.float32 else files_of(path, revision, model)
    if files is None:
        return None
    # A folder may have none.
    with suppress(OSError):
        model.generation_config = GenerationConfig.from_pretrained(path, revision=revision)
    return model.eval(), files


def _take_no_memory(model: nn.Module) -> None:
    """Let all elements of a parameter be one: what is built on it, as adapters are, finds its type, shape and device."""
    stand_ins: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, own in module.named_parameters(recurse=False):
            if own not in stand_ins:
                stand_ins[own] = nn.Parameter(torch.zeros((), dtype=own.dtype).expand(own.shape))
            module.register_parameter(name, stand_ins[own])


@torch.no_grad()
def shard_then_fill(model: nn.Module, part: str, files: WeightFiles, shard: Callable[[], None], device: torch.device) -> None:
    """Shard a model without weights and give every rank its part of them.

    Args:
        model: without weights, but for new ones (adapters), the same on every rank.
        part: name of the submodule that the files are of.
        files: of all other weights.
        shard: shards the model.
        device: of the parts.
    """
    of_files = {f"{part}.{name}" for name in files.places}
    new = {name: value.detach() for name, value in model.named_parameters() if plain_name(name) not in of_files}
    empty = {value: nn.Parameter(value.to("meta"), requires_grad=value.requires_grad) for value in model.parameters()}
    for module in list(model.modules()):
        for name, own in module.named_parameters(recurse=False):
            module.register_parameter(name, empty[own])
    shard()
    buffers = dict(model.named_buffers(remove_duplicate=False))
    model.to_empty(device=device)
    for name, buffer in buffers.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, buffer)
    files.fill(model.get_submodule(part))
    for name, parameter in model.named_parameters():
        if name in new:
            assert isinstance(parameter, DTensor), "everything is sharded"
            parameter.to_local().copy_(new[name][_own_rows(parameter)])


def _own_rows(parameter: DTensor) -> slice:
    """Of this rank: FSDP2 cuts the first dimension as `torch.chunk` does."""
    rows = math.ceil(len(parameter) / parameter.device_mesh.size())
    start = min(parameter.device_mesh.get_local_rank() * rows, len(parameter))
    stop = min(start + rows, len(parameter))
    assert stop - start == len(parameter.to_local()), "another cut than FSDP2's"
    return slice(start, stop)


def _names_in_files(path: str, revision: str | None) -> dict[str, Path]:
    """Name of a tensor -> its file; empty where there are no safetensors."""
    index = _file(path, SAFE_WEIGHTS_INDEX_NAME, revision)
    if index is not None:
        names: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = {name: _file(path, name, revision) for name in set(names.values())}
        return {name: file for name, file in ((name, files[where]) for name, where in names.items()) if file is not None}
    single = _file(path, SAFE_WEIGHTS_NAME, revision)
    if single is None:
        return {}
    with safe_open(single, framework="pt") as opened:
        return dict.fromkeys(opened.keys(), single)


def _file(path: str, name: str, revision: str | None) -> Path | None:
    found = cached_file(
        path, name, revision=revision, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return None if found is None else Path(found)
