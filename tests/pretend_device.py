"""A device that is not there: real numbers on the host, with the discipline of an accelerator.

`Elsewhere` tensors compute on the CPU but say that they are on another device, and an operation that mixes them with tensors of
the host is refused as CUDA would refuse it. So code that forgets to move a tensor is found on a machine without an accelerator.
Not found: what only kernels of a real one would say, and synchronisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map, tree_map_only
from typing_extensions import override

DEVICE = torch.device("lazy", 0)
"""A device type that autograd serves on the host."""

aten = torch.ops.aten
CROSSING = {aten._to_copy.default, aten.copy_.default, aten.lift_fresh.default}
"""What moves numbers between devices."""
HOST_INDICES = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._unsafe_index.Tensor}
"""What takes indices from the host, too."""


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


class _Literals(TorchFunctionMode):
    """`torch.tensor` makes its tensor below the dispatcher."""

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func is not torch.tensor or torch.device(options.get("device") or "cpu").type != DEVICE.type:
            return func(*args, **options)
        return func(*args, **{**options, "device": None}).to(DEVICE)


class _Autocast:
    """Of torch, which knows no autocast of the device: there is none."""

    is_enabled, context = torch.is_autocast_enabled, torch.autocast

    @classmethod
    def is_autocast_enabled(cls, device_type: str) -> bool:
        return device_type != DEVICE.type and cls.is_enabled(device_type)

    @classmethod
    def autocast(cls, device_type: str, **options: Any) -> Any:
        return nullcontext() if device_type == DEVICE.type else cls.context(device_type, **options)


@contextmanager
def pretend_device() -> Iterator[torch.device]:
    """The device; inside, tensors can be made on it and moved to it."""
    with ExitStack() as stack:
        stack.enter_context(_Operations())
        stack.enter_context(_Literals())
        for name in ("is_autocast_enabled", "autocast"):
            stack.enter_context(patch.object(torch, name, getattr(_Autocast, name)))
        yield DEVICE


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the numbers, its results on the device that they belong to."""
    elsewhere, host = _devices(func, (args, kwargs))
    if elsewhere and host and func not in CROSSING:
        raise RuntimeError(f"expected all tensors to be on the same device, but found at least two devices in {func}")
    device, generator = kwargs.get("device"), kwargs.get("generator")
    if generator is not None and (elsewhere or (device is not None and torch.device(device) == DEVICE)):
        raise RuntimeError(f"expected a generator of the device, got {generator.device} in {func}")
    goes_elsewhere = elsewhere if device is None else torch.device(device).type == DEVICE.type
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    inner_args, inner_kwargs = tree_map_only(Elsewhere, lambda tensor: tensor.hosted, (args, kwargs))
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
