"""Sampling: the policy's own distribution, reproducible, and nothing else in the process disturbed."""

from __future__ import annotations

import pytest
import torch

from datamodules.contracts.prompts import Sampling
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.specs import RandomPolicy
from tests.lightning_modules.models.architectures import VOCAB, config

EOS = 2
PROMPTS = [[3, 4, 5, 6, 7], [8], [9, 10, 11], [12, 13]]


@pytest.fixture
def policy() -> CausalLMPolicy:
    return RandomPolicy(config("llama"), seed=1).build()


def test_greedy_is_the_argmax_of_the_model_itself(policy: CausalLMPolicy) -> None:
    completions = policy.sample(PROMPTS, Sampling(max_new_tokens=6, temperature=0), eos_token_id=EOS, seed=0)
    with torch.no_grad(), policy.own_attention():
        for prompt, completion in zip(PROMPTS, completions, strict=True):
            for length in range(len(completion)):
                logits = policy.model(torch.tensor([prompt + completion[:length]]), use_cache=False).logits[0, -1]
                assert int(logits.argmax()) == completion[length]


def test_frequencies_are_the_models_probabilities_whatever_its_own_settings_say(policy: CausalLMPolicy) -> None:
    policy.model.generation_config.update(top_k=1, repetition_penalty=5.0, do_sample=False)
    draws = policy.sample([[3, 4]] * 4000, Sampling(max_new_tokens=1), eos_token_id=EOS, seed=0)
    frequencies = torch.bincount(torch.tensor(draws).flatten(), minlength=VOCAB) / 4000
    with torch.no_grad(), policy.own_attention():
        probs = policy.model(torch.tensor([[3, 4]])).logits[0, -1].softmax(-1)
    # Five standard deviations of a frequency.
    assert ((frequencies - probs).abs() <= 5 * (probs * (1 - probs) / 4000).sqrt() + 1e-6).all()
    assert policy.model.generation_config.top_k == 1


def test_seed_decides_and_the_global_random_state_does_not(policy: CausalLMPolicy) -> None:
    parameters = Sampling(max_new_tokens=8)
    first = policy.sample(PROMPTS, parameters, eos_token_id=EOS, seed=7)
    torch.manual_seed(123)
    expected = torch.rand(1)
    torch.manual_seed(123)
    assert policy.sample(PROMPTS, parameters, eos_token_id=EOS, seed=7) == first
    assert torch.equal(torch.rand(1), expected)
    assert policy.sample(PROMPTS, parameters, eos_token_id=EOS, seed=8) != first


def test_ends_with_eos_or_was_cut(policy: CausalLMPolicy) -> None:
    completions = policy.sample(PROMPTS * 10, Sampling(max_new_tokens=30), eos_token_id=EOS, seed=0)
    ended = [completion for completion in completions if EOS in completion]
    assert ended, "a uniform-ish model of 41 tokens ends some of 40 completions of 30 tokens"
    assert all(completion.index(EOS) == len(completion) - 1 for completion in ended)
    assert all(len(completion) == 30 for completion in completions if EOS not in completion)


def test_of_no_prompts_there_are_no_completions(policy: CausalLMPolicy) -> None:
    assert policy.sample([], Sampling(), eos_token_id=EOS, seed=0) == []


def test_nucleus_keeps_the_likeliest_tokens_only(policy: CausalLMPolicy) -> None:
    draws = policy.sample([[3, 4]] * 200, Sampling(max_new_tokens=1, top_p=1e-6), eos_token_id=EOS, seed=0)
    assert len({tuple(draw) for draw in draws}) == 1


def test_packed_attention_and_training_mode_are_put_back(policy: CausalLMPolicy) -> None:
    before = policy.model.config._attn_implementation
    policy.train()
    policy.sample(PROMPTS, Sampling(max_new_tokens=1), eos_token_id=EOS, seed=0)
    assert policy.model.config._attn_implementation == before == "prefscope_packed"
    assert policy.training
    policy.eval()
    policy.sample(PROMPTS, Sampling(max_new_tokens=1), eos_token_id=EOS, seed=0)
    assert not policy.model.training


def test_works_under_gradient_checkpointing(policy: CausalLMPolicy) -> None:
    parameters = Sampling(max_new_tokens=5)
    checkpointed = RandomPolicy(config("llama"), seed=1, gradient_checkpointing=True).build()
    assert checkpointed.sample(PROMPTS, parameters, eos_token_id=EOS, seed=1) == policy.sample(
        PROMPTS, parameters, eos_token_id=EOS, seed=1
    )
