"""Sampling with vLLM, as another engine behind the same option."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from typing_extensions import override

from datamodules.contracts.prompts import Sampling
from lightning_modules.models.generation.engine import SamplingEngine
from lightning_modules.models.policy import OnProgress, SampledCompletion

_PROMPT_STRIDE = 1_000_003
"""Between the seeds of two prompts: vLLM gives the samples of a prompt consecutive ones."""


def require_vllm() -> None:
    """Refuse to go on without vLLM.

    Raises:
        ValueError: if it is not installed; it says how to install it.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ValueError(
            "expected vLLM for engine: vllm, got no such package. Install it (pip install vllm; an NVIDIA GPU is needed) or use "
            "engine: batched."
        )


class VLLMEngine(SamplingEngine):
    """Draws with vLLM, which loads the weights anew, beside the policy's own: leave it room on the device.

    Samples are reproducible from the seed for the same prompts in the same order, and differ from those of the batched engine.
    It samples the weights as they are at the first call, so it suits `predict` and `test` and not a policy in training.

    Args:
        save: writes the weights and their configuration into an empty folder.
        dtype: of the weights, by vLLM's name for it.
        memory_share: of the device's memory for vLLM, in (0, 1).
    """

    def __init__(self, save: Callable[[Path], None], dtype: str = "auto", memory_share: float = 0.6) -> None:
        require_vllm()
        self._save = save
        self._dtype = dtype
        self._memory_share = memory_share

    @cached_property
    def _model(self) -> Any:  # noqa: ANN401 (vLLM is not a dependency)
        from vllm import LLM

        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "policy"
            self._save(folder)
            # raw_logprobs: of the model itself, before temperature and nucleus.
            return LLM(
                model=str(folder),
                skip_tokenizer_init=True,
                dtype=self._dtype,
                gpu_memory_utilization=self._memory_share,
                logprobs_mode="raw_logprobs",
            )

    @override
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        parameters: Sampling,
        *,
        num_samples: int,
        ends: frozenset[int],
        seed: int,
        on_progress: OnProgress | None,
    ) -> list[list[SampledCompletion]]:
        from vllm import SamplingParams

        is_greedy = parameters.temperature == 0
        settings = [
            SamplingParams(
                # vLLM refuses several greedy samples of a prompt; they would be alike.
                n=1 if is_greedy else num_samples,
                temperature=parameters.temperature,
                top_p=1.0 if is_greedy else parameters.top_p,
                max_tokens=parameters.max_new_tokens,
                seed=seed + number * _PROMPT_STRIDE,
                stop_token_ids=sorted(ends),
                logprobs=0,
                detokenize=False,
            )
            for number in range(len(prompts))
        ]
        outputs = self._model.generate([{"prompt_token_ids": list(prompt)} for prompt in prompts], settings, use_tqdm=False)
        groups = [[_completion(sample, ends) for sample in output.outputs] for output in outputs]
        return [group * num_samples if is_greedy else group for group in groups]


def _completion(sample: Any, ends: frozenset[int]) -> SampledCompletion:  # noqa: ANN401
    ids = tuple(sample.token_ids)
    logps = [given[token].logprob for token, given in zip(ids, sample.logprobs, strict=True)]
    return SampledCompletion(ids, torch.tensor(logps, dtype=torch.float32), ids[-1] in ends)
