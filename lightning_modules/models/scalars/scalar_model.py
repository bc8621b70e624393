"""A transformer with one number for every row of a packed batch: the base of reward models and critics."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import functional
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from datamodules.contracts.batches import CompletionBatch
from lightning_modules.models.adapters.lora import LoraSpec, add_adapters, has_adapters, merged_state_dict
from lightning_modules.models.attention_backends.selection import BackendSelector
from lightning_modules.models.checks.finite import require_finite_weights
from lightning_modules.models.checks.layout_check import check_rows
from lightning_modules.models.checks.limits import limits_of
from lightning_modules.models.files.pretrained import config_at, weights_at
from lightning_modules.models.files.weights import fingerprint, save_model, try_save
from lightning_modules.models.generation.mode import decoding_mode
from lightning_modules.models.heads.found_head import HEAD, has_head
from lightning_modules.models.layers.attention import PACKED_ATTENTION, PackedCall, packing_obstacle, register_packed_attention
from lightning_modules.models.layers.fused_norms import fuse_norms
from lightning_modules.models.layers.router import asks_for_balance
from lightning_modules.models.layers.segments import PackedSegments
from lightning_modules.models.sharding import AS_HELD, Gathering, shard

POOLING_ENTRY = "reward_pooling"
"""Configuration entry of a model whose head this project trains: where it is read. The judge knows by it what the model reads."""


class ScalarModel(nn.Module):
    """A Hugging Face sequence classifier with one output, read at any rows of a packed batch.

    Args:
        model: with a body that attends through transformers' attention interface and one linear layer `score` over it.
        attention: chooses the backend; the fastest that works by default.

    Raises:
        ValueError: if the model has another number of outputs, another head, or cannot be packed.
    """

    def __init__(self, model: PreTrainedModel, attention: BackendSelector | None = None) -> None:
        super().__init__()
        head = getattr(model, HEAD, None)
        obstacle = packing_obstacle(model)
        if not isinstance(head, nn.Linear) or head.out_features != 1 or obstacle is not None:
            raise ValueError(
                f"expected a sequence classifier with one output in a layer `{HEAD}` and packable attention, got "
                f"{type(model).__name__} with {getattr(head, 'out_features', 'no')} outputs and "
                f"{obstacle or 'such attention'}. Choose a decoder, such as Llama."
            )
        own = model.config._attn_implementation
        self._plain_attention = own if own != PACKED_ATTENTION else "sdpa" if model._supports_sdpa else "eager"
        register_packed_attention()
        model.set_attn_implementation(PACKED_ATTENTION)
        if not hasattr(model.config, POOLING_ENTRY):
            setattr(model.config, POOLING_ENTRY, "last")
        self.model = model
        self.limits = limits_of(model, window_remedy="")
        self.asks_for_balance = asks_for_balance(model)
        self.attention = attention or BackendSelector()
        self.adapted_path: str | None = None
        """Where the model is that adapters are trained on, if they and the head are all that changes it."""
        fuse_norms(model)

    @property
    def head(self) -> nn.Linear:
        """The linear layer over the body."""
        layer: nn.Linear = getattr(self.model, HEAD)
        return layer

    def forward(self, batch: CompletionBatch, rows: Tensor) -> Tensor:
        """The number at each of the packed rows: `[n]` for `rows` `[n]` int64 in [0, N), float32."""
        # A copy: FSDP2 watches what comes out, and would miss what is done to a view in place.
        return in_float32(self.head, self.hidden(batch, rows)).squeeze(1).float().clone()

    def hidden(self, batch: CompletionBatch, rows: Tensor) -> Tensor:
        """`[n, H]` what the head reads at packed rows."""
        self.limits.require_length(max(batch.key_lengths))
        output = self.model.base_model(
            batch.input_ids.unsqueeze(0),
            position_ids=batch.position_ids.unsqueeze(0),
            use_cache=False,
            packed=PackedCall(PackedSegments.of(batch), self.attention),
        )
        hidden: Tensor = output.last_hidden_state
        return hidden.squeeze(0).index_select(0, rows)

    @contextmanager
    def own_attention(self) -> Iterator[None]:
        """The model's own attention, in evaluation mode (see `decoding_mode`)."""
        with decoding_mode(self.model, self._plain_attention):
            yield

    def fingerprint(self) -> str:
        """Hex digest of weights and configuration."""
        return fingerprint(self.model)

    def shard(self, mesh: DeviceMesh, gathering: Gathering = AS_HELD) -> None:
        """Spread the model over the ranks of `mesh` (FSDP2), layer by layer, in place."""
        shard(self, mesh, self.model._no_split_modules or (), gathering)

    def save(self, folder: Path) -> None:
        """Write safetensors and configuration, for `load_scalar` and the reward-model judge, and adapters alone beside it.

        Raises:
            FileExistsError: if the folder holds something already.
        """
        save_model(self.model, folder, self.adapted_path, HEAD)

    def add_adapters(self, spec: LoraSpec, path: str | None = None) -> None:
        """Train adapters and the head, and leave the body as it is.

        Args:
            spec: which ones.
            path: hub name or folder that has the whole body.
        """
        add_adapters(self.model, spec, head=HEAD)
        self.adapted_path = path

    def try_save(self, folder: Path) -> None:
        """Find out whether `save` can fail, without writing weights (see `weights.try_save`)."""
        try_save(self.model, folder)


