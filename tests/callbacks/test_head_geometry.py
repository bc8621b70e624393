"""The output layer's geometry against float64 autograd through explicit logits, and against itself where columns are left out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from callbacks.mathematics import head_geometry
from callbacks.mathematics.head_geometry import HeadReader, PairGeometry, likely_tokens, pair_geometry
from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.packing import pack
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.heads.output_head import LinearHead
from lightning_modules.models.heads.tiled_logits import LogitTransform
from lightning_modules.models.policy import Policy
from lightning_modules.models.toy.policy import ToyPolicy, ToyShape
from tests.callbacks.rig import PAIRS, BigramPolicy, pair
from tests.lightning_modules.stubs import TINY, make_pairs

TOY_PAIRS = [pair([prompt], [prompt % 4], [4 + prompt % 3]) for prompt in range(8)]


def by_autograd(policy: Policy, batch: CompletionBatch) -> PairGeometry:
    """Gradients of every sequence's log-likelihood by the layer's weight, as autograd delivers them."""
    if isinstance(policy, ToyPolicy):
        weight: object = policy.weights[2]
    else:
        assert isinstance(policy, CausalLMPolicy)
        weight = policy.model.get_output_embeddings().weight
    assert isinstance(weight, Tensor)
    logps = policy(batch).sum_by_sequence()
    sides: list[list[Tensor]] = [
        [torch.autograd.grad(logps[number], weight, retain_graph=True)[0] for number in side] for side in batch.pairs.T.tolist()
    ]
    chosen, rejected = (torch.stack(side).flatten(1) for side in sides)
    return PairGeometry(chosen.norm(dim=1), rejected.norm(dim=1), (chosen * rejected).sum(1))


def untied(**options: Any) -> CausalLMPolicy:
    """A transformer in float64 whose output layer is its own."""
    torch.manual_seed(1)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=options.pop("vocab_size", 31), num_key_value_heads=1, tie_word_embeddings=False, **shape)
    for name, value in options.items():
        setattr(config, name, value)
    return CausalLMPolicy(LlamaForCausalLM(config).double())


def read(policy: Policy, batch: CompletionBatch) -> PairGeometry:
    reader = HeadReader()
    reader.watch(policy)
    policy(batch)
    geometry = reader.take()
    assert geometry is not None
    return geometry


@pytest.mark.parametrize(
    ("options"), [{}, {"logit_scale": 0.5}, {"final_logit_softcapping": 0.7}], ids=["plain", "scaled", "soft-capped"]
)
def test_transformer_equals_autograd(options: dict[str, Any]) -> None:
    policy, batch = untied(**options), pack([*make_pairs(4), *PAIRS])
    read_off, exact = read(policy, batch), by_autograd(policy, batch)
    torch.testing.assert_close(read_off.chosen_norms, exact.chosen_norms)
    torch.testing.assert_close(read_off.rejected_norms, exact.rejected_norms)
    torch.testing.assert_close(read_off.inner, exact.inner)
    torch.testing.assert_close(read_off.cosine, exact.inner / (exact.chosen_norms * exact.rejected_norms))


def test_toy_equals_autograd() -> None:
    policy, batch = ToyPolicy(ToyShape(num_seeds=2, width=16), seed=3).double(), pack(TOY_PAIRS)
    read_off, exact = read(policy, batch), by_autograd(policy, batch)
    torch.testing.assert_close(torch.stack([*vars(read_off).values()]), torch.stack([*vars(exact).values()]))


def test_columns_left_out_move_little_and_whole_vocabulary_nothing() -> None:
    policy, batch = untied(vocab_size=997), pack(make_pairs(6))
    # Sharpened, so that the mass is on some tokens: an even spread is what the tail is taken for anyway.
    policy.model.get_output_embeddings().weight.data *= 40
    stats = policy(batch)
    head, pairs = policy.output_head(batch), batch.pairs.tolist()
    exact, most, some = (pair_geometry(head, batch, stats, pairs, n) for n in (997, 996, 400))
    for field in ("chosen_norms", "rejected_norms", "inner"):
        torch.testing.assert_close(getattr(most, field), getattr(exact, field), rtol=1e-6, atol=0)
        torch.testing.assert_close(getattr(some, field), getattr(exact, field), rtol=0.02, atol=0)
    assert not torch.equal(some.inner, exact.inner)


def test_all_targets_are_among_the_columns() -> None:
    policy, batch = untied(vocab_size=997), pack(make_pairs(6))
    stats = policy(batch)
    tokens = likely_tokens(policy.output_head(batch), batch, stats, 1)
    assert tokens is not None
    # Room for the targets and the likeliest token of every position looked at.
    assert tokens.unique().numel() == 2 * batch.num_targets
    assert set(policy.output_head(batch).logits(stats.hidden, slice(None)).argmax(-1).tolist()) <= set(tokens.tolist())
    assert set(batch.target_ids.tolist()) <= set(tokens.tolist())
    assert likely_tokens(policy.output_head(batch), batch, stats, 997) is None


def test_certain_tokens_keep_their_digits() -> None:
    """A trained policy is sure of most tokens: 1 - p is 1e-9, which no difference of float32 sums can tell."""
    policy, batch = untied(), pack(PAIRS)
    head = policy.model.get_output_embeddings()
    with torch.no_grad():
        head.weight[5] *= 50
        stats = policy(batch)
    exact = by_autograd(policy, batch)
    doubles = {name: value for name, value in vars(stats).items() if isinstance(value, Tensor) and value.is_floating_point()}
    single = replace(stats, **{name: value.float() for name, value in doubles.items()})
    geometry = pair_geometry(LinearHead(head.weight.detach().float(), None), batch, single, batch.pairs.tolist())
    torch.testing.assert_close(geometry.chosen_norms, exact.chosen_norms, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(geometry.inner, exact.inner, rtol=1e-3, atol=1e-8)


def test_predicted_changes_are_those_of_a_small_step_on_the_layer() -> None:
    policy = untied()
    push, pull, rate = torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64), 1e-7
    for example in make_pairs(3):
        batch = pack([example])
        predicted = torch.cat(read(policy, batch).predicted((push, pull)))
        weight = policy.model.get_output_embeddings().weight
        before = policy(batch).sum_by_sequence()
        (gradient,) = torch.autograd.grad((before * torch.cat([push, -pull])).sum(), weight)
        with torch.no_grad():
            weight += rate * gradient
            after = policy(batch).sum_by_sequence()
            weight -= rate * gradient
        torch.testing.assert_close((after - before).detach() / rate, predicted, rtol=1e-4, atol=1e-6)


def geometry_of(chosen_norm: float, rejected_norm: float, cosine: float) -> PairGeometry:
    values = torch.tensor([[chosen_norm, rejected_norm, cosine * chosen_norm * rejected_norm]], dtype=torch.float64)
    return PairGeometry(*values.T)


@pytest.mark.parametrize("cosine", [0.9, 0.4, 0.0, -0.3])
@pytest.mark.parametrize("ratio", [0.3, 0.7, 1.0, 1.6, 3.0])
def test_band_is_rho_r_star_to_r_star_over_rho(cosine: float, ratio: float) -> None:
    geometry = geometry_of(2.0, 3.0, cosine)
    centre = 3.0 / 2.0
    expected = cosine <= 0 or cosine * centre < ratio < centre / cosine
    assert geometry.in_band((torch.tensor([ratio]), torch.ones(1))).item() is expected


def test_centre_is_in_the_band_whatever_the_cosine() -> None:
    geometry = geometry_of(2.0, 3.0, 0.999)
    beta_chosen = torch.tensor([0.1])
    assert geometry.in_band((beta_chosen, beta_chosen * geometry.log_centre().exp()))
    assert geometry.log_centre().exp().item() == pytest.approx(2 / 3)


def test_reader_reads_one_pass_and_needs_an_output_head() -> None:
    policy, batch = TINY.build(), pack(make_pairs(2))
    reader = HeadReader()
    reader.watch(policy)
    policy(batch)
    policy(pack(make_pairs(4)))
    geometry = reader.take()
    assert geometry is not None
    assert len(geometry.inner) == 2
    assert reader.take() is None
    bigram = BigramPolicy()
    reader.watch(bigram)
    bigram(pack(PAIRS))
    assert reader.take() is None


def test_scale_of_the_logits_scales_the_gradients() -> None:
    policy, batch = untied(), pack(make_pairs(2))
    stats, head = policy(batch), policy.output_head(batch)
    doubled = replace(head, weight=head.weight / 2, transform=LogitTransform(2.0))
    one, two = (pair_geometry(h, batch, stats, batch.pairs.tolist()) for h in (head, doubled))
    torch.testing.assert_close(two.inner, 4 * one.inner)
    torch.testing.assert_close(two.chosen_norms, 2 * one.chosen_norms)


def test_pairs_taken_together_have_the_geometry_they_have_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """An accelerator takes several pairs in one go."""
    policy, batch = untied(), pack([*make_pairs(4), *PAIRS])
    alone = read(policy, batch)
    monkeypatch.setattr(head_geometry, "_together", lambda groups, _: [groups[:3], groups[3:]])
    together = read(policy, batch)
    torch.testing.assert_close(together.chosen_norms, alone.chosen_norms)
    torch.testing.assert_close(together.rejected_norms, alone.rejected_norms)
    torch.testing.assert_close(together.inner, alone.inner)


@pytest.mark.parametrize(("rows_together", "bundles"), [(1, 3), (12, 2), (10_000, 1)])
def test_how_many_are_taken_together(monkeypatch: pytest.MonkeyPatch, rows_together: int, bundles: int) -> None:
    groups = [[slice(0, 4), slice(4, 9)], [slice(9, 10), slice(10, 12)], [slice(12, 20), slice(20, 21)]]
    monkeypatch.setattr(head_geometry, "ROWS_TOGETHER", rows_together)
    taken = list(head_geometry._together(groups, torch.device("meta")))
    assert [group for bundle in taken for group in bundle] == groups
    assert len(taken) == bundles
    assert len(list(head_geometry._together(groups, torch.device("cpu")))) == 3
