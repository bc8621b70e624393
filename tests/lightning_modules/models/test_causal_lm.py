"""Packed with shared prompts == padded == one sequence at a time, for every supported family."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from datamodules.contracts.batches import CompletionBatch
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.checks.layout_check import check_log_probs
from lightning_modules.models.layers.segments import PackedSegments
from lightning_modules.models.specs import PretrainedPolicy, RandomPolicy
from lightning_modules.token_stats import softmax_gradient_l1, softmax_gradient_l2
from tests.lightning_modules.models.architectures import NOT_PACKABLE, PACKABLE, VOCAB, config, make_batch, sequences

FLOAT64_THROUGHOUT = ("gpt2", "gpt_neox", "opt")
"""Families whose float64 is float64 throughout; the others normalise in float32 whatever the weights are."""


def tolerance_of(model_type: str, dtype: str) -> float:
    if dtype == "float32":
        return 1e-5
    return 1e-10 if model_type in FLOAT64_THROUGHOUT else 1e-6


def spec(model_type: str = "llama", **options: Any) -> RandomPolicy:
    return replace(RandomPolicy(config(model_type), seed=1), **options)


def pairwise_loss(sequence_logps: Tensor) -> Tensor:
    """DPO-like: a margin of summed log-probs through a logistic."""
    return -functional.logsigmoid(0.3 * (sequence_logps[::2] - sequence_logps[1::2]) - 0.1).sum()


def own_log_probs(policy: CausalLMPolicy, batch: CompletionBatch) -> Tensor:
    """`[K]`: the whole Hugging Face model on one sequence at a time, plain log_softmax."""
    parts = []
    with policy.own_attention():
        for prompt, completion in sequences(batch):
            logits = policy.model(torch.tensor([prompt + completion]), use_cache=False).logits[0]
            log_probs = logits[len(prompt) - 1 : -1].log_softmax(-1)
            parts.append(log_probs.gather(1, torch.tensor(completion)[:, None]).squeeze(1))
    return torch.cat(parts)


def loss_and_gradients(policy: CausalLMPolicy, batch: CompletionBatch, logps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    sums = logps.new_zeros(batch.num_sequences).index_add(0, batch.target_sequence, logps)
    loss = pairwise_loss(sums)
    policy.zero_grad()
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in policy.model.named_parameters() if p.grad is not None}


def assert_same(got: tuple[Tensor, dict[str, Tensor]], want: tuple[Tensor, dict[str, Tensor]], tolerance: float) -> None:
    torch.testing.assert_close(got[0], want[0], rtol=tolerance, atol=0)
    assert got[1].keys() == want[1].keys()
    whole = torch.stack([grad.norm() for grad in want[1].values()]).norm()
    for name, gradient in want[1].items():
        # Relative to the parameter's own gradient; the second term is for gradients that are zero but for rounding (key biases).
        assert (got[1][name] - gradient).norm() <= tolerance * gradient.norm() + 0.1 * tolerance * whole, name


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("model_type", PACKABLE)
def test_packed_and_padded_equal_one_sequence_at_a_time(model_type: str, dtype: str) -> None:
    batch, tolerance = make_batch(), tolerance_of(model_type, dtype)
    packed = spec(model_type, dtype=dtype).build()
    padded = spec(model_type, dtype=dtype, layout="padded").build()
    wanted_logps = own_log_probs(packed, batch)
    wanted = loss_and_gradients(packed, batch, wanted_logps)
    for policy in (packed, padded):
        stats = policy(batch)
        torch.testing.assert_close(stats.logps, wanted_logps, rtol=tolerance, atol=tolerance)
        assert_same(loss_and_gradients(policy, batch, stats.logps), wanted, tolerance)


@pytest.mark.parametrize("model_type", NOT_PACKABLE)
def test_a_model_that_cannot_be_packed_says_so_and_works_padded(model_type: str) -> None:
    with pytest.raises(ValueError, match=r"attention of its own.*layout: padded"):
        spec(model_type).build()
    policy = spec(model_type, layout="padded", dtype="float64").build()
    batch = make_batch()
    torch.testing.assert_close(policy(batch).logps, own_log_probs(policy, batch), rtol=1e-6, atol=1e-6)


def test_a_sliding_window_shorter_than_a_sequence_is_refused_and_works_padded() -> None:
    windowed = config("mistral") | {"sliding_window": 11}
    policy = RandomPolicy(windowed).build()
    batch = make_batch()
    with pytest.raises(ValueError, match=r"at most 11 tokens .*sliding window of Mistral.*got 13 .*layout: padded"):
        policy(batch)
    padded = RandomPolicy(windowed, layout="padded", dtype="float64").build()
    torch.testing.assert_close(padded(batch).logps, own_log_probs(padded, batch), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("model_type", PACKABLE)
def test_the_set_up_check_notices_a_leak(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = {name: value for name, value in config(model_type).items() if name != "initializer_range"}
    policy = RandomPolicy(ordinary).build()

    def one_segment(batch: CompletionBatch) -> PackedSegments:
        rows = torch.arange(batch.num_rows)
        bounds = torch.tensor([0, batch.num_rows], dtype=torch.int32)
        return PackedSegments(rows, bounds, bounds, (batch.num_rows,), (batch.num_rows,))

    monkeypatch.setattr(PackedSegments, "of", one_segment)
    with pytest.raises(ValueError, match=r"mean difference of .* nats.*layout: padded"):
        check_log_probs(policy)


def test_the_set_up_check_notices_logits_the_head_does_not_know() -> None:
    policy = RandomPolicy(config("cohere"), layout="padded").build()
    policy.model.get_output_embeddings().scale = 1.0
    with pytest.raises(ValueError, match="cannot be a policy"):
        check_log_probs(policy)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize("model_type", ["llama", "gpt_neox"])
def test_softmax_gradients_equal_autograd_through_explicit_logits(model_type: str, dtype: str, tolerance: float) -> None:
    batch = make_batch()
    policy = spec(model_type, dtype=dtype).build()
    stats = policy(batch)
    stats.logps.retain_grad()
    pairwise_loss(stats.sum_by_sequence()).backward()

    logits = (stats.hidden @ policy.model.get_output_embeddings().weight.T).detach().requires_grad_()
    logps = logits.log_softmax(-1).gather(1, batch.target_ids[:, None]).squeeze(1)
    sums = logps.new_zeros(batch.num_sequences).index_add(0, batch.target_sequence, logps)
    (gradient,) = torch.autograd.grad(pairwise_loss(sums), [logits])
    torch.testing.assert_close(softmax_gradient_l2(stats.logps.grad, stats), gradient.norm(dim=1), rtol=tolerance, atol=0)
    torch.testing.assert_close(softmax_gradient_l1(stats.logps.grad, stats), gradient.abs().sum(1), rtol=tolerance, atol=0)


def test_statistics_describe_the_models_own_distribution() -> None:
    batch = make_batch()
    policy = spec(dtype="float64").build()
    stats = policy(batch)
    with torch.no_grad(), policy.own_attention():
        (prompt, completion), *_ = sequences(batch)
        log_probs = policy.model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    probs, first = log_probs.exp(), batch.target_sequence == 0
    torch.testing.assert_close(stats.entropy[first], -(probs * log_probs).sum(1))
    torch.testing.assert_close(stats.sum_sq_probs[first], probs.square().sum(1))
    torch.testing.assert_close(stats.top1_probs[first], probs.amax(1))
    assert stats.is_top1[first].tolist() == (log_probs.argmax(1) == torch.tensor(completion)).tolist()
    assert stats.hidden is not None
    assert not stats.hidden.requires_grad
    assert stats.hidden.shape == (batch.num_targets, 32)


@pytest.mark.parametrize("model_type", ["gpt_neox", "opt", "gpt2"])
def test_built_without_dropout_in_training_mode(model_type: str) -> None:
    policy = spec(model_type).build()
    assert all(module.training for module in policy.modules())
    batch = make_batch()
    assert torch.equal(policy(batch).logps, policy(batch).logps)


def test_same_seed_same_weights_and_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, third = spec().build(), spec().build(), spec(seed=2).build()
    assert torch.equal(torch.rand(1), expected)
    assert first.fingerprint() == second.fingerprint() != third.fingerprint()


def test_fingerprint_follows_weights_and_configuration_only() -> None:
    policy = spec().build()
    before = policy.fingerprint()
    assert spec(layout="padded").build().fingerprint() == before
    assert (
        spec("cohere").build().fingerprint() != RandomPolicy(config("cohere") | {"logit_scale": 0.5}, seed=1).build().fingerprint()
    )
    with torch.no_grad():
        policy.model.get_input_embeddings().weight[3, 4] += 1e-6
    assert policy.fingerprint() != before


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "opt"])
def test_saved_weights_load_again(model_type: str, tmp_path: Path) -> None:
    policy = spec(model_type).build()
    policy.save(tmp_path / "handed_over")
    again = PretrainedPolicy(str(tmp_path / "handed_over")).build()
    batch = make_batch()
    assert torch.equal(again(batch).logps, policy(batch).logps)
    assert again.fingerprint() == policy.fingerprint()
    assert not list(tmp_path.rglob("*.bin"))
    assert not list(tmp_path.rglob("*.pt"))
    with pytest.raises(FileExistsError, match="Choose another folder"):
        policy.save(tmp_path / "handed_over")


def test_low_precision_weights_build_and_score() -> None:
    stats = spec(dtype="bfloat16").build()(make_batch())
    assert stats.logps.dtype == torch.float32
    exact = spec(dtype="float32").build()(make_batch())
    assert (stats.logps - exact.logps).abs().mean() < 0.1


def test_a_model_whose_output_layer_is_not_linear_is_refused() -> None:
    model = spec().load()
    model.set_output_embeddings(torch.nn.Sequential(model.get_output_embeddings()))
    with pytest.raises(ValueError, match=r"linear output layer, got Sequential.*cannot be a policy"):
        CausalLMPolicy(model)


def test_vocab_size_and_unknown_layout() -> None:
    assert spec().build().vocab_size == VOCAB
    with pytest.raises(ValueError, match="expected layout packed or padded, got 'sideways'"):
        spec(layout="sideways").build()
