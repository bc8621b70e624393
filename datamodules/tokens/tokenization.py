"""Loads a tokenizer from a folder or the hub."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """A fast tokenizer with an end-of-sequence token.

    Args:
        name: folder, hub name, or a `.gguf` file.
        trust_remote_code: run the Python files that come with it, with all the rights of the user.

    Raises:
        ValueError: if there is none, or it has no end-of-sequence token.
    """
    from transformers import AutoTokenizer

    try:
        path = Path(name).expanduser()
        if path.suffix == ".gguf":
            tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        else:
            tokenizer = AutoTokenizer.from_pretrained(str(path) if path.is_dir() else name, trust_remote_code=trust_remote_code)
    except Exception as error:  # the hub's client, JSON and the tokenizers library, whose own errors are bare exceptions
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"expected a tokenizer whose code is part of transformers, got {name!r}, which brings its own Python files "
                "(auto_map). They would run with all your rights: read them, and then set data.init_args.trust_remote_code: "
                "true; or save it as a fast tokenizer."
            ) from error
        raise ValueError(
            f"expected a tokenizer at {name[:200]!r} (a folder, a hub name, or a .gguf file), got: {error}. "
            "Check the name, or the network."
        ) from error
    if tokenizer.eos_token_id is None:
        raise ValueError(f"expected a tokenizer with an end-of-sequence token, got {name!r} without. Set eos_token in its config.")
    return tokenizer


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hex digest of everything that token ids depend on: vocabulary, merges, special tokens, chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    parts = (model, str(tokenizer.chat_template), repr(sorted(tokenizer.special_tokens_map.items())))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
