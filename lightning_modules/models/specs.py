"""Recipes for policies that are Hugging Face causal LMs, which a config names under `policy`."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.distributed.device_mesh import DeviceMesh
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from lightning_modules.models.adapters.lora import LoraSpec, add_adapters
from lightning_modules.models.adapters.peft_format import base_of, is_adapter, merge_adapter
from lightning_modules.models.adapters.quantized import four_bits, keep_gradients
from lightning_modules.models.attention_backends.selection import BackendSelector
from lightning_modules.models.causal_lm import CausalLMPolicy, Layout
from lightning_modules.models.checks.finite import require_finite_weights
from lightning_modules.models.checks.layout_check import check_log_probs
from lightning_modules.models.files.pretrained import (
    CACHE,
    config_at,
    folder_of,
    require_causal_lm,
    require_text_decoder,
    weights_at,
    without_dropout,
)
from lightning_modules.models.files.shards import WeightFiles, empty_causal_lm, shard_then_fill
from lightning_modules.models.generation.vllm_engine import VLLMEngine
from lightning_modules.models.layers.layer_options import LayerOptions
from lightning_modules.models.policy import PolicySpec
from lightning_modules.models.sharding import AS_HELD, Gathering

Precision = Literal["float32", "bfloat16", "float16", "float64"]


@dataclass(frozen=True, kw_only=True)
class CausalLMSpec(LayerOptions, PolicySpec):
    """How a causal LM is run, wherever its weights come from.

    Raises:
        ValueError: at `build`, if the model cannot be run in this layout or the attention backend is not installed.
    """

    layout: Layout = "packed"
    """`padded` for models that cannot be packed."""
    dtype: Precision = "float32"
    """Type of the weights. Preference training at its usual rates does not move bfloat16 weights."""
    engine: Literal["batched", "vllm"] = "batched"
    """Engine that draws responses. `vllm` needs that package and a GPU; it gets the weights whenever they have changed, so that PPO
    and on-policy training draw with it, too. In one process."""
    vllm_memory_share: float = 0.6
    """Share of the GPU's memory for vLLM while it draws, in (0, 1); in a training it is free again between draws."""
    lora: LoraSpec | None = None
    """Train low-rank adapters and leave the weights as they are. Checkpoints hold the adapters alone."""

    @abstractmethod
    def load(self) -> PreTrainedModel:
        """The model, without dropout."""

    def loaded_from(self) -> str | None:
        """Folder or hub name that transformers reads the same model from; None where there is none."""
        return None

    def build(self) -> CausalLMPolicy:
        """Load, wrap and check the model."""
        # First: a backend that is lacking is said before weights are read.
        attention = self.backend_selector()
        policy = self._wrapped(self.load())
        check_log_probs(policy)
        return self._settled(policy, attention)

    def _wrapped(self, model: PreTrainedModel) -> CausalLMPolicy:
        if self.lora is not None:
            add_adapters(model, self.lora)
        self.checkpoint_layers(model)
        return CausalLMPolicy(model, layout=self.layout)

    def _settled(self, policy: CausalLMPolicy, attention: BackendSelector) -> CausalLMPolicy:
        """What is chosen after the check, which takes the attention that works everywhere: the device is not known yet."""
        policy.attention = attention
        if self.engine == "vllm":
            policy.own_engine = VLLMEngine(policy, self.dtype, self.vllm_memory_share)
        if self.lora is not None:
            policy.starts_as_base = self.lora.start_from is None
            policy.adapted_path = self.loaded_from()
        if self.compile:
            policy.compile_layers(checkpoints=bool(self.gradient_checkpointing))
        return policy


