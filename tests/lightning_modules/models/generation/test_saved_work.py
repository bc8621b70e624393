"""What a token does not do again, with the same completions: cast weights, read a prompt apart, wait for the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from datamodules.contracts.prompts import Sampling
from lightning_modules.models.adapters.lora import LoraSpec, add_adapters
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.generation import batching
from lightning_modules.models.generation.batching import Batching, batching_for, row_bytes
from lightning_modules.models.generation.decoders import packed_cohort
from lightning_modules.models.generation.half_weights import half_weights
from lightning_modules.models.layers import fused_norms
from tests.lightning_modules.models.generation.cases import (
    FAMILIES,
    NO_EOS,
    PROMPTS,
    build,
    engine,
    greedy_by_transformers,
    scored,
    token_ids,
)

WARM = Sampling(max_new_tokens=9, temperature=1.2)
EOS = 2
AUTOCAST: dict[str, Any] = {"device_type": "cpu", "dtype": torch.bfloat16, "cache_enabled": False}
"""As Lightning has it."""


@contextmanager
def as_on_a_device(tokens_per_read: int = 3) -> Iterator[None]:
    """Rows hold their prompts, and the host looks every few tokens."""
    with (
        patch.object(fused_norms, "has_kernel", lambda _: True),
        patch.object(packed_cohort, "is_worth_sharing", lambda *_: False),
        patch(
            "lightning_modules.models.generation.decoders.decoder.batching_for",
            lambda *_: Batching(5, tokens_per_read=tokens_per_read),
        ),
    ):
        yield


@pytest.mark.parametrize(("model_type", "layout"), FAMILIES)
def test_a_device_draws_what_transformers_generates_and_its_log_probs_are_the_forwards(model_type: str, layout: str) -> None:
    policy = build(model_type, layout)
    parameters = Sampling(max_new_tokens=10, temperature=0)
    eos = greedy_by_transformers(policy, PROMPTS[0], 10, NO_EOS)[4]
    with as_on_a_device():
        greedy = policy.sample(PROMPTS, parameters, eos_token_id=eos, seed=0)
        groups = policy.generate(PROMPTS, WARM, num_samples=3, eos_token_id=EOS, seed=0)
    assert greedy == [greedy_by_transformers(policy, prompt, 10, eos) for prompt in PROMPTS]
    logps = torch.cat([completion.logps for group in groups for completion in group])
    torch.testing.assert_close(logps, scored(policy, PROMPTS, groups), atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("tokens_per_read", [2, 4, 50])
def test_how_often_the_host_looks_changes_no_completion(layout: str, tokens_per_read: int) -> None:
    policy = build(layout=layout, dtype="float64")
    expected = policy.generate(PROMPTS, WARM, num_samples=4, eos_token_id=EOS, seed=5)
    with as_on_a_device(tokens_per_read):
        groups = policy.generate(PROMPTS, WARM, num_samples=4, eos_token_id=EOS, seed=5)
    assert token_ids(groups) == token_ids(expected)
    assert [c.finished for group in groups for c in group] == [c.finished for group in expected for c in group]
    assert {c.finished for group in groups for c in group} == {True, False}
    torch.testing.assert_close([c.logps for group in groups for c in group], [c.logps for group in expected for c in group])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_diverged_weights_are_named(temperature: float) -> None:
    policy = build()
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[7] = torch.nan
    for tokens_per_read in (1, 4):
        with as_on_a_device(tokens_per_read), pytest.raises(ValueError, match="diverged"):
            policy.generate(PROMPTS, Sampling(9, temperature), num_samples=1, eos_token_id=EOS, seed=0)


class _Casts(TorchDispatchMode):
    """Shapes of float32 numbers that are made bfloat16."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: list[tuple[int, ...]] = []

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].dtype == torch.float32 and kwargs.get("dtype") == torch.bfloat16:
            self.shapes.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
@pytest.mark.parametrize("frozen", [False, True])
def test_weights_are_cast_once_a_call(model_type: str, frozen: bool) -> None:
    # Autocast's own cache holds no frozen weights.
    policy = build(model_type).requires_grad_(not frozen)
    # GPT-2's products are no nn.Linear; biases and norms have one dimension.
    shapes = {tuple(p.shape) for n, p in policy.named_parameters() if p.dim() == 2 and not n.endswith(("wte.weight", "wpe.weight"))}
    counts = []
    for new_tokens in (2, 6):
        with torch.autocast(**AUTOCAST), _Casts() as casts:
            policy.generate(PROMPTS, Sampling(new_tokens), num_samples=1, eos_token_id=NO_EOS, seed=0)
        counts.append(sum(shape in shapes for shape in casts.shapes))
    assert counts[0] == counts[1] > 4


