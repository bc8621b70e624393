"""A Hugging Face causal language model as a policy: packed forward pass, tiled output head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.prompts import Sampling
from lightning_modules.models.attention_backends.selection import BackendSelector
from lightning_modules.models.checks.limits import ModelLimits, limits_of
from lightning_modules.models.ends import ends_of
from lightning_modules.models.files.weights import fingerprint, save_model, try_save
from lightning_modules.models.generation.batched import BatchedEngine
from lightning_modules.models.generation.choice import body_of, decoders_of, first_right
from lightning_modules.models.generation.engine import SamplingEngine
from lightning_modules.models.heads.head import HeadStats, ScoringHead
from lightning_modules.models.heads.output_head import LinearHead
from lightning_modules.models.heads.tiled_logits import LogitTransform
from lightning_modules.models.layers.attention import PACKED_ATTENTION, PackedCall, packing_obstacle, register_packed_attention
from lightning_modules.models.layers.compiling import compile_layers, uncompiled
from lightning_modules.models.layers.fused_norms import fuse_norms
from lightning_modules.models.layers.padded import pad
from lightning_modules.models.layers.router import balance_loss_of, row_weights
from lightning_modules.models.layers.segments import PackedSegments
from lightning_modules.models.policy import OnProgress, Policy, SampledCompletion
from lightning_modules.models.sharding import AS_HELD, Gathering, gathers, shard, whole, whole_copy
from lightning_modules.token_stats import TokenStats

Layout = Literal["packed", "padded"]
"""`packed`: no padding, a prompt's rows once. `padded`: a row a completion, for models that cannot be packed."""

_PADDED = " Or use `layout: padded`, which has windows."


