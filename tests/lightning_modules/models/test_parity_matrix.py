"""Every head, backend, precision, layout of prompts and tying together: losses and gradients within tolerance of float64.

What it is compared with: the model's own float64 forward, one sequence at a time, with log_softmax over whole logits. The weights
are the same numbers on both sides, rounded to bfloat16 first where the policy holds them so; what differs is arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from datamodules.contracts.batches import CompletionBatch, Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack
from lightning_modules.models.attention_backends.base import AttentionCase
from lightning_modules.models.attention_backends.selection import BACKENDS
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.heads import head as head_module
from lightning_modules.models.heads.tile_kernels import WRITTEN, TileKernels, fusible_gradient, fusible_update
from lightning_modules.models.heads.tiled_logits import TileShape
from lightning_modules.models.specs import RandomPolicy
from tests.lightning_modules.models.architectures import config, make_batch, sequences

OUTPUTS = {"llama": "plain", "gemma2": "soft-capped", "cohere": "multiplied", "granite": "divided", "phi": "with bias"}
"""Families by what they do to their logits."""
HEADS = {
    "one tile": (TileShape(512, 1024), WRITTEN),
    "many tiles": (TileShape(5, 7), WRITTEN),
    "fused": (TileShape(6, 8), TileKernels("fusible", fusible_update, fusible_gradient, needs_scratch=False)),
}
"""Tiles, and what is done to one; a GPU compiles the last."""


class Precision(NamedTuple):
    """How a run computes, and how far that may be from float64: relative error of the loss, and of all gradients together."""

    weights: torch.dtype
    autocast: bool
    loss: float
    gradient: float

    def context(self) -> AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16) if self.autocast else nullcontext()


PRECISIONS = {
    # transformers normalises in float32 whatever the weights are: float64 is float64 but for that.
    "float64": Precision(torch.float64, False, 1e-7, 1e-6),
    "float32": Precision(torch.float32, False, 1e-6, 1e-5),
    "bf16-mixed": Precision(torch.float32, True, 5e-3, 0.07),
    "bf16-true": Precision(torch.bfloat16, False, 5e-3, 0.07),
}


def usable_backends() -> Iterator[str]:
    case = AttentionCase("cpu", torch.float32, 8, softcap=False)
    return (backend.name for backend in BACKENDS if backend.installed and backend.obstacle(case) is None)


LAYOUTS = ("padded", *usable_backends())


@cache
def weights_and_truth(family: str, tied: bool, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The weights in `dtype`; the loss and the gradient of all of them, flat, in float64."""
    rounded = build(family, tied, layout="padded").to(dtype).double()
    batch = make_batch()
    parts = []
    with rounded.own_attention():
        for prompt, completion in sequences(batch):
            logits = rounded.model(torch.tensor([prompt + completion]), use_cache=False).logits[0, len(prompt) - 1 : -1]
            parts.append(logits.double().log_softmax(-1).gather(1, torch.tensor(completion)[:, None]).squeeze(1))
    loss = loss_of(torch.cat(parts), batch)
    loss.backward()
    return rounded.state_dict(), loss.detach(), gradient_of(rounded)


def build(family: str, tied: bool, **options: Any) -> CausalLMPolicy:
    return RandomPolicy(config(family) | {"tie_word_embeddings": tied}, seed=1, **options).build()


def loss_of(logps: Tensor, batch: CompletionBatch) -> Tensor:
    """A margin of summed log-probs through a logistic, as DPO has it."""
    sums = logps.new_zeros(batch.num_sequences).index_add(0, batch.target_sequence, logps)
    return -functional.logsigmoid(0.1 * (sums[::2] - sums[1::2])).sum()


def gradient_of(policy: CausalLMPolicy) -> Tensor:
    return torch.cat([p.grad.double().flatten() for _, p in sorted(policy.named_parameters()) if p.grad is not None])


def unshared(batch: CompletionBatch) -> CompletionBatch:
    """The same sequences in the same order, each with a prompt of its own."""
    return pack(
        [
            Example(tuple(prompt), (TokenizedCompletion(tuple(completion), Role.SAMPLE, "made up"),))
            for prompt, completion in sequences(batch)
        ]
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("family", "tied"), list(product(OUTPUTS, (True, False))))
def test_losses_and_gradients_are_those_of_float64(
    family: str, tied: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arithmetic = PRECISIONS[precision]
    state, want_loss, want_gradient = weights_and_truth(family, tied, arithmetic.weights)
    for layout in LAYOUTS:
        attention = {"layout": "padded"} if layout == "padded" else {"attention": layout}
        policy = build(family, tied, **attention).to(arithmetic.weights)
        policy.load_state_dict(state)
        for shared, head in product((True, False), HEADS):
            tile, kernels = HEADS[head]
            monkeypatch.setattr(head_module, "CPU_TILE", tile)
            monkeypatch.setattr(head_module, "kernels_for", lambda _, kernels=kernels: kernels)
            loss, gradient = run(policy, make_batch() if shared else unshared(make_batch()), arithmetic)
            assert loss.dtype == torch.promote_types(arithmetic.weights, torch.float32)
            assert abs(loss - want_loss) <= arithmetic.loss * want_loss, (layout, shared, head)
            error = (gradient - want_gradient).norm() / want_gradient.norm()
            assert error <= arithmetic.gradient, (layout, shared, head)


def run(policy: CausalLMPolicy, batch: CompletionBatch, arithmetic: Precision) -> tuple[Tensor, Tensor]:
    """Loss and gradient."""
    policy.zero_grad()
    with arithmetic.context():
        loss = loss_of(policy(batch).logps, batch)
    loss.backward()
    return loss.detach(), gradient_of(policy)
