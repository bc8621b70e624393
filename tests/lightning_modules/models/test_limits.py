"""How long a sequence may be, and what a model must not see: rotary embeddings, positions, windows, later tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from datamodules.contracts.batches import CompletionBatch, Demand, Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack
from datamodules.contracts.prompts import Sampling
from lightning_modules.models.checks.limits import ModelLimits, limits_of
from lightning_modules.models.checks.rotary import steady_length
from lightning_modules.models.scalars.scalar_model import load_scalar
from lightning_modules.models.specs import RandomPolicy
from tests.lightning_modules.models.architectures import NOT_PACKABLE, PACKABLE, VOCAB, config

ROTATIONS: dict[str, tuple[dict[str, Any], int | None]] = {
    "default": ({}, None),
    "linear": ({"factor": 2.0}, None),
    "dynamic": ({"factor": 2.0}, 64),
    "yarn": ({"factor": 4.0, "original_max_position_embeddings": 16}, None),
    "longrope": (
        {
            "factor": 4.0,
            "short_factor": [1.0, 1.2, 1.3, 1.4],
            "long_factor": [2.0, 3.0, 4.0, 5.0],
            "original_max_position_embeddings": 16,
        },
        16,
    ),
    "llama3": (
        {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16},
        None,
    ),
}
"""Type of the rotation -> its parameters, and the length up to which it does not depend on the batch."""


def rotated(kind: str, model_type: str = "llama") -> dict[str, Any]:
    parameters, _ = ROTATIONS[kind]
    return config(model_type) | {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **parameters}}


def batch_of(*lengths: int) -> CompletionBatch:
    """Sequences of so many tokens, each with a prompt of two."""
    generator = torch.Generator().manual_seed(0)
    ids = [tuple(torch.randint(3, VOCAB, (length,), generator=generator).tolist()) for length in lengths]
    return pack([Example(own[:2], (TokenizedCompletion(own[2:], Role.SAMPLE, "made up"),)) for own in ids])


def own_log_probs(fields: dict[str, Any], batch: CompletionBatch) -> Tensor:
    """Plain transformers, one sequence at a time, in a model that has never seen another one."""
    parts = []
    ends = batch.cu_q.tolist()
    for number in range(batch.num_sequences):
        ids = batch.input_ids[ends[2 * number] : ends[2 * number + 2]]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields)).eval()
        with torch.no_grad():
            logps = model(ids.unsqueeze(0), use_cache=False).logits[0, 1:-1].log_softmax(-1)
        parts.append(logps.gather(1, ids[2:, None]).squeeze(1))
    return torch.cat(parts)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("kind", ROTATIONS)
def test_a_rotation_is_that_of_one_sequence_or_refused(kind: str, layout: Any) -> None:
    fields, limit = rotated(kind), ROTATIONS[kind][1]
    policy = RandomPolicy(fields, layout=layout).build()
    if limit is None:
        batch = batch_of(90, 5, 40)
        torch.testing.assert_close(policy(batch).logps, own_log_probs(fields, batch), atol=1e-4, rtol=1e-4)
        return
    within, beyond = batch_of(limit, 5, limit // 2), batch_of(limit + 1, 5)
    torch.testing.assert_close(policy(within).logps, own_log_probs(fields, within), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=rf"at most {limit} tokens .* rotary .* got {limit + 1} in a batch"):
        policy(beyond)
    with pytest.raises(ValueError, match=rf"at most {limit} tokens .* got {limit + 1} in a prompt with its answer"):
        policy.generate([[3] * 7], Sampling(limit - 6), num_samples=1, eos_token_id=2, seed=0)


def test_a_rotation_that_follows_the_batch_is_seen_whatever_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the limit is for: in plain transformers the short sequence changes beside one that is a token too long."""
    fields, limit = rotated("dynamic"), 64
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields)).eval()
    ids, beside = torch.arange(3, 11).unsqueeze(0), torch.full((1, 2 * limit), 5)
    alone = model(ids, use_cache=False).logits[0]
    padded = torch.cat([torch.nn.functional.pad(ids, (0, 2 * limit - 8)), beside])
    mask = (torch.arange(2 * limit) < torch.tensor([8, 2 * limit])[:, None]).long()
    assert (model(padded, attention_mask=mask, use_cache=False).logits[0, :8] - alone).abs().max() > 0.01
    monkeypatch.setitem(ROPE_INIT_FUNCTIONS, "dynamic of somebody's own", ROPE_INIT_FUNCTIONS["dynamic"])
    for module in model.modules():
        if hasattr(module, "rope_type"):
            module.rope_type = "dynamic of somebody's own"
    assert steady_length(model) == limit


def test_phi_3_has_the_limit_of_its_short_factors() -> None:
    fields = rotated("longrope", "llama") | {"model_type": "phi3", "original_max_position_embeddings": 16}
    assert steady_length(AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields))) == 16


BOTH_WAYS = {**config("gemma2"), "model_type": "gemma3_text", "use_bidirectional_attention": True}


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_model_that_reads_later_tokens_is_no_policy_in_either_layout(layout: Any) -> None:
    with pytest.raises(ValueError, match=r"do not depend on later tokens, .* cannot be a policy in either layout"):
        RandomPolicy(BOTH_WAYS, layout=layout).build()
    RandomPolicy(BOTH_WAYS | {"use_bidirectional_attention": False}, layout=layout).build()


def test_a_model_that_reads_later_tokens_is_no_reward_model(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**BOTH_WAYS)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no row to depend on later tokens"):
        load_scalar(str(tmp_path))


def test_a_reward_model_refuses_a_rotation_beyond_its_length(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**rotated("longrope"))).save_pretrained(tmp_path)
    model = load_scalar(str(tmp_path))
    within, beyond = batch_of(16, 5), batch_of(17, 5)
    model(within, within.last_row)
    with pytest.raises(ValueError, match=r"at most 16 tokens .* rotary .* got 17"):
        model(beyond, beyond.last_row)


def limits(model_type: str) -> ModelLimits:
    return limits_of(AutoModelForCausalLM.from_config(AutoConfig.for_model(**config(model_type))), window_remedy="")


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "gptj"])
def test_positions_that_are_looked_up_end_where_plain_transformers_fails(model_type: str) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config(model_type))).eval()
    limits(model_type).require_length(64)
    model(torch.full((1, 64), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, 65), 5))
    with pytest.raises(ValueError, match=r"at most 64 tokens .*, the positions of .* got 65 in the train data. Cut it."):
        limits(model_type).require([Demand("train data", 65, 3, "Cut it.")])


@pytest.mark.parametrize("model_type", sorted((PACKABLE | NOT_PACKABLE).keys() - {"gpt2", "opt", "gptj", "gemma2"}))
def test_other_models_have_no_such_limit(model_type: str) -> None:
    assert limits(model_type).lengths == ()


def test_a_token_beyond_the_embedding_is_named_with_the_number_of_rows() -> None:
    limits("llama").require([Demand("train data", 10, VOCAB - 1)])
    with pytest.raises(ValueError, match=rf"below {VOCAB}, the rows of the embedding .* got {VOCAB} in the train data"):
        limits("llama").require([Demand("train data", 10, VOCAB)])


def test_positions_that_were_never_trained_are_a_warning_to_read_and_an_error_to_write() -> None:
    with pytest.warns(UserWarning, match="up to 65 tokens, more than the 64 positions"):
        limits("llama").require([Demand("train data", 65, 3)])
    with pytest.raises(ValueError, match=r"within the 64 positions of LlamaForCausalLM .* up to 65"):
        limits("llama").require([Demand("prompts", 65, 3, is_drawn=True)])
