"""The vLLM engine against a stand-in with vLLM's interface: vLLM itself needs a GPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from datamodules.contracts.prompts import Sampling
from lightning_modules.models.generation.vllm_engine import VLLMEngine
from lightning_modules.models.specs import PretrainedPolicy, RandomPolicy
from tests import tiny

PROMPTS = [[3, 4, 5], [6]]


@dataclass(kw_only=True)
class SamplingParams:
    n: int
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    stop_token_ids: list[int]
    logprobs: int
    detokenize: bool

    def __post_init__(self) -> None:
        if self.temperature == 0 and self.n > 1:
            raise ValueError("n must be 1 when using greedy sampling")


class LLM:
    """Loads the folder it is given, and draws from it."""

    def __init__(self, model: str, **options: Any) -> None:
        assert options["skip_tokenizer_init"]
        assert options["logprobs_mode"] == "raw_logprobs"
        self.policy = PretrainedPolicy(path=model).build()

    def generate(
        self, prompts: Sequence[dict[str, list[int]]], settings: Sequence[SamplingParams], use_tqdm: bool
    ) -> Iterator[Any]:
        for prompt, wanted in zip(prompts, settings, strict=True):
            parameters = Sampling(wanted.max_tokens, wanted.temperature, wanted.top_p)
            (group,) = self.policy.generate(
                [prompt["prompt_token_ids"]],
                parameters,
                num_samples=wanted.n,
                eos_token_id=wanted.stop_token_ids[0],
                seed=wanted.seed,
            )
            yield SimpleNamespace(outputs=[_output(completion) for completion in group])


def _output(completion: Any) -> SimpleNamespace:
    pairs = zip(completion.token_ids, completion.logps.tolist(), strict=True)
    logprobs = [{token: SimpleNamespace(logprob=logp)} for token, logp in pairs]
    return SimpleNamespace(token_ids=list(completion.token_ids), logprobs=logprobs)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vllm")
    module.__spec__ = ModuleSpec("vllm", None)
    vars(module).update(LLM=LLM, SamplingParams=SamplingParams)
    monkeypatch.setitem(sys.modules, "vllm", module)


@pytest.mark.usefixtures("vllm")
def test_the_option_draws_with_vllm_from_the_same_weights() -> None:
    policy = RandomPolicy(**tiny.POLICY["init_args"], engine="vllm").build()
    assert isinstance(policy.engine(), VLLMEngine)
    parameters = Sampling(6, temperature=0.7)
    groups = policy.generate(PROMPTS, parameters, num_samples=3, eos_token_id=2, seed=5)
    assert [len(group) for group in groups] == [3, 3]
    # The log-probs are the policy's own, at temperature 1: what its forward pass gives.
    expected = policy._own_logps(PROMPTS, [[list(completion.token_ids) for completion in group] for group in groups])
    for completion, logps in zip((c for group in groups for c in group), expected, strict=True):
        torch.testing.assert_close(completion.logps, logps, atol=1e-5, rtol=1e-5)
        assert completion.finished == (completion.token_ids[-1] == 2)
    again = policy.generate(PROMPTS, parameters, num_samples=3, eos_token_id=2, seed=5)
    other = policy.generate(PROMPTS, parameters, num_samples=3, eos_token_id=2, seed=6)
    ids = [[[c.token_ids for c in group] for group in drawn] for drawn in (groups, again, other)]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.usefixtures("vllm")
def test_greedy_samples_are_one_said_again() -> None:
    policy = RandomPolicy(**tiny.POLICY["init_args"], engine="vllm").build()
    own = RandomPolicy(**tiny.POLICY["init_args"]).build()
    greedy = Sampling(6, temperature=0)
    drawn = policy.generate(PROMPTS, greedy, num_samples=2, eos_token_id=2, seed=0)
    expected = own.generate(PROMPTS, greedy, num_samples=2, eos_token_id=2, seed=0)
    assert [[c.token_ids for c in group] for group in drawn] == [[c.token_ids for c in group] for group in expected]


@pytest.mark.usefixtures("vllm")
def test_vllm_stops_at_every_end_of_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = RandomPolicy(**tiny.POLICY["init_args"], engine="vllm").build()
    policy.own_ends = frozenset({2, 5})
    asked: list[SamplingParams] = []
    generate = LLM.generate

    def noting(model: LLM, prompts: Any, settings: Sequence[SamplingParams], use_tqdm: bool) -> Iterator[Any]:
        asked.extend(settings)
        return generate(model, prompts, settings, use_tqdm)

    monkeypatch.setattr(LLM, "generate", noting)
    groups = policy.generate(PROMPTS, Sampling(6), num_samples=8, eos_token_id=7, seed=5)
    assert [wanted.stop_token_ids for wanted in asked] == [[2, 5, 7]] * 2
    completions = [completion for group in groups for completion in group]
    assert [completion.finished for completion in completions] == [c.token_ids[-1] in (2, 5, 7) for c in completions]


def test_without_vllm_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install vllm"):
        VLLMEngine(lambda folder: Path(folder).mkdir())