@dataclass(frozen=True)
class PretrainedPolicy(CausalLMSpec):
    """A policy with trained weights.

    Raises:
        ValueError: if weights are to be in four bits without adapters over them.
    """

    path: str
    """Hub name, local folder, or a `.gguf` file (converted once into `cache_dir`). A folder with an adapter that PEFT saved is
    read as its base with the adapter added."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    cache_dir: str = CACHE
    """Folder of converted GGUF files."""
    trust_remote_code: bool = False
    """Run the Python files that come with the weights (`auto_map`), where transformers has none for them. They run with all your
    rights and can read, send and delete what you can: read them first, and name the `revision` that you have read."""
    load_in_4bit: bool = False
    """Hold the linear layers in four bits (QLoRA), under adapters; takes the package bitsandbytes. Exports are whole weights of
    `dtype`, with the rounding that the adapters were trained over."""
    base: str | None = None
    """For an adapter: the model it was trained on, a folder or hub name; null takes the one that adapter_config.json names."""

    def __post_init__(self) -> None:
        if self.load_in_4bit and (self.lora is None or is_adapter(self.path)):
            got = "none" if self.lora is None else f"the adapter {self.path}, which four bits cannot be merged with"
            raise ValueError(
                f"expected adapters (lora) over a plain model with load_in_4bit, got {got}. Weights in four bits are not trained; "
                "to go on with an adapter set lora.start_from."
            )

    def load(self) -> PreTrainedModel:
        """Read the weights (safetensors only).

        Raises:
            ValueError: if there is no such model, weights are not finite, or some are missing, which transformers would replace by
                random ones with a warning; or if an adapter does not fit its base.
        """
        adapted = is_adapter(self.path)
        path = weights_at(base_of(self.path, self.base) if adapted else self.path, self.cache_dir)
        config = config_at(path, self.revision, trust_remote_code=self.trust_remote_code)
        require_causal_lm(config, self.path)
        model, found = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            dtype=getattr(torch, self.dtype),
            use_safetensors=True,
            quantization_config=four_bits(getattr(torch, self.dtype)) if self.load_in_4bit else None,
            output_loading_info=True,
        )
        if found["missing_keys"]:
            some = ", ".join(sorted(found["missing_keys"])[:3])
            raise ValueError(
                f"expected all weights of {type(model).__name__} in {self.path}, {len(found['missing_keys'])} are missing ({some}, "
                "...). It holds another kind of model, or was not saved whole."
            )
        model = merge_adapter(model, self.path) if adapted else model
        keep_gradients(model)
        require_finite_weights(model, f"the model in {self.path}")
        return model

    def build_sharded(self, mesh: DeviceMesh, gathering: Gathering = AS_HELD) -> CausalLMPolicy | None:
        """The policy of `build`, each rank having read its own part of the files alone.

        None, and said, where that cannot be: adapters to be merged or trained further, DoRA (whose magnitudes are norms of whole
        weights), weights that transformers converts or holds in two types, models of code of their own.
        """
        found = self._empty()
        if found is None:
            rank_zero_info(f"Every process holds the whole of {self.path} on the host until it is sharded.")
            return None
        model, files = found
        attention = self.backend_selector()
        policy = self._wrapped(model)
        device = torch.device("cpu") if mesh.device_type == "cpu" else torch.device(mesh.device_type, torch.cuda.current_device())
        shard_then_fill(policy, "model", files, lambda: policy.shard(mesh, gathering), device)
        require_finite_weights(policy, f"the model in {self.path}")
        check_log_probs(policy, gathering)
        return self._settled(policy, attention)

    def _empty(self) -> tuple[PreTrainedModel, WeightFiles] | None:
        """The model of `load` without weights, and where they are."""
        path = weights_at(self.path, self.cache_dir)
        reads_whole = self.lora is not None and (self.lora.use_dora or self.lora.start_from is not None)
        if self.trust_remote_code or self.load_in_4bit or reads_whole or is_adapter(path):
            return None
        config = config_at(path, self.revision)
        require_causal_lm(config, self.path)
        return empty_causal_lm(config, path, self.revision, getattr(torch, self.dtype))

    def loaded_from(self) -> str | None:
        """The base; None where that is an adapter merged into another, which is in no folder."""
        return None if is_adapter(self.path) else folder_of(self.path, self.cache_dir)


@dataclass(frozen=True)
class RandomPolicy(CausalLMSpec):
    """A policy with random weights, the same for the same seed."""

    config: dict[str, Any]
    """`model_type` and the fields of that model's configuration in transformers."""
    seed: int = 0
    """Seed of the initial weights."""

    def load(self) -> PreTrainedModel:
        """Initialise the weights."""
        config = without_dropout(AutoConfig.for_model(**self.config))
        require_text_decoder(config, "config")
        require_causal_lm(config, "config")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, self.dtype))
