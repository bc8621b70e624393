"""Tests a backend, forward and backward, on a small made-up case against float64 attention segment by segment."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import accumulate

import torch
from torch import Tensor

from lightning_modules.models.attention_backends import per_segment
from lightning_modules.models.attention_backends.base import Attend, AttentionBackend, AttentionCase, Refusal
from lightning_modules.models.layers.segments import PackedSegments

TOLERANCE = 0.03
"""Largest relative error (norms) of output and gradients that half precision may make; a wrong mask makes about 1."""

_PROMPT, _COMPLETIONS = 37, (150, 3)


def failure(backend: AttentionBackend, case: AttentionCase) -> Refusal | None:
    """The fault of the backend in this case, or None if its output and gradients are right.

    What the caller's thread is doing makes no difference: inference mode, autocast, checkpointing.
    """
    device = torch.device(f"cuda:{torch.cuda.current_device()}" if case.device_type == "cuda" else case.device_type)
    try:
        wrong = in_a_fresh_thread(lambda: _largest_error(backend, case, device))
    except Exception as error:  # A kernel may fail in any way it likes; whatever it is, another backend can do the work.
        said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return Refusal(f"failed its self-test ({said})", lasting=False)
    return None if wrong <= TOLERANCE else Refusal(f"failed its self-test (relative error {wrong:.2g})")


def in_a_fresh_thread(work: Callable[[], float]) -> float:
    """The result of `work`, which sees none of the modes, hooks and contexts of torch that this thread has: they are a thread's."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(work).result()


def _largest_error(backend: AttentionBackend, case: AttentionCase, device: torch.device) -> float:
    # A thread starts on the first GPU, also where its process uses another.
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        segments = _segments(device)
        generator = torch.Generator().manual_seed(0)
        rows = sum(segments.query_lengths)
        softcap = 5.0 if case.softcap else None
        made_up = [torch.randn(rows, heads, case.head_dim, generator=generator) for heads in (4, 2, 2, 4)]
        inputs = [tensor.to(device, case.dtype) for tensor in made_up]
        got = _output_and_gradients(backend.attend, inputs, segments, softcap)
        want = _output_and_gradients(per_segment.attend, [tensor.double() for tensor in inputs], segments, softcap)
        errors = [((ours.double() - right).norm() / right.norm()).item() for ours, right in zip(got, want, strict=True)]
    # max() would pass over a nan that is not first.
    return max(errors) if all(error == error for error in errors) else float("nan")


def _output_and_gradients(attend: Attend, inputs: list[Tensor], segments: PackedSegments, softcap: float | None) -> list[Tensor]:
    *leaves, weights = (tensor.detach().requires_grad_() for tensor in inputs)
    query, key, value = leaves
    output = attend(query, key, value, segments, scaling=query.shape[-1] ** -0.5, softcap=softcap)
    return [output.detach(), *torch.autograd.grad(output, leaves, weights.detach())]


def _segments(device: torch.device) -> PackedSegments:
    """A prompt and two completions on it, so that query and key lengths differ."""
    query_lengths = (_PROMPT, *_COMPLETIONS)
    key_lengths = (_PROMPT, *(_PROMPT + length for length in _COMPLETIONS))
    starts = [_PROMPT, _PROMPT + _COMPLETIONS[0]]
    prompt = list(range(_PROMPT))
    keys = prompt + [
        row for start, length in zip(starts, _COMPLETIONS, strict=True) for row in prompt + list(range(start, start + length))
    ]
    return PackedSegments(
        key_index=torch.tensor(keys, device=device),
        cu_q=_cumulative(query_lengths, device),
        cu_k=_cumulative(key_lengths, device),
        query_lengths=query_lengths,
        key_lengths=key_lengths,
    )


def _cumulative(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(list(accumulate(lengths, initial=0)), dtype=torch.int32, device=device)
