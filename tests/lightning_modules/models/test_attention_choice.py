"""Half-precision kernels are reached wherever the arithmetic is in half precision, whatever type queries and keys come in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch

from datamodules.contracts.prompts import Sampling
from lightning_modules.models.scalars.critic import OwnBody
from lightning_modules.models.specs import RandomPolicy
from tests.half_kernel import half_kernel_is_there
from tests.lightning_modules.models.architectures import config, make_batch

Context = Callable[[], AbstractContextManager[None]]

CONTEXTS: list[Context] = [nullcontext, torch.no_grad, torch.inference_mode]


def autocast(dtype: torch.dtype) -> AbstractContextManager[None]:
    return torch.autocast("cpu", dtype)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize(
    ("weights", "precision", "expected"),
    [
        ("float32", nullcontext, (torch.float32, "sdpa")),
        ("float64", lambda: autocast(torch.bfloat16), (torch.float64, "sdpa")),
        ("float32", lambda: autocast(torch.bfloat16), (torch.bfloat16, "half kernel")),
        ("float32", lambda: autocast(torch.float16), (torch.float16, "half kernel")),
        ("bfloat16", nullcontext, (torch.bfloat16, "half kernel")),
    ],
)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox"])
def test_policies_scalars_and_prompts_reach_the_kernel(
    family: str, weights: str, precision: Context, expected: tuple[torch.dtype, str], context: Context
) -> None:
    batch = make_batch()
    with half_kernel_is_there() as used:
        policy = RandomPolicy(config(family), dtype=weights).build()  # type: ignore[arg-type]
        critic = OwnBody().build(policy)
        used.clear()
        with context(), precision():
            policy(batch)
            critic(batch, None)
            policy.sample([[1, 2, 3], [4, 5]], Sampling(2), eos_token_id=2, seed=0)
    layers = policy.model.config.get_text_config().num_hidden_layers
    assert used == [expected] * 3 * layers
