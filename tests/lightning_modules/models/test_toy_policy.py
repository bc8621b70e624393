"""The toy policy: its statistics against torch's own softmax, its seeds against one another, its files against itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from datamodules.contracts.batches import CompletionBatch, Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack
from datamodules.contracts.prompts import Sampling
from lightning_modules.models.toy.policy import ToyPolicy, ToyShape
from lightning_modules.models.toy.specs import FittedToyPolicySpec, SavedToyPolicySpec, ToyPolicySpec
from lightning_modules.token_stats import softmax_gradient_l1, softmax_gradient_l2

SHAPE = ToyShape(num_seeds=3, num_prompts=4, num_responses=10, width=8)
ROW = (0.02,) * 8 + (0.8, 0.04)


def batch_of(prompts: list[int], responses: list[tuple[int, ...]]) -> CompletionBatch:
    return pack(
        [
            Example((prompt,), tuple(TokenizedCompletion((token,), Role.SAMPLE, "sample") for token in tokens))
            for prompt, tokens in zip(prompts, responses, strict=True)
        ]
    )


def as_network(policy: ToyPolicy, seed: int) -> nn.Sequential:
    """One seed of the policy as torch's own layers."""
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(policy.shape.layer_sizes):
        linear = nn.Linear(inputs, outputs, dtype=policy.weights[number].dtype)
        linear.weight.data = policy.weights[number][seed].detach().T
        linear.bias.data = policy.biases[number][seed, 0].detach()
        layers += [linear, nn.ReLU() if policy.shape.activation == "relu" else nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def assert_equal_in_float64(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_statistics_equal_those_of_a_plain_network_for_every_seed(activation: str) -> None:
    policy = ToyPolicy(ToyShape(3, 4, 10, 8, activation), seed=5).double()  # type: ignore[arg-type]
    prompts = [11, 0, 6]
    stats = policy(batch_of(prompts, [(1, 2), (9,), (0, 3, 5)]))
    expected_rows = [as_network(policy, prompt // 4)(torch.eye(4, dtype=torch.float64)[prompt % 4]) for prompt in prompts]
    p = torch.stack([expected_rows[i].softmax(-1) for i in (0, 0, 1, 2, 2, 2)])
    targets = torch.tensor([1, 2, 9, 0, 3, 5])
    assert_equal_in_float64(stats.logps, p.log().gather(1, targets[:, None])[:, 0])
    assert_equal_in_float64(stats.entropy, torch.special.entr(p).sum(1))
    assert_equal_in_float64(stats.sum_sq_probs, (p * p).sum(1))
    assert_equal_in_float64(stats.top1_probs, p.amax(1))
    others = torch.stack([(row * row).sum() - row[target] ** 2 for row, target in zip(p, targets, strict=True)])
    assert stats.other_sq_probs is not None
    assert_equal_in_float64(stats.other_sq_probs, others)
    assert stats.is_top1.tolist() == (p.argmax(1) == targets).tolist()
    assert stats.hidden is not None
    assert not stats.hidden.requires_grad
    assert stats.logps.requires_grad


def test_hidden_times_last_layer_gives_the_logits() -> None:
    policy = ToyPolicy(SHAPE)
    stats = policy(batch_of([0, 1, 2, 3], [(0,)] * 4))
    torch.testing.assert_close(stats.hidden @ policy.weights[2][0] + policy.biases[2][0], policy.logits()[0])


def test_softmax_gradient_equals_autograd_through_explicit_logits() -> None:
    policy = ToyPolicy(SHAPE).double()
    stats = policy(batch_of([0, 5, 11], [(4,), (0,), (9,)]))
    stats.logps.retain_grad()
    (stats.logps.sigmoid() * torch.tensor([1.0, -3.0, 0.5])).sum().backward()

    def loss(rows: Tensor) -> Tensor:
        logps = rows.log_softmax(-1)[torch.arange(3), torch.tensor([4, 0, 9])]
        return (logps.sigmoid() * torch.tensor([1.0, -3.0, 0.5])).sum()

    rows = policy.logits().flatten(0, 1)[[0, 5, 11]].detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(rows), rows)
    assert stats.logps.grad is not None
    torch.testing.assert_close(softmax_gradient_l2(stats.logps.grad, stats), gradient.norm(dim=1), rtol=1e-10, atol=0)
    torch.testing.assert_close(softmax_gradient_l1(stats.logps.grad, stats), gradient.abs().sum(1), rtol=1e-10, atol=0)


def test_a_seed_is_the_one_seed_policy_of_that_seed() -> None:
    together = ToyPolicy(SHAPE, seed=7)
    for number in range(3):
        alone = ToyPolicy(ToyShape(1, 4, 10, 8), seed=7 + number)
        for name, tensor in alone.state_dict().items():
            assert torch.equal(tensor[0], together.state_dict()[name][number])


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    ToyPolicySpec(num_seeds=2, width=8).build()
    assert torch.equal(before, torch.get_rng_state())


def test_the_fit_reaches_the_row_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = FittedToyPolicySpec(num_seeds=2, width=64, initial_row=ROW, cache_dir=str(tmp_path))
    policy = spec.build()
    probs = policy.logits().softmax(-1)
    torch.testing.assert_close(probs, torch.tensor(ROW).expand(2, 4, 10), atol=5e-3, rtol=0)
    monkeypatch.setattr("lightning_modules.models.toy.specs.fit_rows", pytest.fail)
    assert spec.build().fingerprint() == policy.fingerprint()
    assert len(list((tmp_path / "toy").iterdir())) == 1


def test_each_recipe_has_its_own_place_in_the_cache(tmp_path: Path) -> None:
    specs = [
        FittedToyPolicySpec(num_seeds=1, width=8, initial_row=ROW, cache_dir=str(tmp_path), **changed)
        for changed in ({}, {"seed": 1}, {"activation": "tanh"})
    ]
    assert len({spec.build().fingerprint() for spec in specs}) == 3


def test_seeds_fitted_together_equal_seeds_fitted_alone(tmp_path: Path) -> None:
    together = FittedToyPolicySpec(num_seeds=2, width=8, initial_row=ROW, cache_dir=str(tmp_path)).build()
    alone = FittedToyPolicySpec(num_seeds=1, width=8, initial_row=ROW, seed=1, cache_dir=str(tmp_path)).build()
    torch.testing.assert_close(together.logits()[1], alone.logits()[0], rtol=1e-4, atol=1e-5)


def test_save_and_load_keep_the_policy(tmp_path: Path) -> None:
    policy = ToyPolicy(ToyShape(2, 4, 10, 8, "tanh"), seed=3)
    policy.save(tmp_path / "policy")
    loaded = SavedToyPolicySpec(str(tmp_path / "policy")).build()
    assert loaded.shape == policy.shape
    assert loaded.fingerprint() == policy.fingerprint()
    assert json.loads((tmp_path / "policy" / "toy.json").read_text())["activation"] == "tanh"
    with pytest.raises(FileExistsError, match="Choose another folder"):
        policy.save(tmp_path / "policy")
    with pytest.raises(ValueError, match=r"expected toy\.json"):
        SavedToyPolicySpec(str(tmp_path)).build()


def test_fingerprint_knows_weights_and_shape() -> None:
    policy = ToyPolicy(SHAPE)
    before = policy.fingerprint()
    assert ToyPolicy(ToyShape(3, 4, 10, 8, "tanh")).fingerprint() != before
    with torch.no_grad():
        policy.biases[2][0, 0, 0] += 1
    assert policy.fingerprint() != before


def test_sampling_follows_the_policy() -> None:
    policy = ToyPolicy(SHAPE)
    prompts = [[5]] * 20_000
    draws = policy.sample(prompts, Sampling(), eos_token_id=0, seed=1)
    assert draws == policy.sample(prompts, Sampling(), eos_token_id=0, seed=1)
    counts = torch.tensor(draws).flatten().bincount(minlength=10) / len(draws)
    probs = policy.logits()[1, 1].softmax(-1)
    torch.testing.assert_close(counts, probs.detach(), atol=0.015, rtol=0)
    greedy = policy.sample([[5]], Sampling(temperature=0), eos_token_id=0, seed=1)
    assert greedy == [[int(probs.argmax())]]
    nucleus = policy.sample(prompts, Sampling(top_p=0.05), eos_token_id=0, seed=1)
    assert {token for (token,) in nucleus} == {int(probs.argmax())}


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (batch_of([12], [(0,)]), "prompts up to 12"),
        (batch_of([0], [(10,)]), "responses up to 10"),
        (pack([Example((0,), (TokenizedCompletion((1, 2), Role.SAMPLE, "sample"),))]), "up to 2 tokens"),
        (pack([Example((0, 1), (TokenizedCompletion((1,), Role.SAMPLE, "sample"),))]), "up to 2 tokens"),
    ],
)
def test_foreign_batches_are_refused(batch: CompletionBatch, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ToyPolicy(SHAPE)(batch)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="activation relu or tanh"):
        ToyShape(activation="gelu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=">= 1"):
        ToyShape(num_seeds=0)
    with pytest.raises(ValueError, match="sum to 1"):
        FittedToyPolicySpec(initial_row=(0.5,) * 10)


def test_sharding_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="expected the toy on one process or under `ddp`, got FSDP2"):
        ToyPolicy(ToyShape(num_seeds=1)).shard(None)  # type: ignore[arg-type]
