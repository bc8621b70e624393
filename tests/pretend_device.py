"""A device that is not there: real numbers on the host, with the discipline of an accelerator.

`Elsewhere` tensors compute on the CPU but say that they are on another device, and an operation that mixes them with tensors of
the host is refused as CUDA would refuse it. So code that forgets to move a tensor is found on a machine without an accelerator.
Products are autocast as on one, and attention that only its slowest kernel takes is refused (that of half-precision kernels has
a stand-in: half_kernel). What makes the host wait for an accelerator is counted (`waits`). Not found: what else only kernels of a
real one would say.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map, tree_map_only
from typing_extensions import override

from lightning_modules.models.attention_backends import self_test

DEVICE = torch.device("lazy", 0)
"""A device type that autograd serves on the host."""

aten = torch.ops.aten
CROSSING = {aten._to_copy.default, aten.copy_.default, aten.lift_fresh.default}
"""What moves numbers between devices."""
HOST_INDICES = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._unsafe_index.Tensor}
"""What takes indices from the host, too."""

WIDE_PRODUCTS = {aten.mm.dtype_out, aten.addmm.dtype_out}
"""Half-precision factors with sums in float32, which the host's kernels do not have."""
BLOCKING = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.isin.Tensor_Tensor,
    aten._unique2.default,
    aten.unique_consecutive.default,
    aten.unique_dim.default,
    aten.bincount.default,
    aten.equal.default,
}
"""What reads a number off the device, or has a size that the device has to tell."""

HALVES = (torch.float16, torch.bfloat16)
PRODUCTS = {
    functional.linear,
    functional.scaled_dot_product_attention,
    torch.matmul,
    torch.mm,
    torch.bmm,
    torch.addmm,
    torch.baddbmm,
    torch.einsum,
    Tensor.matmul,
    Tensor.__matmul__,
}
"""What autocast takes in half precision."""


class Elsewhere(Tensor):
    """A tensor of the device."""

    hosted: Tensor

    @staticmethod
    def __new__(cls: type[Elsewhere], inner: Tensor) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
            requires_grad=inner.requires_grad,
        )
        made.hosted = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return run(func, args, kwargs or {})

    @override
    def tolist(self) -> Any:
        _wait("tolist")
        return self.hosted.tolist()

    @override
    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.hosted.__reduce_ex__(protocol)


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class _Autocast:
    """Of the device, which torch knows no autocast of: its state, in the place of torch's own functions."""

    def __init__(self) -> None:
        self.dtype: torch.dtype | None = None
        self._is_enabled, self._get_dtype, self._context = torch.is_autocast_enabled, torch.get_autocast_dtype, torch.autocast

    def is_autocast_enabled(self, device_type: str) -> bool:
        return self.dtype is not None if device_type == DEVICE.type else self._is_enabled(device_type)

    def get_autocast_dtype(self, device_type: str) -> torch.dtype:
        return self.dtype or torch.bfloat16 if device_type == DEVICE.type else self._get_dtype(device_type)

    def autocast(self, device_type: str, dtype: torch.dtype = torch.bfloat16, enabled: bool = True, **options: Any) -> Any:
        if device_type != DEVICE.type:
            return self._context(device_type, dtype=dtype, enabled=enabled, **options)
        return self._set(dtype if enabled else None)

    @contextmanager
    def _set(self, dtype: torch.dtype | None) -> Iterator[None]:
        before, self.dtype = self.dtype, dtype
        try:
            yield
        finally:
            self.dtype = before

    def cast(self, arguments: Any) -> Any:
        """Arguments of a product, as autocast hands them on: float64 stays."""
        return tree_map_only(Elsewhere, lambda t: t.to(self.dtype) if t.dtype in (torch.float32, *HALVES) else t, arguments)


class _Functions(TorchFunctionMode):
    """What happens above the dispatcher: `torch.tensor` makes its tensor below it, autocast comes before autograd."""

    def __init__(self, autocast: _Autocast) -> None:
        super().__init__()
        self._autocast = autocast

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func is torch.tensor and torch.device(options.get("device") or "cpu").type == DEVICE.type:
            return func(*args, **{**options, "device": None}).to(DEVICE)
        if func in PRODUCTS and self._autocast.dtype is not None:
            args, options = self._autocast.cast((args, options))
        if func is functional.scaled_dot_product_attention and isinstance(args[0], Elsewhere):
            _refuse_slow(args, options)
        return func(*args, **options)


def _refuse_slow(args: Any, options: dict[str, Any]) -> None:
    """Refuse attention for which CUDA has no kernel but the one that forms all scores."""
    if args[0].shape[1] != args[1].shape[1] and options.get("attn_mask") is not None:
        raise RuntimeError("expected as many key heads as query heads beside a mask: no fused kernel takes fewer")


