"""Adapters in PEFT's format: finds them and their base, merges them, trains them further, and saves them."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Module
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from peft import LoraConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_PREFIX = "base_model.model."
"""Of every name in a file that PEFT writes."""


def is_adapter(path: str) -> bool:
    """Whether a folder holds an adapter and no model of its own."""
    folder = Path(path)
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(path: str, given: str | None = None) -> str:
    """The model that an adapter was trained on: the one given, else the one that its configuration names.

    Raises:
        ValueError: if there is neither.
    """
    named = given or read_json(Path(path) / CONFIG).get("base_model_name_or_path")
    if not named:
        raise ValueError(
            f"expected base_model_name_or_path in {Path(path) / CONFIG}, got none. Name the model that the adapter was trained on "
            "(`base` of the policy, --reference of diagnose.py)."
        )
    return str(named)


def merge_adapter(model: PreTrainedModel, path: str) -> PreTrainedModel:
    """The model with the adapter added to its weights, as transformers would have saved it.

    Args:
        model: the base, in the type that the sum is wanted in. It is changed.
        path: folder that PEFT's save_pretrained wrote.

    Raises:
        ValueError: if the adapter's weights are no safetensors, are not all there, or do not fit the base.
    """
    # peft takes seconds to import.
    from peft import PeftModel

    if not (Path(path) / WEIGHTS).is_file():
        raise ValueError(
            f"expected {WEIGHTS} in {path}, got none. Files of pickles are not opened: save the adapter with save_pretrained."
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found missing adapter keys")
            # Between versions of peft and transformers, and about layers that are taken out again here.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
            warnings.filterwarnings("ignore", "Model with `tie_word_embeddings=True`")
            adapted = PeftModel.from_pretrained(model, path, torch_device="cpu")
            _require_same_weights(adapted, path)
            merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
            return merged
    except (AttributeError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise ValueError(
            f"expected an adapter that fits {model.config.name_or_path or type(model).__name__} and can be added to its weights, "
            f"got {path}: {said}. Name the model that it was trained on (`base` of the policy, --reference of diagnose.py)."
        ) from error


def saved_config(path: str) -> LoraConfig:
    """Configuration of a LoRA adapter.

    Raises:
        ValueError: if the folder holds none.
    """
    from peft import LoraConfig

    if not is_adapter(path):
        raise ValueError(f"expected an adapter that PEFT saved ({CONFIG}, {WEIGHTS}) in {path}, got none.")
    kind = read_json(Path(path) / CONFIG).get("peft_type")
    if kind != "LORA":
        raise ValueError(
            f"expected a LoRA adapter to train further in {path}, got {kind}. `path: {path}` takes it merged into its base."
        )
    config: LoraConfig = LoraConfig.from_pretrained(path)
    return config


def load_adapter(model: PreTrainedModel, path: str, head: str | None = None) -> None:
    """Give the adapters of a model the weights of a folder.

    Args:
        model: with adapters of the folder's configuration; changed.
        path: folder that PEFT's save_pretrained wrote.
        head: name of a layer that was trained as a whole, and is in the folder too.

    Raises:
        ValueError: if the folder's weights are not those that the model's adapters have.
    """
    from peft import set_peft_model_state_dict

    saved = {name.removeprefix(_PREFIX): value for name, value in _weights(path).items()}
    layer = {} if head is None else {f"{head}.weight": model.get_submodule(head).get_parameter("weight").detach()}
    expected = adapter_state(model) | layer
    unknown, missing = saved.keys() - expected.keys(), expected.keys() - saved.keys()
    wrong = unknown or missing or {name for name in saved if saved[name].shape != expected[name].shape}
    if wrong:
        raise ValueError(
            f"expected an adapter of {type(model).__name__} in {path}, got one of another model: {len(wrong)} weights do not fit "
            f"({min(wrong)}, ...). Name the model that it was trained on as `path`."
        )
    for name, value in layer.items():
        value.copy_(saved.pop(name))
    set_peft_model_state_dict(model, saved)


def adapter_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """The adapters' weights under PEFT's names, without the prefix of its files."""
    from peft import get_peft_model_state_dict

    return dict(get_peft_model_state_dict(model, save_embedding_layers=False))


def save_adapter(model: PreTrainedModel, folder: Path, base: str, head: tuple[str, Tensor] | None = None) -> None:
    """Write the adapters alone, as PEFT does: `PeftModel.from_pretrained(<base>, folder)` loads them.

    Args:
        model: with whole weights.
        folder: a new or empty one.
        base: hub name or folder of the model that they were trained on.
        head: name and weight of a layer that was trained as a whole.
    """
    config = copy.deepcopy(model.peft_config["default"])
    config.base_model_name_or_path, config.inference_mode = base, True
    # In what every PEFT model has for names, not in that of the model alone.
    weights = {_PREFIX + name: value.detach().cpu().contiguous() for name, value in adapter_state(model).items()}
    if head is not None:
        config.task_type, config.modules_to_save = "SEQ_CLS", [head[0]]
        weights[f"{_PREFIX}{head[0]}.weight"] = head[1].detach().cpu().contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def _weights(path: str) -> dict[str, Tensor]:
    file = Path(path) / WEIGHTS
    if not file.is_file():
        raise ValueError(
            f"expected {WEIGHTS} in {path}, got none. Files of pickles are not opened: save the adapter with save_pretrained."
        )
    return load_file(file)


def _require_same_weights(adapted: Module, path: str) -> None:
    """Refuse what peft passes over: weights of the adapter that the file lacks, and those that have no place in the model."""
    from peft import get_peft_model_state_dict

    with safe_open(Path(path) / WEIGHTS, framework="pt") as file:
        saved = set(file.keys())
    expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    # An embedding that grew is saved beside the adapter, under the model's own name.
    unknown = saved - expected - set(adapted.state_dict())
    for names, fault in ((expected - saved, "are missing"), (unknown, "have no place in the model")):
        if names:
            raise ValueError(f"{len(names)} of its weights {fault} ({min(names)}, ...)")


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a file; empty where there is none that can be read."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
