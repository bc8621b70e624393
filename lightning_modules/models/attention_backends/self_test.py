"""Forward and backward of a backend on a small made-up case, against float64 attention segment by segment."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from lightning_modules.models.attention_backends import per_segment
from lightning_modules.models.attention_backends.base import Attend, AttentionBackend, AttentionCase
from lightning_modules.models.segments import PackedSegments

TOLERANCE = 0.03
"""Largest relative error (norms) of output and gradients that half precision may make; a wrong mask makes about 1."""

_PROMPT, _COMPLETIONS = 37, (150, 3)


def failure(backend: AttentionBackend, case: AttentionCase) -> str | None:
    """What is wrong with the backend for this case, or None if its output and gradients are right."""
    try:
        wrong = _largest_error(backend, case)
    except Exception as error:  # A kernel may fail in any way it likes; whatever it is, another backend can do the work.
        return f"failed its self-test ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    return None if wrong <= TOLERANCE else f"failed its self-test (relative error {wrong:.2g})"


def _largest_error(backend: AttentionBackend, case: AttentionCase) -> float:
    segments = _segments(case.device_type)
    generator = torch.Generator().manual_seed(0)
    rows = sum(segments.query_lengths)
    softcap = 5.0 if case.softcap else None
    made_up = [torch.randn(rows, heads, case.head_dim, generator=generator) for heads in (4, 2, 2, 4)]
    inputs = [tensor.to(case.device_type, case.dtype) for tensor in made_up]
    got = _output_and_gradients(backend.attend, inputs, segments, softcap)
    want = _output_and_gradients(per_segment.attend, [tensor.double() for tensor in inputs], segments, softcap)
    errors = [((ours.double() - right).norm() / right.norm()).item() for ours, right in zip(got, want, strict=True)]
    # max() would pass over a nan that is not first.
    return max(errors) if all(error == error for error in errors) else float("nan")


def _output_and_gradients(attend: Attend, inputs: list[Tensor], segments: PackedSegments, softcap: float | None) -> list[Tensor]:
    *leaves, weights = (tensor.detach().requires_grad_() for tensor in inputs)
    query, key, value = leaves
    with torch.enable_grad(), torch.autocast(query.device.type, enabled=False):
        output = attend(query, key, value, segments, scaling=query.shape[-1] ** -0.5, softcap=softcap)
        return [output.detach(), *torch.autograd.grad(output, leaves, weights.detach())]


def _segments(device: str) -> PackedSegments:
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


def _cumulative(lengths: tuple[int, ...], device: str) -> Tensor:
    return torch.tensor(list(accumulate(lengths, initial=0)), dtype=torch.int32, device=device)
