"""Adapters that PEFT saved: found, their base named, and put into its weights."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, cast

from safetensors import safe_open
from torch.nn import Module
from transformers import PreTrainedModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


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
            return cast(PreTrainedModel, cast(Any, adapted).merge_and_unload(safe_merge=True))
    except (AttributeError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise ValueError(
            f"expected an adapter that fits {model.config.name_or_path or type(model).__name__} and can be added to its weights, "
            f"got {path}: {said}. Name the model that it was trained on (`base` of the policy, --reference of diagnose.py)."
        ) from error


def _require_same_weights(adapted: Module, path: str) -> None:
    """Refuse what peft passes over: weights of the adapter that the file lacks, and those that have no place in the model."""
    from peft import get_peft_model_state_dict

    with safe_open(Path(path) / WEIGHTS, framework="pt") as file:
        saved = set(file.keys())
    expected = set(get_peft_model_state_dict(cast(Any, adapted), save_embedding_layers=False))
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
