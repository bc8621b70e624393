"""The vLLM engine against a stand-in with vLLM's interface: vLLM itself needs a GPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.contracts.prompts import Sampling
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.generation.vllm_engine import VLLMEngine
from lightning_modules.models.specs import PretrainedPolicy, RandomPolicy
from lightning_modules.ppo.estimators import GRPO, RLOO
from tests import tiny
from tests.lightning_modules.ppo import rig
from tests.lightning_modules.stubs import TINY

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
    """Loads the folder it is given, draws from what it loaded, and sleeps as vLLM does: at level 2 its weights are gone."""

    def __init__(self, model: str, **options: Any) -> None:
        assert options["skip_tokenizer_init"]
        assert options["enable_sleep_mode"]
        assert options["logprobs_mode"] == "raw_logprobs"
        self.folder, self.options = model, options
        self.awake = {"weights", "kv_cache"}
        self.calls = ["start"]
        self.cached: set[tuple[int, ...]] = set()
        self.policy: CausalLMPolicy | None = PretrainedPolicy(path=model).build()

    def sleep(self, level: int) -> None:
        assert level == 2
        self.calls.append("sleep")
        self.awake, self.policy = set(), None

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(f"wake {' '.join(tags)}")
        self.awake |= {*tags}

    def collective_rpc(self, method: str) -> list[None]:
        assert method == "reload_weights"
        assert "weights" in self.awake, "there is no memory to read them into"
        self.calls.append("reload")
        self.policy = PretrainedPolicy(path=self.folder).build()
        return [None]

    def reset_prefix_cache(self) -> bool:
        self.calls.append("reset")
        self.cached.clear()
        return True

    def generate(
        self, prompts: Sequence[dict[str, list[int]]], settings: Sequence[SamplingParams], use_tqdm: bool
    ) -> Iterator[Any]:
        self.calls.append("generate")
        assert self.awake == {"weights", "kv_cache"}
        assert self.policy is not None, "weights that are gone are not read again by waking up"
        asked = {tuple(prompt["prompt_token_ids"]) for prompt in prompts}
        assert not asked & self.cached, "keys and values of the weights before would be used"
        self.cached |= asked
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
    expected = policy.own_logps(PROMPTS, [[list(completion.token_ids) for completion in group] for group in groups])
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
        VLLMEngine(RandomPolicy(**tiny.POLICY["init_args"]).build())


def started(policy: CausalLMPolicy) -> LLM:
    engine = policy.engine()
    assert isinstance(engine, VLLMEngine)
    model: LLM = engine._model
    return model


def draw(policy: CausalLMPolicy) -> list[tuple[int, ...]]:
    groups = policy.generate(PROMPTS, Sampling(6), num_samples=2, eos_token_id=2, seed=5)
    return [completion.token_ids for group in groups for completion in group]


@pytest.mark.usefixtures("vllm")
def test_changed_weights_are_handed_over_and_the_others_only_after_sleep() -> None:
    policy = RandomPolicy(**tiny.POLICY["init_args"], engine="vllm").build()
    before = draw(policy)
    again = ["wake weights", "reload", "wake kv_cache", "reset", "generate", "sleep"]
    assert started(policy).calls == ["start", "generate", "sleep"]
    assert draw(policy) == before
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    changed = draw(policy)
    assert changed != before
    assert started(policy).calls == ["start", "generate", "sleep", *again, *again]
    # The same as a policy that has had the new weights from the start.
    other = RandomPolicy(**tiny.POLICY["init_args"], engine="vllm").build()
    other.load_state_dict(policy.state_dict())
    assert draw(other) == changed


@pytest.mark.usefixtures("vllm")
def test_outside_of_a_training_vllm_stays_awake() -> None:
    policy = RandomPolicy(**tiny.POLICY["init_args"], engine="vllm").build()
    with torch.inference_mode():
        policy.generate(PROMPTS[:1], Sampling(3), num_samples=1, eos_token_id=2, seed=5)
        policy.generate(PROMPTS[1:], Sampling(3), num_samples=1, eos_token_id=2, seed=5)
    assert started(policy).calls == ["start", "generate", "generate"]


@pytest.mark.usefixtures("vllm")
def test_a_draw_from_other_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = RandomPolicy(**tiny.POLICY["init_args"], engine="vllm").build()
    draw(policy)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(3)
    # vLLM says yes and keeps what it has.
    monkeypatch.setattr("lightning_modules.models.generation.vllm_engine._replace_weights", lambda save, folder: None)
    with pytest.raises(ValueError, match="expected completions drawn from the policy's weights, got log-probs from vLLM"):
        draw(policy)


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(
    ("method", "words"), [("generate", "expected completions from vLLM"), ("collective_rpc", "expected weights handed over to it")]
)
def test_a_vllm_that_fails_ends_in_words(monkeypatch: pytest.MonkeyPatch, method: str, words: str) -> None:
    def dead(*_: object, **__: object) -> None:
        raise RuntimeError("EngineCore died")

    policy = RandomPolicy(**tiny.POLICY["init_args"], engine="vllm").build()
    draw(policy)
    monkeypatch.setattr(LLM, method, dead)
    with pytest.raises(ValueError, match=rf"{words}.*got RuntimeError: EngineCore died.*--ckpt_path"):
        draw(policy)


@pytest.mark.usefixtures("vllm")
def test_a_completion_that_was_cut_short_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = RandomPolicy(**tiny.POLICY["init_args"], engine="vllm").build()
    monkeypatch.setattr(sys.modules[__name__], "_output", cut)
    with pytest.raises(ValueError, match="expected completions from vLLM, got ValueError: a completion of 1 tokens that neither"):
        policy.generate(PROMPTS, Sampling(6), num_samples=2, eos_token_id=30, seed=5)


def cut(completion: Any) -> SimpleNamespace:
    token = completion.token_ids[0]
    return SimpleNamespace(token_ids=[token], logprobs=[{token: SimpleNamespace(logprob=-1.0)}])


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_memory_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"expected vllm_memory_share in \(0, 1\)"):
        RandomPolicy(**tiny.POLICY["init_args"], engine="vllm", vllm_memory_share=share).build()


ESTIMATORS: dict[str, dict[str, Any]] = {"gae": {}, "rloo": {"advantages": RLOO()}, "grpo": {"advantages": GRPO()}}


@pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`")
@pytest.mark.filterwarnings("ignore:Rollout")
@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_rollouts_are_drawn_from_the_weights_of_the_update_before(
    estimator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[dict[str, Tensor]] = []
    generate = VLLMEngine.generate

    def noting(engine: VLLMEngine, prompts: Any, parameters: Sampling, **options: Any) -> Any:
        policy = engine._policy
        assert isinstance(policy, CausalLMPolicy)
        drawn = generate(engine, prompts, parameters, **options)
        # What vLLM read from its folder is what the policy is now, and the log-probs are the policy's own.
        read = PretrainedPolicy(path=started(policy).folder).build().state_dict()
        assert all(torch.equal(read[name], weight) for name, weight in policy.state_dict().items())
        own = policy.own_logps(prompts, [[c.token_ids for c in group] for group in drawn])
        assert all(torch.equal(c.logps, logps) for c, logps in zip((c for group in drawn for c in group), own, strict=True))
        ends.append({name: weight.clone() for name, weight in read.items()})
        return drawn

    monkeypatch.setattr(VLLMEngine, "generate", noting)
    monkeypatch.setattr(rig, "TINY", replace(TINY, engine="vllm"))
    rig.fit(tmp_path, rig.module(**ESTIMATORS[estimator]), max_steps=17)
    assert len(ends) > 1
    for before, after in pairwise(ends):
        assert any(not torch.equal(before[name], after[name]) for name in before), "the updates between have changed it"
