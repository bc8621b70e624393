"""The engine that samples with vLLM, for those who have it, and that gives it the policy's weights whenever they have changed."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, distributed, nn
from typing_extensions import override

from datamodules.contracts.prompts import Sampling
from lightning_modules.models.generation.engine import SamplingEngine
from lightning_modules.models.policy import OnProgress, SampledCompletion

_PROMPT_STRIDE = 1_000_003
"""Between the seeds of two prompts: vLLM gives the samples of a prompt consecutive ones."""

MAX_GAP = 0.2
"""Nats a token. Kernels in half precision differ by less; weights of another model do not."""


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


class Served(Protocol):
    """What the engine asks of the policy that it draws from."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All weights."""

    def save(self, folder: Path) -> None:
        """Write weights and configuration into an empty folder."""

    def own_logps(self, prompts: Sequence[Sequence[int]], groups: Sequence[Sequence[Sequence[int]]]) -> Sequence[Tensor]:
        """Log-probs of each completion under the weights as they are, in order."""


class VLLMEngine(SamplingEngine):
    """Draws with vLLM, which holds weights of its own on the same device and gets the policy's before a draw if they have changed.

    The hand-over goes through a folder (the system's for temporary files: TMPDIR=/dev/shm keeps it in memory) and vLLM's
    `reload_weights`, as its pages on sleep mode have it. The log-probs of what was drawn are those of the policy's own forward
    pass, at temperature 1, so that PPO's ratio begins at 1; a draw from other weights is refused. In a training vLLM gives its
    memory back after every draw (sleep level 2). Samples are reproducible from the seed for the same prompts in the same order,
    and differ from those of the batched engine.

    Args:
        policy: it draws from its weights.
        dtype: of vLLM's weights, by its name for it; under autocast it is autocast's.
        memory_share: of the device's memory for vLLM while it draws, in (0, 1).

    Raises:
        ValueError: if vLLM is not installed or the share is out of range; when drawing, if there are several processes, vLLM fails,
            or it draws from other weights.
    """

    def __init__(self, policy: Served, dtype: str = "auto", memory_share: float = 0.6) -> None:
        require_vllm()
        if not 0 < memory_share < 1:
            raise ValueError(f"expected vllm_memory_share in (0, 1), got {memory_share}.")
        self._policy = policy
        self._dtype = dtype
        self._memory_share = memory_share
        self._model: Any = None
        self._given: list[tuple[int, int, float]] = []
        """What the weights were that vLLM has."""
        self._sleeps = False

    @override
    @torch.no_grad()
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
        _require_one_process()
        with _in_words("weights handed over to it"):
            self._hand_over()
        with _in_words("completions"):
            groups = self._drawn(prompts, parameters, num_samples, ends, seed)
        # Before the policy needs the memory for its own pass. What is evaluated outside of a training draws again at once.
        if not torch.is_inference_mode_enabled():
            with _in_words("its memory back"):
                self._model.sleep(level=2)
                self._sleeps = True
        own = iter(self._policy.own_logps(prompts, [[ids for ids, _ in group] for group in groups]))
        scored = [[(ids, logps, next(own)) for ids, logps in group] for group in groups]
        _require_same_weights([(theirs, ours) for group in scored for _, theirs, ours in group])
        return [[SampledCompletion(ids, ours, ids[-1] in ends) for ids, _, ours in group] for group in scored]

    def _hand_over(self) -> None:
        """Let vLLM have the weights as they are now, awake."""
        weights = _mark(self._policy)
        if self._model is None:
            self._policy.save(self._served)
            self._model = self._started()
        elif weights != self._given or self._sleeps:
            if weights != self._given:
                _replace_weights(self._policy.save, self._served)
            if self._sleeps:
                self._model.wake_up(tags=["weights"])
            self._model.collective_rpc("reload_weights")
            if self._sleeps:
                self._model.wake_up(tags=["kv_cache"])
            # Keys and values of prompts under the weights before.
            self._model.reset_prefix_cache()
        self._given, self._sleeps = weights, False

    @cached_property
    def _served(self) -> Path:
        """The folder that vLLM reads, which goes with the engine."""
        folder = tempfile.mkdtemp(prefix="prefscope_vllm_")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder) / "policy"

    def _started(self) -> Any:  # noqa: ANN401 (vLLM is not a dependency)
        from vllm import LLM

        device = next(self._policy.parameters()).device.type
        is_mixed = torch.is_autocast_enabled(device)
        return LLM(
            model=str(self._served),
            skip_tokenizer_init=True,
            dtype=str(torch.get_autocast_dtype(device)).removeprefix("torch.") if is_mixed else self._dtype,
            gpu_memory_utilization=self._memory_share,
            enable_sleep_mode=True,
            # Of the model itself, before temperature and nucleus.
            logprobs_mode="raw_logprobs",
        )

    def _drawn(
        self, prompts: Sequence[Sequence[int]], parameters: Sampling, num_samples: int, ends: frozenset[int], seed: int
    ) -> list[list[tuple[tuple[int, ...], Tensor]]]:
        """Token ids of every completion with vLLM's log-probs."""
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
        groups = [[_completion(sample, ends, parameters.max_new_tokens) for sample in output.outputs] for output in outputs]
        wanted = 1 if is_greedy else num_samples
        if [len(group) for group in groups] != [wanted] * len(prompts):
            raise ValueError(f"{sum(map(len, groups))} completions of {len(groups)} prompts")
        return [group * num_samples if is_greedy else group for group in groups]


