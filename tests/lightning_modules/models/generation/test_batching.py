"""How it is drawn plays no part in what is drawn; nothing is computed twice or for nothing; the policy is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from datamodules.contracts.prompts import Sampling
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.generation.batching import Batching
from lightning_modules.models.generation.completions import requests
from lightning_modules.models.generation.streams import uniforms
from lightning_modules.models.policy import SamplingProgress
from lightning_modules.models.toy.policy import ToyPolicy, ToyShape
from tests.lightning_modules.models.architectures import make_batch
from tests.lightning_modules.models.generation.cases import NO_EOS, PROMPTS, build, engine, token_ids

WARM = Sampling(max_new_tokens=9, temperature=1.2)
EOS = 2


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_batch_size_order_company_and_mentions_change_no_completion(layout: str) -> None:
    # float64: a boundary hit within rounding is then out of the question.
    policy = build(layout=layout, dtype="float64")
    options = {"num_samples": 4, "ends": frozenset({EOS}), "seed": 5, "on_progress": None}
    by_rows = [token_ids(engine(policy, max_rows).generate(PROMPTS, WARM, **options)) for max_rows in (1, 3, 8, 64)]  # type: ignore[arg-type]
    expected = by_rows[0]
    assert len({len(ids) for group in expected for ids in group}) > 2, "rows of several lengths, so that batches change on the way"
    assert all(groups == expected for groups in by_rows)
    backwards = policy.generate(PROMPTS[::-1], WARM, num_samples=4, eos_token_id=EOS, seed=5)
    assert token_ids(backwards)[::-1] == expected
    alone = policy.generate(PROMPTS[2:3], WARM, num_samples=2, eos_token_id=EOS, seed=5)
    assert token_ids(alone) == [expected[2][:2]]
    repeated = policy.sample([prompt for prompt in PROMPTS for _ in range(4)], WARM, eos_token_id=EOS, seed=5)
    assert repeated == [ids for group in expected for ids in group]


def test_samples_of_a_prompt_and_of_seeds_differ() -> None:
    policy = build()
    first, second = (policy.generate(PROMPTS, WARM, num_samples=4, eos_token_id=NO_EOS, seed=seed) for seed in (0, 1))
    assert len({completion.token_ids for group in (*first, *second) for completion in group}) == 2 * 4 * len(PROMPTS)


def test_longer_limit_prolongs() -> None:
    policy = build(dtype="float64")
    short, long = (policy.generate(PROMPTS, Sampling(count), num_samples=2, eos_token_id=NO_EOS, seed=0) for count in (4, 12))
    assert [[ids[:4] for ids in group] for group in token_ids(long)] == token_ids(short)


def test_streams_are_uniform_independent_and_fixed() -> None:
    stream = uniforms(0, [3, 4], 0, 5)
    # Pinned: a pool drawn today must be drawn again tomorrow.
    assert stream.tolist() == uniforms(0, [3, 4], 0, 9)[:5].tolist()
    assert ((stream >= 0) & (stream < 1)).all()
    keys = [(0, [3, 4], 0), (0, [3, 4], 1), (1, [3, 4], 0), (0, [34], 0), (0, [4, 3], 0), (0, [3, 4, 0], 0)]
    starts = {uniforms(seed, prompt, sample, 1)[0] for seed, prompt, sample in keys}
    assert len(starts) == len(keys)
    across = torch.tensor([uniforms(0, [prompt], sample, 1)[0] for prompt in range(60) for sample in range(60)])
    # Kolmogorov-Smirnov at 99.9 %: 1.95 / sqrt(n).
    steps = torch.arange(1, len(across) + 1) / len(across)
    assert (across.sort().values - steps).abs().max() < 1.95 / len(across) ** 0.5


@contextmanager
def _rows_fed(policy: CausalLMPolicy) -> Iterator[list[int]]:
    fed: list[int] = []
    hook = policy.model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: fed.append(inputs[0].numel()))
    yield fed
    hook.remove()


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_prompts_are_run_once_and_nothing_is_padding(layout: str) -> None:
    policy = build(layout=layout)
    policy.engine()  # tries its decoder once
    with _rows_fed(policy) as fed:
        groups = policy.generate([*PROMPTS, PROMPTS[0]], WARM, num_samples=5, eos_token_id=EOS, seed=0)
    # The last token of a completion is never fed.
    own = sum(len(completion.token_ids) - 1 for group in groups for completion in group)
    assert sum(fed) == sum(map(len, PROMPTS)) + own


def test_freed_rows_are_taken_by_waiting_prompts() -> None:
    policy = build()
    with _rows_fed(policy) as fed:
        groups = engine(policy, 8).generate(PROMPTS * 2, WARM, num_samples=2, ends=frozenset({EOS}), seed=0, on_progress=None)
    tokens = sum(len(completion.token_ids) for group in groups for completion in group)
    prefills = [count for count in fed if count > 8]
    assert len(fed) - len(prefills) < 1.6 * tokens / 8, "the batch of 8 is kept mostly full"
    assert max(count for count in fed if count not in prefills) <= 8


def test_buckets_hold_like_lengths_within_their_limits() -> None:
    waiting = requests([[1] * length for length in (3, 9, 5, 9, 2)], 2, greedy=False)
    waiting_lengths = [len(request.prompt) for request in waiting]
    assert waiting_lengths == [9, 5, 3, 2]
    assert [len(request.places) for request in waiting] == [4, 2, 2, 2]
    batching = Batching(max_rows=8, max_prompt_tokens=14)
    assert batching.next_bucket(waiting, 0, equal_lengths=False) == 2, "14 prompt tokens"
    assert batching.next_bucket(waiting, 0, equal_lengths=True) == 1
    assert batching.next_bucket(waiting, 3, equal_lengths=False) == 1, "room for 5 rows"
    assert batching.next_bucket(waiting, 5, equal_lengths=False) == 0, "4 rows do not fit beside 5"
    assert batching.next_bucket(waiting[1:], 7, equal_lengths=False) == 0, "less than a quarter is free"
    assert Batching(1, 1).next_bucket(waiting, 0, equal_lengths=False) == 1, "one at least when nothing runs"


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("fails", [False, True])
def test_policy_is_left_as_it_was(layout: str, fails: bool) -> None:
    policy = build(layout=layout)
    policy.train()
    frozen = next(module for module in policy.model.modules() if isinstance(module, nn.Embedding))
    frozen.eval()
    batch, attention = make_batch(), policy.model.config._attn_implementation
    before = policy(batch).logps

    def stop(progress: SamplingProgress) -> None:
        if fails and progress.num_tokens > len(PROMPTS):
            raise RuntimeError("stop here")

    if fails:
        with pytest.raises(RuntimeError, match="stop here"):
            policy.generate(PROMPTS, WARM, num_samples=1, eos_token_id=NO_EOS, seed=0, on_progress=stop)
    else:
        policy.generate(PROMPTS, WARM, num_samples=1, eos_token_id=NO_EOS, seed=0, on_progress=stop)
    assert policy.model.config._attn_implementation == attention
    assert policy.training
    assert [name for name, module in policy.named_modules() if not module.training] == [
        name for name, module in policy.named_modules() if module is frozen
    ]
    after = policy(batch).logps
    assert torch.equal(after, before)
    after.sum().backward()
    assert all(parameter.grad is not None for parameter in policy.parameters())


def test_progress_counts_tokens_and_completions() -> None:
    policy, seen = build(), list[SamplingProgress]()
    groups = policy.generate(PROMPTS, WARM, num_samples=2, eos_token_id=EOS, seed=0, on_progress=seen.append)
    tokens = sum(len(completion.token_ids) for group in groups for completion in group)
    last = seen[-1]
    assert (last.num_tokens, last.num_done, last.num_completions) == (tokens, 12, 12)
    assert last.eta_seconds == 0
    assert last.tokens_per_second == pytest.approx(tokens / last.seconds)
    assert seen[0].expected_tokens == 12 * WARM.max_new_tokens or seen[0].num_done
    assert [progress.num_tokens for progress in seen] == sorted(progress.num_tokens for progress in seen)


def test_policy_without_an_engine_draws_with_sample_and_scores_with_its_forward() -> None:
    policy = ToyPolicy(ToyShape(num_seeds=1))
    groups = policy.generate([[1], [3]], Sampling(), num_samples=5, eos_token_id=0, seed=1)
    drawn = policy.sample([[1]] * 5 + [[3]] * 5, Sampling(), eos_token_id=0, seed=1)
    assert [list(completion.token_ids) for group in groups for completion in group] == drawn
    table: Tensor = policy.logits().log_softmax(-1)[0]
    expected = [table[prompt, ids[0]].item() for prompt, ids in zip([1] * 5 + [3] * 5, drawn, strict=True)]
    assert [completion.logps.item() for group in groups for completion in group] == pytest.approx(expected, abs=1e-6)
    assert [completion.finished for group in groups for completion in group] == [ids == [0] for ids in drawn]
