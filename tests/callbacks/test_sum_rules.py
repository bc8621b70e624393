"""What must add up adds up on the shipped model and real responses: mass is neither made nor lost by any of the accounts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from callbacks.diagnostics.mass_gains import Watched, distributions, gains, seen_tokens, watched_rows
from callbacks.diagnostics.softmax_gradient import by_class
from callbacks.mathematics.pair_tokens import TokenClass, pair_tokens
from callbacks.mathematics.token_trie import log_seen_mass, off_data_mass, token_trie
from callbacks.readings import Counted, Values
from datamodules.contracts.batches import CompletionBatch
from datamodules.pool.data import PoolDataModule
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.specs import PretrainedPolicy

ASSETS = Path(__file__).parents[2] / "assets" / "arithmetic"


@pytest.fixture(scope="module")
def policy() -> CausalLMPolicy:
    built = PretrainedPolicy(path=str(ASSETS / "base")).build()
    assert isinstance(built, CausalLMPolicy)
    return built.eval()


@pytest.fixture(scope="module")
def batch() -> CompletionBatch:
    data = PoolDataModule(
        str(ASSETS / "pool.jsonl.xz"), 1, str(ASSETS / "base"), limit=40, num_probe_prompts=4, num_leftovers=4, on_bad_row="skip"
    )
    data.setup("fit")
    (bank,) = data.probe_batches()
    assert len(bank.pairs) == 4
    assert "leftover" in bank.kinds
    return bank


def test_mass_that_leaves_the_trie_and_mass_that_stays_are_one(policy: CausalLMPolicy, batch: CompletionBatch) -> None:
    with torch.no_grad():
        logps = policy(batch).logps.double()
    trie, ends = token_trie(batch), batch.lengths.cumsum(0)
    leaving, total, counted = off_data_mass(trie, logps), torch.zeros(batch.num_prompts, dtype=torch.float64), set()
    for position, (node, sequence) in enumerate(zip(trie.nodes.tolist(), batch.target_sequence.tolist(), strict=True)):
        if node >= 0 and node not in counted:
            counted.add(node)
            start = int(ends[sequence] - batch.lengths[sequence])
            total[batch.prompt_number[sequence]] += logps[start:position].sum().exp() * leaving[node]
    seen = log_seen_mass(trie, batch, logps).exp()
    assert (seen > 1e-6).any(), "some of the known responses are likely: the rule is put to the test"
    torch.testing.assert_close(total + seen, torch.ones(batch.num_prompts, dtype=torch.float64), rtol=0, atol=1e-5)


def test_gains_equal_losses(policy: CausalLMPolicy, batch: CompletionBatch) -> None:
    rows, head = watched_rows(batch, 64), policy.output_head(batch)
    tokens = torch.unique(torch.cat([batch.target_ids, torch.arange(min(40, policy.vocab_size))]))
    with torch.no_grad():
        stats = policy(batch)
        before = distributions(head, tokens, batch, stats, rows)
        # A step: the output layer's input moves, and with it every distribution.
        noise = torch.randn(stats.hidden.shape, generator=torch.Generator().manual_seed(0))
        hidden = stats.hidden + noise * stats.hidden.std()
        logps = head.logits(hidden, slice(None)).log_softmax(-1).gather(1, batch.target_ids[:, None]).squeeze(1)
        now = distributions(head, tokens, batch, replace(stats, hidden=hidden, logps=logps), rows)
    watched = Watched(rows, tokens, before, seen_tokens(batch, rows, tokens, policy.vocab_size))
    found = gains(now, watched)
    torch.testing.assert_close(found["moved"], (before - now).clamp_min(0).sum(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["to_seen"] + found["to_off_data"], found["moved"])
    assert (found["moved"] > 0.01).any()
    assert (found["moved"] <= 1).all()


def counted(values: Values, name: str) -> Counted:
    value = values[name]
    assert isinstance(value, Counted)
    return value


def test_gradient_by_class_adds_up_to_the_side(policy: CausalLMPolicy, batch: CompletionBatch) -> None:
    with torch.no_grad():
        logps = policy(batch).logps
    l2, pairs = -torch.expm1(logps), pair_tokens(batch)
    values = by_class(l2, pairs)
    for number, side in enumerate(("chosen", "rejected")):
        total = l2[pairs.sides == number].double().square().sum()
        parts = [counted(values, f"{side}/{token_class.label}/l2_squared").total for token_class in TokenClass]
        torch.testing.assert_close(torch.stack(parts).sum(), total)
        tokens = [counted(values, f"{side}/{token_class.label}/tokens").total for token_class in TokenClass]
        assert torch.stack(tokens).sum() == (pairs.sides == number).sum()