def _require_one_process() -> None:
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        raise ValueError(
            f"expected one process with engine: vllm, got {distributed.get_world_size()}: each would start a vLLM on the same "
            "device. Use engine: batched, or trainer.devices: 1."
        )


@contextmanager
def _in_words(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # vLLM's own kinds, of its process and of CUDA
        raise ValueError(
            f"expected {what} from vLLM, got {type(error).__name__}: {str(error)[:300]}. Nothing was learned from this draw. Go on "
            "from the last checkpoint (--ckpt_path); engine: batched needs no vLLM."
        ) from error


def _mark(policy: Served) -> list[tuple[int, int, float]]:
    """Changes whenever a weight does: where each tensor is, how often it was written, and its sum (one pass over the weights)."""
    weights = [parameter.detach() for parameter in policy.parameters()]
    sums = torch.stack([weight.sum(dtype=torch.float64) for weight in weights]).tolist()
    versions = [-1 if weight.is_inference() else weight._version for weight in weights]
    return list(zip((weight.data_ptr() for weight in weights), versions, sums, strict=True))


def _replace_weights(save: Callable[[Path], None], folder: Path) -> None:
    """New weights in the place of the old ones: vLLM reads them from the folder that it was started with."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        fresh = Path(name) / "policy"
        save(fresh)
        for file in fresh.glob("*.safetensors*"):
            file.replace(folder / file.name)


def _completion(sample: Any, ends: frozenset[int], most: int) -> tuple[tuple[int, ...], Tensor]:  # noqa: ANN401
    ids = tuple(sample.token_ids)
    if not ids or (len(ids) < most and ids[-1] not in ends):
        raise ValueError(f"a completion of {len(ids)} tokens that neither ends nor has {most}")
    logps = [given[token].logprob for token, given in zip(ids, sample.logprobs, strict=True)]
    return ids, torch.tensor(logps, dtype=torch.float32)


def _require_same_weights(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Refuse what was drawn from other weights than the policy's: the ratio of PPO would not be one of policies."""
    gap = (torch.cat([theirs for theirs, _ in pairs]) - torch.cat([ours for _, ours in pairs])).abs().mean().item()
    rank_zero_info(f"vLLM's log-probs differ from the policy's own by {gap:.2g} nats a token.")
    if not gap <= MAX_GAP:
        raise ValueError(
            f"expected completions drawn from the policy's weights, got log-probs from vLLM that differ from the policy's own by "
            f"{gap:.2g} nats a token (more than {MAX_GAP}). vLLM has other weights or another model: use engine: batched."
        )