class CausalLMPolicy(Policy):
    """Wraps a causal LM. Scores only the K completion tokens, and never forms `[N, V]` logits.

    Args:
        model: the model, its dropout at 0; its output layer is replaced by a `ScoringHead` that shares the parameters.
        layout: how a batch is run.
        attention: chooses the backend of the packed layout; segment by segment by default.

    Raises:
        ValueError: if the model cannot be packed.
    """

    def __init__(self, model: PreTrainedModel, *, layout: Layout = "packed", attention: BackendSelector | None = None) -> None:
        super().__init__()
        if layout not in ("packed", "padded"):
            raise ValueError(f"expected layout packed or padded, got {layout!r}.")
        self.model = model
        self.layout = layout
        self.compiled, self.can_compare = False, True
        self.starts_as_base = False
        """Whether it has adapters, and began as the model under them."""
        self.adapted_path: str | None = None
        """Where the model is that adapters are trained on, if they are all that changes it."""
        self.own_engine: SamplingEngine | None = None
        # A list, which hides it from `modules()` and `state_dict()`.
        self._whole: list[PreTrainedModel] = []
        self._decoder: int | None = None
        self.vocab_size = _adopt_head(model).out_features
        self.limits: ModelLimits = limits_of(model, window_remedy=_PADDED if layout == "packed" else None)
        self.own_ends = ends_of(model, self.vocab_size)
        self._balance_loss = balance_loss_of(model)
        self._plain_attention = model.config._attn_implementation
        self.attention = attention or BackendSelector("sdpa", announce=False)
        fuse_norms(model)
        if layout == "packed":
            _refuse_unpackable(model)
            register_packed_attention()
            model.set_attn_implementation(PACKED_ATTENTION)
        self.train()

    def forward(self, batch: CompletionBatch) -> TokenStats:
        """Statistics at the K scored positions (see `Policy`)."""
        hidden, balance_loss = self._hidden(batch)
        stats = self._head(hidden, batch.target_ids, self.compared(batch))
        assert isinstance(stats, HeadStats), "a head given targets returns statistics"
        return TokenStats(
            **stats._asdict(),
            target_sequence=batch.target_sequence,
            num_sequences=batch.num_sequences,
            hidden=hidden.detach(),
            balance_loss=balance_loss,
        )

    def output_head(self, batch: CompletionBatch) -> LinearHead:
        """The model's output layer (see `Policy`)."""
        head = self._head
        assert isinstance(head, ScoringHead), "the model's head was replaced when the policy was built"
        bias = None if head.bias is None else whole(head.bias.detach())
        return LinearHead(whole(head.weight.detach()), bias, LogitTransform(head.scale, head.softcap))

    @property
    def _head(self) -> nn.Module:
        head: nn.Module = self.model.get_output_embeddings()
        return head

    @property
    def _body(self) -> nn.Module:
        return body_of(self.model)

    def _hidden(self, batch: CompletionBatch) -> tuple[Tensor, Tensor | None]:
        """`[K, H]` input of the head at the scored positions, and the load-balancing loss where one is trained."""
        self.limits.require_length(max(batch.key_lengths))
        return self._padded_hidden(batch) if self.layout == "padded" else self._packed_hidden(batch)

    def _packed_hidden(self, batch: CompletionBatch) -> tuple[Tensor, Tensor | None]:
        # use_cache=False is not a matter of memory only: with a cache, masks and positions are derived differently.
        output = self._body(
            batch.input_ids.unsqueeze(0),
            position_ids=batch.position_ids.unsqueeze(0),
            use_cache=False,
            packed=PackedCall(PackedSegments.of(batch), self.attention),
            **self._routing,
        )
        rows: Tensor = output.last_hidden_state
        return rows.squeeze(0).index_select(0, batch.target_index), self._balance(output, row_weights(batch))

    def _padded_hidden(self, batch: CompletionBatch) -> tuple[Tensor, Tensor | None]:
        padded = pad(batch)
        output = self._body(
            padded.input_ids,
            attention_mask=padded.attention_mask,
            position_ids=padded.position_ids,
            use_cache=False,
            **self._routing,
        )
        rows: Tensor = output.last_hidden_state
        return rows.flatten(0, 1).index_select(0, padded.target_index), self._balance(output, padded.attention_mask)

    @property
    def _routing(self) -> dict[str, bool]:
        """Asks the body for what the load-balancing loss reads, where a loss is to be differentiated."""
        wanted = self._balance_loss is not None and self.training and torch.is_grad_enabled()
        return {"output_router_logits": True} if wanted else {}

    def _balance(self, output: ModelOutput, weights: Tensor) -> Tensor | None:
        return self._balance_loss(output.router_logits, weights) if self._balance_loss and self._routing else None

    def sample(self, prompts: Sequence[Sequence[int]], parameters: Sampling, *, eos_token_id: int, seed: int) -> list[list[int]]:
        """One completion for each prompt (see `Policy`); of a prompt given k times, its samples 0 to k - 1."""
        groups = self.generate(prompts, parameters, num_samples=1, eos_token_id=eos_token_id, seed=seed)
        return [list(group[0].token_ids) for group in groups]

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        parameters: Sampling,
        *,
        num_samples: int,
        eos_token_id: int,
        seed: int,
        on_progress: OnProgress | None = None,
    ) -> list[list[SampledCompletion]]:
        """Completions with their log-probs (see `Policy`, and `BatchedEngine` for what the seed promises)."""
        longest = max(map(len, prompts), default=0) + parameters.max_new_tokens
        self.limits.require_length(longest, "a prompt with its answer", f"Lower max_new_tokens ({parameters.max_new_tokens}).")
        with self.gathered(), uncompiled() if self.compiled else nullcontext():
            return self.engine().generate(
                prompts, parameters, num_samples=num_samples, ends=self.ends(eos_token_id), seed=seed, on_progress=on_progress
            )

    def compile_layers(self, backend: Any = "inductor", *, checkpoints: bool = False) -> None:  # noqa: ANN401
        """Compile the decoder layers for training and scoring; sampling runs them as they are (see `compiling`)."""
        compile_layers(self.model, backend=backend, checkpoints=checkpoints)
        self.compiled = True

    def engine(self) -> SamplingEngine:
        """What this policy is sampled with: `own_engine`, where one was set."""
        if self.own_engine is not None:
            return self.own_engine
        model = self._whole[0] if self._whole else self.model
        decoders = decoders_of(model, self.attention if self.layout == "packed" else None, self._plain_attention)
        if self._decoder is None:
            self._decoder = first_right(model, decoders)
        return BatchedEngine(decoders[self._decoder])

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Holds a whole copy of sharded weights to sample from (see `Policy`)."""
        if self._whole or not gathers(self):
            yield
            return
        self._whole.append(whole_copy(self.model, as_computed=True))
        try:
            yield
        finally:
            self._whole.clear()

    @contextmanager
    def own_attention(self) -> Iterator[None]:
        """Evaluation mode with the model's own attention, which knows caches; puts back what was there."""
        packed, training = self.model.config._attn_implementation, self.training
        self.eval()
        self.model.set_attn_implementation(self._plain_attention)
        try:
            yield
        finally:
            self.model.set_attn_implementation(packed)
            self.train(training)

    def fingerprint(self) -> str:
        """sha256 over weights and configuration (see `Policy`)."""
        return fingerprint(self.model)

    def save(self, folder: Path) -> None:
        """Write safetensors and configuration, for `PretrainedPolicy(str(folder))`, and adapters alone beside it (see `Policy`)."""
        save_model(self.model, folder, self.adapted_path)

    def try_save(self, folder: Path) -> None:
        """Find out whether `save` can fail, without writing weights (see `weights.try_save`)."""
        try_save(self.model, folder)

    def shard(self, mesh: DeviceMesh, gathering: Gathering = AS_HELD) -> None:
        """Spread the model over the ranks of `mesh`, layer by layer (see `Policy`)."""
        shard(self, mesh, self.model._no_split_modules or (), gathering)


def _adopt_head(model: PreTrainedModel) -> ScoringHead:
    linear = model.get_output_embeddings()
    if not isinstance(linear, nn.Linear):
        raise ValueError(
            f"expected a causal LM with a linear output layer, got {type(linear).__name__}. It cannot be a policy as it is: save "
            "it with a linear layer that gives the same logits (a normalised head's rows divided by their norms), and load that."
        )
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    head = ScoringHead.adopt(linear, softcap=getattr(config, "final_logit_softcapping", None), scale=scale)
    model.set_output_embeddings(head)
    return head


def _refuse_unpackable(model: PreTrainedModel) -> None:
    obstacle = packing_obstacle(model)
    if obstacle is not None:
        raise ValueError(
            f"expected a model whose every layer attends through transformers' attention interface, got {type(model).__name__} "
            f"with {obstacle}. Use `layout: padded`."
        )
