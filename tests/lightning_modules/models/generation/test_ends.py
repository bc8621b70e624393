"""A model's own ends of sequence: what plain transformers stops at, every sampler of ours stops at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from datamodules.contracts.prompts import PromptBatch, Sampling, TaskPrompt
from datamodules.tasks.base import TaskItem
from lightning_modules.models.specs import PretrainedPolicy, RandomPolicy
from lightning_modules.rewards.samples import draw
from tests.lightning_modules.models.architectures import VOCAB, config
from tests.lightning_modules.models.generation.cases import NO_EOS, PROMPTS

GREEDY, EOS, LENGTH = Sampling(12, temperature=0), 2, 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A folder whose generation configuration lists a second end, one that its greedy answers come to; and that token."""
    folder = tmp_path_factory.mktemp("ends") / "model"
    policy = RandomPolicy(config("llama"), seed=1).build()
    answers = policy.generate(PROMPTS, GREEDY, num_samples=1, eos_token_id=NO_EOS, seed=0)
    middle = answers[2][0].token_ids[3]
    policy.model.generation_config = GenerationConfig(eos_token_id=[EOS, middle], pad_token_id=0)
    policy.save(folder)
    return folder, middle


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_greedy_answers_end_where_plain_transformers_ends(model: tuple[Path, int], layout: Any) -> None:
    folder, end = model
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    policy = PretrainedPolicy(str(folder), layout=layout).build()
    groups = policy.generate(PROMPTS, GREEDY, num_samples=1, eos_token_id=EOS, seed=0)
    for prompt, (answer,) in zip(PROMPTS, groups, strict=True):
        expected = plain.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=LENGTH)[0, len(prompt) :].tolist()
        assert list(answer.token_ids) == expected
        assert answer.finished == (expected[-1] in (EOS, end))
        assert policy.without_end(answer.token_ids, EOS) == [token for token in expected if token not in (EOS, end)]
    assert any(answer.token_ids[-1] == end for (answer,) in groups)
    assert len(groups[2][0].token_ids) == 4


def test_what_ppo_draws_is_finished_and_has_no_end_in_its_text(model: tuple[Path, int]) -> None:
    folder, end = model
    policy = PretrainedPolicy(str(folder)).build()
    prompts = tuple(TaskPrompt(TaskItem("p", None), tuple(prompt)) for prompt in PROMPTS)
    samples = draw(policy, PromptBatch(prompts, Sampling(40), 8, 3, EOS))
    ended = [completion.token_ids[-1] in (EOS, end) for completion in samples.completions]
    assert samples.finished().tolist() == ended
    assert any(completion.token_ids[-1] == end for completion in samples.completions)
    assert not any({EOS, end} & set(ids) for ids in samples.token_ids())


def test_where_the_ids_come_from() -> None:
    policy = RandomPolicy(config("llama")).build()
    # A single id of a configuration class may be its default: the tokenizer says.
    assert policy.own_ends == frozenset()
    assert policy.ends(7) == {7}
    assert policy.ends(NO_EOS) == frozenset()
    assert RandomPolicy(config("llama") | {"eos_token_id": [2, 4, VOCAB + 3]}).build().ends(7) == {2, 4, 7}
