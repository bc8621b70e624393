"""Finds trained weights and the configuration that they run with."""

from __future__ import annotations

from pathlib import Path

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PreTrainedConfig

from lightning_modules.models.files.gguf import converted_folder

CACHE = ".cache/prefscope"
"""Folder of converted GGUF files."""


def weights_at(path: str, cache_dir: str = CACHE) -> str:
    """Folder or hub name of the weights: `path` itself, or what a `.gguf` file was converted to.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as a causal LM with a tokenizer.
    """
    return converted_folder(path, cache_dir) if path.endswith(".gguf") else path


def folder_of(path: str, cache_dir: str = CACHE) -> str:
    """What another program names the same weights by: a whole path of a folder, or a hub name."""
    found = weights_at(path, cache_dir)
    return str(Path(found).resolve()) if Path(found).is_dir() else found


def config_at(path: str, revision: str | None = None, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The configuration in a folder or on the hub, without dropout.

    Raises:
        ValueError: if there is none, it needs code of its own that is not trusted, or it is of no decoder of text.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except OSError as error:
        raise ValueError(
            f"expected a model's folder, a .gguf file or a hub name, got {path!r}: no such folder is here, and the hub "
            f"did not give it. Check `path`. ({str(error).splitlines()[0]})"
        ) from error
    except ValueError as error:
        raise _in_our_words(error, path) from error
    require_text_decoder(config, path)
    return without_dropout(config)


def _in_our_words(error: ValueError, path: str) -> ValueError:
    if "trust_remote_code" not in str(error):
        return ValueError(f"expected a model that this version of transformers knows, got {path!r}: {str(error).splitlines()[0]}")
    return ValueError(
        f"expected a model whose code is part of transformers, got {path!r}, which brings its own Python files (auto_map). They "
        "would run with all your rights: read them, and then set trust_remote_code: true beside the path, with the revision that "
        "you have read; or take a model type that transformers knows."
    )


def require_text_decoder(config: PreTrainedConfig, path: str) -> None:
    """Refuse what is no causal language model of text alone.

    Raises:
        ValueError: for an encoder-decoder, a model that sees or hears, or another kind than transformers' causal LMs.
    """
    kind = f"{config.model_type!r} ({type(config).__name__})"
    if config.is_encoder_decoder:
        raise ValueError(
            f"expected a decoder-only model, got the encoder-decoder {kind} in {path!r}, which no stage here trains. Take a causal "
            "LM, such as Llama or Qwen."
        )
    senses = [name for name in ("vision_config", "audio_config", "image_token_id") if getattr(config, name, None) is not None]
    if senses:
        raise ValueError(
            f"expected a model of text alone, got {kind} with {senses[0]} in {path!r}. Only text is read here: take the text "
            "model of the family, or save its language model by itself (`model.language_model` in transformers)."
        )


def require_causal_lm(config: PreTrainedConfig, path: str) -> None:
    """Refuse a kind of model that transformers has no causal LM of.

    Raises:
        ValueError: if it has none, and no code of its own.
    """
    own_code = getattr(config, "auto_map", None) or {}
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and "AutoModelForCausalLM" not in own_code:
        raise ValueError(
            f"expected a model type with a causal LM in transformers, got {config.model_type!r} in {path!r}. Take a decoder, such "
            "as Llama or Qwen."
        )


def without_dropout(config: PreTrainedConfig) -> PreTrainedConfig:
    """Sets every dropout probability and router noise to 0, under any architecture's name for it."""
    for name, value in config.to_dict().items():
        if any(part in name for part in ("dropout", "pdrop", "layerdrop", "jitter")) and isinstance(value, float):
            setattr(config, name, 0.0)
    return config