def in_float32(layer: nn.Linear, rows: Tensor) -> Tensor:
    """The layer's output in float32 or better, whatever the types of weights and autocast: bfloat16 has three digits."""
    dtype = torch.promote_types(rows.dtype, torch.float32)
    bias = None if layer.bias is None else layer.bias.to(dtype)
    with torch.autocast(rows.device.type, enabled=False):
        return functional.linear(rows.to(dtype), layer.weight.to(dtype), bias)


def load_scalar(path: str, num_layers: int | None = None, *, trust_remote_code: bool = False) -> ScalarModel:
    """Body, and head where there is one, from a hub name, a folder or a `.gguf` file; a new head has zero weights.

    Args:
        path: of a causal LM (an SFT run's policy) or of a sequence classifier with one output (a reward model).
        num_layers: of the body, the first ones, which the last norm then follows; all by default.
        trust_remote_code: run the Python files that come with the weights, with all the rights of the user.

    Raises:
        ValueError: if there is no such model, the body has fewer layers, weights are missing, NaN or infinite, or the head is
            another one.
    """
    path = weights_at(path)
    config = config_at(path, trust_remote_code=trust_remote_code)
    _require_classifier(config)
    if num_layers is not None:
        _keep_layers(config, num_layers)
    config.num_labels = 1
    model, found = AutoModelForSequenceClassification.from_pretrained(
        path,
        config=config,
        trust_remote_code=trust_remote_code,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    is_trained = has_head(path, model, found)
    scalar = ScalarModel(model)
    if not is_trained:
        nn.init.zeros_(scalar.head.weight)
    require_finite_weights(model, f"the model in {path}")
    return _checked(scalar)


def scalar_over(decoder: PreTrainedModel) -> ScalarModel:
    """A copy of a policy's body under a new head of zeros; adapters are merged into it.

    Raises:
        ValueError: if transformers has no such model.
    """
    config = copy.deepcopy(decoder.config)
    _require_classifier(config)
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForSequenceClassification.from_config(config, dtype=next(decoder.parameters()).dtype)
    model.get_decoder().load_state_dict(merged_state_dict(decoder) if has_adapters(decoder) else decoder.state_dict())
    scalar = ScalarModel(model)
    nn.init.zeros_(scalar.head.weight)
    return _checked(scalar)


def _checked(scalar: ScalarModel) -> ScalarModel:
    """Itself, if its rows are those of one sequence at a time."""
    chosen = scalar.attention
    # Before the device is known, and so with the attention that works everywhere: backends have a self-test of their own.
    scalar.attention = BackendSelector("sdpa", announce=False)
    check_rows(scalar)
    scalar.attention = chosen
    return scalar


def _require_classifier(config: PreTrainedConfig) -> None:
    own_code = getattr(config, "auto_map", None) or {}
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING and "AutoModelForSequenceClassification" not in own_code:
        raise ValueError(
            f"expected a model type with a sequence classifier in transformers, got {config.model_type}. Take another model; for "
            "PPO use a `SharedBody` critic, or RLOO, which needs no critic."
        )


def _keep_layers(config: PreTrainedConfig, number: int) -> None:
    if not 1 <= number <= config.num_hidden_layers:
        raise ValueError(
            f"expected num_layers from 1 to the body's {config.num_hidden_layers}, got {number}. Choose fewer, or null."
        )
    config.num_hidden_layers = number
    # Architectures that mix kinds of attention say for each layer which it has.
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:number]
