"""Which attention backend is chosen, what is said about it, and that each kernel is called as its package defines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from lightning_modules.models.attention_backends import flash_attention_2, flash_attention_4, per_segment, torch_varlen
from lightning_modules.models.attention_backends.base import Attend, AttentionBackend, AttentionCase, half_precision_on_cuda
from lightning_modules.models.attention_backends.per_segment import PER_SEGMENT
from lightning_modules.models.attention_backends.selection import BACKENDS, RETRY_AFTER, BackendSelector
from lightning_modules.models.attention_backends.self_test import failure
from lightning_modules.models.layers.checkpointing import Checkpointing
from lightning_modules.models.layers.segments import PackedSegments
from lightning_modules.models.specs import RandomPolicy
from tests.half_kernel import HALF_KERNEL, half_kernel_is_there
from tests.lightning_modules.models.architectures import config, make_batch
from tests.pretend_device import DEVICE, pretend_device

CPU = AttentionCase("cpu", torch.float32, 8, softcap=False)


def varlen(query: Tensor, key: Tensor, value: Tensor, cu_q: Tensor, cu_k: Tensor, scale: float, softcap: float | None) -> Tensor:
    """FlashAttention's definition of a causal varlen call: already gathered keys, aligned at the bottom right."""
    lengths = [tuple(cu.diff().tolist()) for cu in (cu_q, cu_k)]
    segments = PackedSegments(torch.arange(len(key)), cu_q, cu_k, *lengths)
    return per_segment.attend(query, key, value, segments, scaling=scale, softcap=softcap)


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float,
    causal: bool,
    softcap: float,
) -> Tensor:
    assert causal
    assert (max_seqlen_q, max_seqlen_k) == (int(cu_seqlens_q.diff().max()), int(cu_seqlens_k.diff().max()))
    return varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, softmax_scale, softcap or None)


def varlen_attn_2_10(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, is_causal: bool
) -> Tensor:
    assert is_causal
    assert q.shape[1] == k.shape[1]
    return varlen(q, k, v, cu_q, cu_k, q.shape[-1] ** -0.5, None)


