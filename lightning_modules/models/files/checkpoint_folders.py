"""Reads the folders that trainers leave: checkpoints in step order, whether they are complete, and their tokenizer.

Layouts (a folder of a run, what is in it):
    transformers' Trainer, TRL, axolotl, LLaMA-Factory: `checkpoint-<step>` each, the last model in the folder itself.
    OpenRLHF (--save_hf_ckpt): `global_step<step>_hf`.
    verl: `global_step_<step>/actor/huggingface`, or `.../actor/lora_adapter`.
Each is a model (config.json, safetensors) or an adapter (adapter_config.json).
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from pathlib import Path

from lightning_modules.models.adapters.peft_format import CONFIG as ADAPTER_CONFIG
from lightning_modules.models.adapters.peft_format import WEIGHTS as ADAPTER_WEIGHTS
from lightning_modules.models.adapters.peft_format import base_of, is_adapter, read_json

_WITHIN = ("actor/lora_adapter", "actor/huggingface")
"""Where a checkpoint has its model, if not at its top."""

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
_INDEX = "model.safetensors.index.json"


def checkpoints_in(path: str) -> list[str]:
    """The path itself; or, of a folder that holds checkpoints, theirs in the order of their numbers, and its own model as the last.

    A model that is byte for byte the last checkpoint is not named a second time.

    Raises:
        ValueError: if a folder has neither.
    """
    folder = Path(path)
    if not folder.is_dir():
        return [path]
    found = [(child, weights) for child in folder.iterdir() if child.is_dir() and (weights := _model_in(child))]
    numbered = sorted((own for own in found if _number(own[0]) is not None), key=lambda own: (_number(own[0]), own[0].name))
    # What has no number (`merged`, `best`) is no step of a run that has numbers, or a model of its own.
    own_model = _model_in(folder)
    series = [weights for _, weights in numbered]
    if own_model:
        return [str(at) for at in series] + ([] if series and _is_same(own_model, series[-1]) else [str(own_model)])
    if not series:
        series = [weights for _, weights in sorted(found)]
    if not series:
        raise ValueError(
            f"expected a checkpoint (with a config.json or an {ADAPTER_CONFIG}) or a folder of checkpoints, got {path}. "
            "Name a folder that save_pretrained wrote."
        )
    return [str(at) for at in series]


def step_numbers(paths: Sequence[str]) -> list[int]:
    """Steps of checkpoints: the numbers of their names (`checkpoint-500`) if those rise from above 0, else 1, 2, 3, ...

    A last one without a number has the step that its trainer wrote beside it, or the one after the last.
    """
    numbers = [_number(Path(path)) or 0 for path in paths]
    if len(numbers) > 1 and not numbers[-1]:
        said = read_json(Path(paths[-1]) / "trainer_state.json").get("global_step")
        numbers[-1] = said if isinstance(said, int) and said > numbers[-2] else numbers[-2] + 1
    rising = all(earlier < later for earlier, later in zip([0, *numbers], numbers, strict=False))
    return numbers if rising else [*range(1, len(paths) + 1)]


def fault_of(path: str) -> str:
    """What keeps a checkpoint from being read, in words; empty where it is whole. What is no folder is not looked at."""
    folder = Path(path)
    if not folder.is_dir():
        return ""
    index = read_json(folder / _INDEX).get("weight_map")
    expected = {ADAPTER_WEIGHTS} if is_adapter(path) else set(index.values()) if index else {"model.safetensors"}
    missing = sorted(name for name in expected if not (folder / name).is_file())
    if missing:
        if any(folder.parent.glob("model_world_size_*.pt")):
            return (
                "verl has left it in pieces: make one model of them (python -m verl.model_merger merge --backend fsdp --local_dir "
                f"{folder.parent} --target_dir <folder>)"
            )
        return f"{missing[0]} is not there (safetensors alone are read)"
    return next(filter(None, (_cut(folder / name) for name in sorted(expected))), "")


def tokenizer_at(path: str, *others: str) -> str:
    """Where the tokenizer of a model is: with it, above it, with its checkpoints, with an adapter's base, or in `others`.

    Of several the first that has a chat template; the path itself where there is none.
    """
    if not Path(path).is_dir():
        return path
    checkpoint = Path(checkpoints_in(path)[-1])
    places = [str(place) for place in (checkpoint, checkpoint.parent, checkpoint.parent / "huggingface", Path(path))]
    others = others or ((base_of(str(checkpoint)),) if is_adapter(str(checkpoint)) else ())
    # Those that are no folders here are on the hub.
    there = [place for place in places if _has_tokenizer(Path(place))]
    there += [place for place in others if not Path(place).is_dir() or _has_tokenizer(Path(place))]
    return next((place for place in there if has_template(place)), there[0] if there else path)


def _model_in(folder: Path) -> Path | None:
    """Where in a checkpoint its model or adapter is."""
    places = (folder, *(folder / inner for inner in _WITHIN))
    return next((place for place in places if (place / "config.json").is_file() or (place / ADAPTER_CONFIG).is_file()), None)


def _number(path: Path) -> int | None:
    """Of a checkpoint's name, or the name of the folder that it is in."""
    for inner in _WITHIN:
        if path.as_posix().endswith(f"/{inner}"):
            path = path.parents[1]
    ending = re.search(r"(\d+)(_hf)?$", path.name)
    return int(ending[1]) if ending else None


def _is_same(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same bytes of weights."""
    weights = [sorted(place.glob("*.safetensors")) for place in (one, other)]
    if not weights[0] or [file.name for file in weights[0]] != [file.name for file in weights[1]]:
        return False
    pairs = list(zip(*weights, strict=True))
    return all(a.stat().st_size == b.stat().st_size for a, b in pairs) and all(_same_bytes(a, b) for a, b in pairs)


def _same_bytes(one: Path, other: Path, block: int = 1 << 24) -> bool:
    with one.open("rb") as a, other.open("rb") as b:
        while first := a.read(block):
            if first != b.read(block):
                return False
    return True


def _cut(path: Path) -> str:
    """What a safetensors file lacks, by what its header says of its length."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(length)) if length <= size else {}
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, struct.error, KeyError, TypeError):
        return f"{path.name} is cut off ({size} bytes)"
    return "" if size == expected else f"{path.name} has {size} of {expected} bytes"


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZER)


def has_template(place: str) -> bool:
    """Whether the tokenizer in a folder has a chat template; of what is no folder, no."""
    folder = Path(place)
    own = read_json(folder / "tokenizer_config.json")
    return (folder / "chat_template.jinja").is_file() or bool(own.get("chat_template"))
