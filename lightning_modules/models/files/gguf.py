"""Converts GGUF files to Hugging Face folders, once, keyed by content hash."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def converted_folder(path: str, cache_dir: str) -> str:
    """Folder with the dequantised float32 weights (safetensors) and the tokenizer of a GGUF file; made if it is not there.

    Several processes may ask at once: each writes a folder of its own and renames it, and the first one wins.

    Args:
        path: the `.gguf` file.
        cache_dir: parent of the kept folders.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as a causal LM with a tokenizer.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"expected a GGUF file at {file}, found none. Check `path`.")
    target = Path(cache_dir) / "gguf" / _content_hash(file)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=target.parent))
        try:
            _convert(file, unfinished)
            _publish(unfinished, target)
        except Exception as error:  # The readers raise whatever they trip over; the user needs to know which file it was.
            raise ValueError(
                f"expected a GGUF file of a causal LM that transformers can read, got {file} ({type(error).__name__}: {error}). "
                "Check that it was downloaded whole, or use the model's Hugging Face folder."
            ) from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return str(target)


def _content_hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def _convert(file: Path, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # Both would make save_pretrained refuse, although the weights are plain float32 by now.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


def _publish(unfinished: Path, target: Path) -> None:
    try:
        unfinished.rename(target)
    except OSError:
        # Another process was first: a rename onto a folder with content fails, and its content is the same.
        if not target.is_dir():
            raise