def varlen_attn_2_13(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    assert window_size == (-1, 0)
    assert enable_gqa or q.shape[1] == k.shape[1]
    assert scale is not None
    return varlen(q, k, v, cu_q, cu_k, scale, None)


@pytest.mark.parametrize(
    ("attend", "module", "kernel", "softcap"),
    [
        (flash_attention_2.attend, "flash_attn", flash_attn_varlen_func, 0.7),
        (flash_attention_2.attend, "flash_attn", flash_attn_varlen_func, None),
        (flash_attention_4.attend, "flash_attn.cute", flash_attn_varlen_func, 0.7),
        (flash_attention_4.attend, "flash_attn.cute", lambda *a, **k: (flash_attn_varlen_func(*a, **k), None), None),
        (torch_varlen.attend, "torch.nn.attention.varlen", varlen_attn_2_10, None),
        (torch_varlen.attend, "torch.nn.attention.varlen", varlen_attn_2_13, None),
    ],
)
def test_kernels_are_called_as_their_packages_define(
    monkeypatch: pytest.MonkeyPatch, attend: Attend, module: str, kernel: Callable[..., object], softcap: float | None
) -> None:
    stand_in = ModuleType(module)
    stand_in.__dict__["varlen_attn" if "torch" in module else "flash_attn_varlen_func"] = kernel
    monkeypatch.setitem(sys.modules, "flash_attn", stand_in)
    monkeypatch.setitem(sys.modules, module, stand_in)
    batch = make_batch()
    segments = PackedSegments.of(batch)
    rows = [torch.randn(batch.num_rows, heads, 6, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2)]
    query, key, value = rows
    got = attend(query, key, value, segments, scaling=0.9, softcap=softcap)
    want = per_segment.attend(query, key, value, segments, scaling=0.9, softcap=softcap)
    torch.testing.assert_close(got, want)
    gradients = [torch.autograd.grad(output.square().sum(), rows) for output in (got, want)]
    torch.testing.assert_close(*gradients)


def fake(name: str, attend: Attend = per_segment.attend, **options: Any) -> AttentionBackend:
    return AttentionBackend(name=name, attend=attend, **({"obstacle": lambda _: None} | options))


def leaky(query: Tensor, key: Tensor, value: Tensor, segments: PackedSegments, *, scaling: float, softcap: float | None) -> Tensor:
    """Aligned at the top left, as some kernels once were."""
    rows = (query, key.index_select(0, segments.key_index), value.index_select(0, segments.key_index))
    outputs = []
    for q, k, v in zip(*(torch.split(r, list(n)) for r, n in zip(rows, lengths_of(segments), strict=True)), strict=True):
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
        outputs.append(out.transpose(0, 1))
    return torch.cat(outputs)


def lengths_of(segments: PackedSegments) -> list[tuple[int, ...]]:
    return [segments.query_lengths, segments.key_lengths, segments.key_lengths]


def without_gradient(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return per_segment.attend(query, *args, **kwargs).detach() + 0 * query


def exploding(*_: object, **__: object) -> Tensor:
    raise RuntimeError("no kernel image\nand a long trace")


def test_self_test_passes_the_right_and_fails_the_wrong() -> None:
    half = AttentionCase("cpu", torch.bfloat16, 16, softcap=False)
    assert failure(fake("right"), half) is None
    assert failure(fake("right"), AttentionCase("cpu", torch.float32, 16, softcap=True)) is None
    leak = failure(fake("leaky", leaky), half)
    assert leak is not None
    assert "relative error" in leak.reason
    assert leak.lasting
    assert failure(fake("no backward", without_gradient), half) is not None
    assert failure(fake("exploding", exploding), half) == ("failed its self-test (RuntimeError: no kernel image)", False)


@pytest.mark.parametrize("circumstance", [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_the_self_test_does_not_depend_on_who_asks(circumstance: Callable[[], AbstractContextManager[None]]) -> None:
    with circumstance():
        assert failure(HALF_KERNEL, AttentionCase("cpu", torch.bfloat16, 16, softcap=False)) is None


@pytest.mark.parametrize("gradient_checkpointing", [True, "selective"])
def test_a_checkpointed_layer_may_be_the_first_to_ask(gradient_checkpointing: Checkpointing) -> None:
    batch = make_batch()
    with half_kernel_is_there() as used:
        plain, checkpointed = (
            RandomPolicy(config("llama"), gradient_checkpointing=how, dtype="bfloat16").build()
            for how in (False, gradient_checkpointing)
        )
        for policy in (plain, checkpointed):
            policy(batch).logps.sum().backward()
    assert set(used) == {(torch.bfloat16, "half kernel")}
    for parameter, expected in zip(checkpointed.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad)


def test_a_backend_that_met_a_full_device_is_asked_again() -> None:
    full = [True]

    def attend(*args: Any, **options: Any) -> Tensor:
        if full[0]:
            raise torch.OutOfMemoryError("out of memory")
        return per_segment.attend(*args, **options)

    selector = BackendSelector("auto", [fake("good", attend), fake("leaky", leaky), PER_SEGMENT])
    assert {selector.choose(CPU).name for _ in range(10)} == {"sdpa"}
    full[0] = False
    assert {selector.choose(CPU).name for _ in range(RETRY_AFTER - 10)} == {"sdpa"}
    assert {selector.choose(CPU).name for _ in range(2 * RETRY_AFTER)} == {"good"}


@pytest.mark.parametrize("softcap", [None, 0.7])
def test_fewer_key_heads_and_a_mask_never_meet_on_an_accelerator(softcap: float | None) -> None:
    batch = make_batch()
    query, key, value = rows = [
        torch.randn(batch.num_rows, heads, 8, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2)
    ]
    want = per_segment.attend(query, key, value, PackedSegments.of(batch), scaling=0.9, softcap=softcap)
    gradients = torch.autograd.grad(want.square().sum(), rows)
    real, seen = torch.nn.functional.scaled_dot_product_attention, []

    def sdpa(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        seen.append(options.get("enable_gqa", False) or key.shape != value.shape or query.shape[1] != key.shape[1])
        return real(query, key, value, **options)

    with pretend_device(), patch.object(torch.nn.functional, "scaled_dot_product_attention", sdpa):
        query, key, value = there = [row.detach().to(DEVICE).requires_grad_() for row in rows]
        got = per_segment.attend(query, key, value, PackedSegments.of(batch.to(DEVICE)), scaling=0.9, softcap=softcap)
        torch.testing.assert_close(got.cpu(), want)
        for ours, right in zip(torch.autograd.grad(got.square().sum(), there), gradients, strict=True):
            torch.testing.assert_close(ours.cpu(), right)
    assert not any(seen)
    assert len(seen) > 0 if softcap is None else not seen


def test_the_first_that_works_is_chosen_once_and_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    missing = fake("missing", module="no_such_package.kernel", install="pip install no-such-package")
    needs_cuda = fake("needs_cuda", obstacle=half_precision_on_cuda, module="no_such_package", install="pip install other")
    backends = [missing, needs_cuda, fake("broken", exploding), fake("good"), PER_SEGMENT]
    selector = BackendSelector("auto", backends)
    with caplog.at_level(logging.INFO):
        assert {selector.choose(CPU).name for _ in range(3)} == {"good"}
    (message,) = caplog.messages
    assert message.startswith("Packed attention for cpu, float32, head width 8: good (missing is not installed; needs_cuda needs a")
    assert "broken failed its self-test (RuntimeError: no kernel image)" in message
    assert message.endswith("Faster, once installed: missing: pip install no-such-package")


def test_a_backend_asked_for_by_name_is_used_or_is_an_error() -> None:
    missing = fake("missing", module="no_such_package", install="pip install no-such-package")
    backends = [missing, fake("needs_cuda", obstacle=half_precision_on_cuda), fake("broken", exploding), fake("good"), PER_SEGMENT]
    assert BackendSelector("good", backends).choose(CPU).name == "good"
    with pytest.raises(ValueError, match=r"missing to be installed.*Install it with: pip install no-such-package"):
        BackendSelector("missing", backends)
    with pytest.raises(ValueError, match=r"needs_cuda to work for cpu, float32.*it needs a CUDA device.*attention: auto"):
        BackendSelector("needs_cuda", backends).choose(CPU)
    with pytest.raises(ValueError, match="no kernel image"):
        BackendSelector("broken", backends).choose(CPU)
    with pytest.raises(ValueError, match="expected attention to be auto or one of missing, needs_cuda"):
        BackendSelector("fastest", backends)


def test_on_the_cpu_segments_are_attended_one_shape_at_a_time() -> None:
    assert BackendSelector().choose(CPU) is PER_SEGMENT
    assert BACKENDS[-1] is PER_SEGMENT
    policy = RandomPolicy(config("llama"), attention="torch_varlen").build()
    with pytest.raises(ValueError, match="torch_varlen to work for cpu, float32, head width 8, but it needs a CUDA device"):
        policy(make_batch())


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
def test_backends_on_the_gpu(backend: AttentionBackend, head_dim: int) -> None:
    if not backend.installed:
        pytest.skip(f"{backend.name} is not installed")
    assert failure(backend, AttentionCase("cuda", torch.bfloat16, head_dim, softcap=False)) is None