@contextmanager
def pretend_device() -> Iterator[torch.device]:
    """The device; inside, tensors can be made on it and moved to it."""
    autocast = _Autocast()
    with ExitStack() as stack:
        stack.enter_context(_Operations())
        stack.enter_context(_Functions(autocast))
        for name in ("is_autocast_enabled", "get_autocast_dtype", "autocast"):
            stack.enter_context(patch.object(torch, name, getattr(autocast, name)))
        stack.enter_context(patch.object(self_test, "in_a_fresh_thread", _here))
        yield DEVICE


_waits: list[list[str]] = []


@contextmanager
def waits() -> Iterator[list[str]]:
    """Where the host waits for the device meanwhile: it reads a number, asks for a size, or copies and is not told to go on."""
    places: list[str] = []
    _waits.append(places)
    try:
        yield places
    finally:
        _waits.remove(places)


def _wait(what: object) -> None:
    if not _waits:
        return
    frames = [
        frame for frame in traceback.extract_stack() if not {"site-packages", Path(__file__).name} & {*Path(frame.filename).parts}
    ]
    # Whole batches come from memory that CUDA copies from by itself.
    if any(frame.name == "copy_to" for frame in frames):
        return
    place = f"{what}: " + " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames[-4:]))
    for places in _waits:
        places.append(place)


def _makes_wait(func: Any, args: Any, kwargs: dict[str, Any], from_device: bool, to_device: bool) -> bool:
    if func in BLOCKING:
        return from_device
    if func in HOST_INDICES:
        # A mask is an index of as many rows as it is true for.
        return any(isinstance(index, Elsewhere) and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    if func is aten.repeat_interleave.Tensor:
        return from_device and kwargs.get("output_size") is None
    if func is aten._to_copy.default:
        return from_device != to_device and not kwargs.get("non_blocking")
    if func is aten.copy_.default:
        is_blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking"))
        return isinstance(args[0], Elsewhere) != isinstance(args[1], Elsewhere) and is_blocking
    return False


def _here(work: Callable[[], float]) -> float:
    """The self-test of a backend in this thread, as another one would not know the device."""
    with torch.inference_mode(False), torch.enable_grad():
        return work()


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the numbers, its results on the device that they belong to."""
    elsewhere, host = _devices(func, (args, kwargs))
    if elsewhere and host and func not in CROSSING:
        raise RuntimeError(f"expected all tensors to be on the same device, but found at least two devices in {func}")
    device, generator = kwargs.get("device"), kwargs.get("generator")
    if generator is not None and (elsewhere or (device is not None and torch.device(device) == DEVICE)):
        raise RuntimeError(f"expected a generator of the device, got {generator.device} in {func}")
    goes_elsewhere = elsewhere if device is None else torch.device(device).type == DEVICE.type
    if _makes_wait(func, args, kwargs, elsewhere, goes_elsewhere):
        _wait(func)
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    inner_args, inner_kwargs = tree_map_only(Elsewhere, lambda tensor: tensor.hosted, (args, kwargs))
    if func in WIDE_PRODUCTS:
        *added, left, right, wide = inner_args
        product = left.to(wide) @ right.to(wide)
        return _same((kwargs["out"],), (inner_kwargs["out"],), inner_kwargs["out"].copy_(sum(added, start=product)))
    result = func(*inner_args, **inner_kwargs)
    if func is aten._to_copy.default and result is inner_args[0]:
        result = result.clone()
    return _same(args, inner_args, result) if func._schema.is_mutable else _wrap(result, goes_elsewhere)


def _devices(func: Any, arguments: Any) -> tuple[bool, bool]:
    """Whether tensors of the device and of the host are among the arguments; numbers as tensors count for neither."""
    found: list[Tensor] = []
    tree_map_only(Tensor, found.append, arguments[0][:1] if func in HOST_INDICES else arguments)
    host = any(not isinstance(tensor, Elsewhere) and tensor.dim() for tensor in found)
    return any(isinstance(tensor, Elsewhere) for tensor in found), host


def _wrap(result: Any, goes_elsewhere: bool) -> Any:
    return tree_map_only(Tensor, Elsewhere, result) if goes_elsewhere else result


def _same(args: Any, inner_args: Any, result: Any) -> Any:
    """In place: what came in goes out."""
    outer = {id(inner): tensor for tensor, inner in zip(args, inner_args, strict=True) if isinstance(tensor, Elsewhere)}
    return tree_map(lambda each: outer.get(id(each), each), result)