def _hidden_and_logits(policy: CausalLMPolicy) -> tuple[Tensor, Tensor]:
    with policy.own_attention(), torch.no_grad():
        output = policy.model(torch.tensor([PROMPTS[0]]), output_hidden_states=True, use_cache=False)
    return output.hidden_states[-1], output.logits


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gemma2", "gpt2", "gpt_neox", "adapted"])
def test_half_weights_give_the_bits_of_autocast(model_type: str) -> None:
    policy = build("llama" if model_type == "adapted" else model_type)
    if model_type == "adapted":
        add_adapters(policy.model, LoraSpec(r=2))
        for name, parameter in policy.named_parameters():
            nn.init.normal_(parameter, std=0.1) if ".lora_B." in name else None
    before = dict(policy.named_parameters())
    with torch.autocast(**AUTOCAST):
        expected = _hidden_and_logits(policy)
        with half_weights(policy.model):
            assert any(parameter.dtype == torch.bfloat16 for parameter in policy.parameters())
            hidden, logits = _hidden_and_logits(policy)
    assert torch.equal(hidden, expected[0])
    assert torch.equal(logits, expected[1])
    after = dict(policy.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is parameter for name, parameter in before.items())
    assert not any(module._forward_pre_hooks for module in policy.model.modules())


def test_weights_are_put_back_after_an_error_and_left_alone_without_autocast_and_in_float64() -> None:
    policy = build()
    before = dict(policy.named_parameters())
    with pytest.raises(RuntimeError, match="stop"), torch.autocast(**AUTOCAST), half_weights(policy.model):
        raise RuntimeError("stop")
    with half_weights(policy.model):
        assert all(parameter is before[name] for name, parameter in policy.named_parameters())
    with torch.autocast(**AUTOCAST), half_weights(policy.double().model):
        assert {parameter.dtype for parameter in policy.parameters()} == {torch.float64}


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gpt2"])
def test_a_row_has_the_memory_that_its_keys_and_values_take(model_type: str) -> None:
    policy, stores = build(model_type), []
    start = packed_cohort.PackedCohort.store

    def noted(self: Any, layer: nn.Module, keys: Tensor, values: Tensor) -> None:
        start(self, layer, keys, values)
        stores.append(self.stores[layer])

    policy.engine()  # tries decoders
    with as_on_a_device(), patch.object(packed_cohort.PackedCohort, "store", noted):
        policy.generate([[3] * 7], Sampling(5), num_samples=4, eos_token_id=NO_EOS, seed=0)
    held = sum(buffer.numel() * buffer.element_size() for store in stores for buffer in store._buffers)
    assert held == 4 * (row_bytes(policy.model, 12) - row_bytes(policy.model, 0))


def test_rows_by_memory_on_cuda_and_as_many_as_ever_on_a_cpu() -> None:
    policy = build()
    assert batching_for(policy.model, 100) == Batching(64, tokens_per_read=1)
    device = torch.device("cuda", 0)
    with (
        patch.object(batching, "_device", lambda _: device),
        patch.object(torch.cuda, "mem_get_info", lambda _: (10**9, 2 * 10**9)),
        patch.object(torch.cuda, "memory_reserved", lambda _: 5 * 10**8),
        patch.object(torch.cuda, "memory_allocated", lambda _: 3 * 10**8),
    ):
        # 2 layers, 2 heads of 8, keys and values, 4 bytes: 256 a token; 24 for each of 41 tokens of the vocabulary.
        assert batching_for(policy.model, 100).max_rows == int(0.4 * 1.2e9) // (256 * 100 + 24 * 41)
        assert batching_for(policy.model, 10**8).max_rows == 1
        assert batching_for(policy.model, 100).tokens_per_read > 1


def test_engine_takes_the_batching_it_is_given() -> None:
    policy = build()
    with patch("lightning_modules.models.generation.decoders.decoder.batching_for", side_effect=AssertionError):
        engine(policy, 3).generate([[3]], WARM, num_samples=4, ends=frozenset(), seed=0, on_progress=None)
