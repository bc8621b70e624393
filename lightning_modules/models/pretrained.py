"""Where trained weights are, and the configuration that they are run with."""

from __future__ import annotations

from transformers import AutoConfig, PreTrainedConfig

from lightning_modules.models.gguf import converted_folder

CACHE = ".cache/prefscope"
"""Where converted GGUF files are kept."""


def weights_at(path: str, cache_dir: str = CACHE) -> str:
    """Folder or hub name of the weights: `path` itself, or what a `.gguf` file was converted to.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as a causal LM with a tokenizer.
    """
    return converted_folder(path, cache_dir) if path.endswith(".gguf") else path


def config_at(path: str, revision: str | None = None) -> PreTrainedConfig:
    """The configuration in a folder or on the hub, without dropout.

    Raises:
        ValueError: if there is none.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(path, revision=revision)
    except OSError as error:
        raise ValueError(
            f"expected a model's folder, a .gguf file or a hub name, got {path!r}: no such folder is here, and the hub "
            f"did not give it. Check `path`. ({str(error).splitlines()[0]})"
        ) from error
    return without_dropout(config)


def without_dropout(config: PreTrainedConfig) -> PreTrainedConfig:
    """Every probability of dropping something, and the noise of a router, at 0, whatever the architecture calls it."""
    for name, value in config.to_dict().items():
        if any(part in name for part in ("dropout", "pdrop", "layerdrop", "jitter")) and isinstance(value, float):
            setattr(config, name, 0.0)
    return config
