"""What is drawn: the model's own greedy path, its distribution, its log-probs; ends of sequences; both decoders."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from datamodules.contracts.prompts import Sampling
from tests.lightning_modules.models.generation.cases import (
    FAMILIES,
    NO_EOS,
    PROMPTS,
    build,
    distribution,
    engine,
    greedy_by_transformers,
    scored,
    token_ids,
)

WARM = Sampling(max_new_tokens=8, temperature=1.3, top_p=0.95)


@pytest.mark.parametrize(("model_type", "layout"), FAMILIES)
def test_greedy_is_what_transformers_generates(model_type: str, layout: str) -> None:
    policy = build(model_type, layout)
    parameters = Sampling(max_new_tokens=10, temperature=0)
    free = [greedy_by_transformers(policy, prompt, 10, NO_EOS) for prompt in PROMPTS]
    groups = policy.generate(PROMPTS, parameters, num_samples=2, eos_token_id=NO_EOS, seed=0)
    assert token_ids(groups) == [[completion, completion] for completion in free]
    # A token that some path takes ends it there, and others not at all: rows leave while others go on.
    eos = free[0][4]
    ended = [greedy_by_transformers(policy, prompt, 10, eos) for prompt in PROMPTS]
    assert policy.sample(PROMPTS, parameters, eos_token_id=eos, seed=0) == ended
    assert any(len(completion) < 10 for completion in ended)


@pytest.mark.parametrize(("model_type", "layout"), FAMILIES)
def test_log_probs_are_those_of_the_training_forward(model_type: str, layout: str) -> None:
    policy = build(model_type, layout)
    groups = policy.generate(PROMPTS, WARM, num_samples=3, eos_token_id=2, seed=0)
    logps = torch.cat([completion.logps for group in groups for completion in group])
    assert logps.dtype == torch.float32
    torch.testing.assert_close(logps, scored(policy, PROMPTS, groups), atol=1e-5, rtol=0)


def test_buffers_grow_with_long_completions() -> None:
    policy = build()
    groups = policy.generate(PROMPTS, Sampling(max_new_tokens=50), num_samples=2, eos_token_id=NO_EOS, seed=0)
    assert {len(completion.token_ids) for group in groups for completion in group} == {50}
    logps = torch.cat([completion.logps for group in groups for completion in group])
    torch.testing.assert_close(logps, scored(policy, PROMPTS, groups), atol=1e-5, rtol=0)


def _chi_square(draws: list[int], probs: Tensor) -> tuple[float, int]:
    """Pearson's statistic over tokens expected five times or more, the rest pooled; and its degrees of freedom."""
    observed = torch.bincount(torch.tensor(draws), minlength=len(probs)).double()
    expected = probs * len(draws)
    assert not observed[probs == 0].any(), "a token outside the nucleus was drawn"
    common = expected >= 5
    cells = torch.stack([observed, expected])
    pooled = torch.cat([cells[:, common], cells[:, ~common].sum(-1, keepdim=True)], dim=-1)
    seen, wanted = pooled[:, pooled[1] > 0]
    return float(((seen - wanted) ** 2 / wanted).sum()), len(wanted) - 1


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("parameters", [Sampling(2), Sampling(2, 0.7, 0.9), Sampling(2, 1.5, 0.6)])
def test_first_and_second_tokens_follow_the_distribution(layout: str, parameters: Sampling) -> None:
    policy, prompt, count = build(layout=layout), PROMPTS[0], 3000
    (group,) = policy.generate([prompt], parameters, num_samples=count, eos_token_id=NO_EOS, seed=11)
    first = distribution(policy, prompt, parameters)
    second = sum(p * distribution(policy, [*prompt, token], parameters) for token, p in enumerate(first.tolist()) if p)
    for position, probs in enumerate((first, second)):
        assert isinstance(probs, Tensor)
        statistic, degrees = _chi_square([completion.token_ids[position] for completion in group], probs)
        # Mean plus 3.7 standard deviations: beyond the 99.9th percentile for these degrees of freedom.
        assert statistic < degrees + 3.7 * (2 * degrees) ** 0.5 + 4


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_eos_ends_a_completion_where_it_is_drawn_and_changes_nothing_before(layout: str) -> None:
    policy = build(layout=layout, dtype="float64")
    free = policy.generate(PROMPTS, WARM, num_samples=4, eos_token_id=NO_EOS, seed=3)
    eos = free[0][0].token_ids[2]
    ended = policy.generate(PROMPTS, WARM, num_samples=4, eos_token_id=eos, seed=3)
    for before, after in zip([c for g in free for c in g], [c for g in ended for c in g], strict=True):
        ids = list(before.token_ids)
        expected = ids[: ids.index(eos) + 1] if eos in ids else ids
        assert list(after.token_ids) == expected
        assert after.finished == (eos in ids)
        assert after.logps.shape == (len(expected),)
        assert not before.finished
    assert {completion.finished for group in ended for completion in group} == {True, False}


def test_eos_as_the_last_token_allowed_counts_as_finished() -> None:
    policy = build()
    ((free,),) = policy.generate([[5]], Sampling(3), num_samples=1, eos_token_id=NO_EOS, seed=0)
    ((ended,),) = policy.generate([[5]], Sampling(3), num_samples=1, eos_token_id=free.token_ids[-1], seed=0)
    assert ended.finished


def test_one_new_token_after_a_prompt_of_one() -> None:
    policy = build()
    parameters = Sampling(max_new_tokens=1)
    ((completion,),) = policy.generate([[7]], parameters, num_samples=1, eos_token_id=NO_EOS, seed=0)
    assert len(completion.token_ids) == 1
    expected = distribution(policy, [7], parameters).log()[completion.token_ids[0]]
    assert completion.logps.item() == pytest.approx(float(expected), abs=1e-5)


def test_window_that_a_response_would_outgrow_is_refused_before_anything_is_drawn() -> None:
    policy = build("gemma2")
    with pytest.raises(ValueError, match=r"at most 32 tokens .*sliding window .*, got 47 in a prompt with its answer"):
        policy.generate(PROMPTS, Sampling(40), num_samples=1, eos_token_id=NO_EOS, seed=0)


def test_padded_layout_decodes_beyond_the_window() -> None:
    policy = build("gemma2", "padded")
    completions = policy.sample(PROMPTS[:3], Sampling(45, temperature=0), eos_token_id=NO_EOS, seed=0)
    assert completions == [greedy_by_transformers(policy, prompt, 45, NO_EOS) for prompt in PROMPTS[:3]]


def test_bad_requests_are_refused() -> None:
    policy = build()
    with pytest.raises(ValueError, match=r"no token in prompts \[1\]"):
        policy.generate([[3], []], WARM, num_samples=1, eos_token_id=2, seed=0)
    with pytest.raises(ValueError, match="num_samples >= 1"):
        policy.generate([[3]], WARM, num_samples=0, eos_token_id=2, seed=0)
    with pytest.raises(ValueError, match="max_rows"):
        engine(policy, 0)
    for bad in ({"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"temperature": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Sampling(**bad)
