"""Models that cannot be decoded as others are: without a cache, or with one that gives other distributions."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from datamodules.contracts.prompts import Sampling
from lightning_modules.models.generation.decoders.cached_decoder import CachedDecoder
from lightning_modules.models.generation.decoders.packed_decoder import PackedDecoder
from lightning_modules.models.generation.decoders.uncached_decoder import UncachedDecoder
from lightning_modules.models.specs import RandomPolicy
from tests.lightning_modules.models.architectures import config
from tests.lightning_modules.models.generation.cases import NO_EOS, PROMPTS, build, scored

SIZES = {"vocab_size": 41, "hidden_size": 32, "num_hidden_layers": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
WITHOUT_CACHE: dict[str, dict[str, Any]] = {
    "mamba": {**SIZES, "state_size": 4},
    "rwkv": {**SIZES, "attention_hidden_size": 32, "context_length": 64},
    "openai-gpt": {"vocab_size": 41, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
}


@pytest.mark.parametrize("model_type", WITHOUT_CACHE)
def test_a_model_without_a_cache_is_sampled_by_whole_passes_and_says_so(model_type: str, caplog: pytest.LogCaptureFixture) -> None:
    policy = RandomPolicy({"model_type": model_type, **WITHOUT_CACHE[model_type]}, seed=1, layout="padded").build()
    with caplog.at_level(logging.INFO):
        groups = policy.generate(PROMPTS, Sampling(7), num_samples=3, eos_token_id=5, seed=0)
    assert "is sampled without a cache" in caplog.text
    drawn = torch.cat([completion.logps for group in groups for completion in group])
    torch.testing.assert_close(drawn, scored(policy, PROMPTS, groups), atol=1e-5, rtol=1e-5)
    assert isinstance(policy.engine()._decoder, UncachedDecoder)  # type: ignore[attr-defined]


def test_a_model_whose_packed_decoding_goes_wrong_is_decoded_with_its_own_cache() -> None:
    """DiffLlama asks for attention twice a layer, and the packed decoder keeps one set of keys and values."""
    policy = RandomPolicy(config("llama") | {"model_type": "diffllama"}, seed=1).build()
    groups = policy.generate(PROMPTS, Sampling(7), num_samples=2, eos_token_id=NO_EOS, seed=0)
    drawn = torch.cat([completion.logps for group in groups for completion in group])
    torch.testing.assert_close(drawn, scored(policy, PROMPTS, groups), atol=1e-5, rtol=1e-5)
    assert isinstance(policy.engine()._decoder, CachedDecoder)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("layout", "kind"), [("packed", PackedDecoder), ("padded", CachedDecoder)])
def test_other_models_have_the_decoder_of_their_layout_under_autocast_too(layout: str, kind: type) -> None:
    policy = build("gemma2", layout)
    with torch.autocast("cpu", torch.bfloat16):
        assert isinstance(policy.engine()._decoder, kind)  # type: ignore[attr-defined]


def test_noise_in_a_router_is_switched_off() -> None:
    """A policy in training mode is compared with its reference token by token: what jitter changes would look like learning."""
    fields = config("llama") | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
    policy = RandomPolicy({**fields, "router_jitter_noise": 0.3}, seed=1).build()
    plain = RandomPolicy(fields, seed=1).build()
    groups = plain.generate(PROMPTS, Sampling(7), num_samples=1, eos_token_id=NO_EOS, seed=0)
    torch.testing.assert_close(scored(policy.train(), PROMPTS, groups), scored(plain.eval(), PROMPTS, groups))
