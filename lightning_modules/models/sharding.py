"""Fully sharded data parallelism (FSDP2): splits the weights, and gathers them for saving and sampling."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from lightning_modules.models.adapters.quantized import is_quantized
from lightning_modules.models.layers.compiling import CompiledForward
from lightning_modules.models.layers.fused_norms import FusedNorm

ModuleT = TypeVar("ModuleT", bound=nn.Module)
_LAYER_TYPE = "_gathered_type"


@dataclass(frozen=True)
class Gathering:
    """Types in which sharded weights and gradients go from rank to rank; the shards keep theirs."""

    layers: torch.dtype | None = None
    """Of the decoder layers' weights: what autocast would make of those of their products anyway, at half the bytes. Embeddings,
    last norm and output layer go as they are held, because the head computes in float32."""
    gradients: torch.dtype | None = None
    """In which gradients are averaged; None takes their own."""

    def of_layers(self) -> MixedPrecisionPolicy:
        """For FSDP2. What goes into a layer is not rounded: the sum over layers stays what it is on one process."""
        return MixedPrecisionPolicy(param_dtype=self.layers, reduce_dtype=self.gradients, cast_forward_inputs=False)

    def of_the_rest(self) -> MixedPrecisionPolicy:
        """For FSDP2."""
        return MixedPrecisionPolicy(reduce_dtype=self.gradients, cast_forward_inputs=False)


AS_HELD = Gathering()


class Shardable(nn.Module, ABC):
    """A model that knows how it is spread over ranks."""

    @abstractmethod
    def shard(self, mesh: DeviceMesh, gathering: Gathering = AS_HELD) -> None:
        """Spread parameters, gradients and optimizer states over the ranks of `mesh` (FSDP2), in place.

        Args:
            mesh: one-dimensional, of the data-parallel ranks.
            gathering: types of what the ranks exchange.
        """


def shard(policy: nn.Module, mesh: DeviceMesh, layer_names: Collection[str], gathering: Gathering = AS_HELD) -> None:
    """Shard parameters, gradients and optimizer states over `mesh`, in place; gradients are averaged over it.

    Every layer is a group of its own. What is left (embeddings, final norm, output layer) is the root group, which stays
    whole between forward and backward: the output head reads its weight in both.

    Args:
        policy: the same weights on every rank.
        mesh: one-dimensional, of the data-parallel ranks.
        layer_names: class names of the modules that become groups.
        gathering: types of what the ranks exchange.

    Raises:
        ValueError: if weights are in four bits.
    """
    if is_quantized(policy):
        raise ValueError(
            "expected whole weights under DDP, or weights of 16 or 32 bits under FSDP2, got four-bit ones to be sharded: "
            "their scales cannot be split with them. Use `strategy: ddp`, or load_in_4bit: false."
        )
    for module in policy.modules():
        if type(module).__name__ in layer_names:
            fully_shard(module, mesh=mesh, mp_policy=gathering.of_layers())
            setattr(module, _LAYER_TYPE, gathering.layers)
    fully_shard(policy, mesh=mesh, mp_policy=gathering.of_the_rest(), reshard_after_forward=False)


def gathers(model: nn.Module) -> bool:
    """Whether calling `model` makes all ranks gather its weights, so that each must call it as often as the others."""
    return isinstance(model, FSDPModule)


@contextmanager
def root_gathered(model: nn.Module) -> Iterator[None]:
    """Context in which parts of a sharded model may be called by themselves: what is in no layer is whole on every rank."""
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


@torch.no_grad()
def whole_copy(model: ModuleT, *, as_computed: bool = False) -> ModuleT:
    """A copy with whole weights, which this rank runs alone, as often as it likes; 4 bytes a float32 parameter.

    A collective: call it on every rank. The copy is for reading: without gradient, and without the hooks that gather shards.

    Args:
        model: sharded.
        as_computed: whether its weights have the types that the sharded model computes with, and not those that it holds.
    """
    types: dict[Tensor, torch.dtype] = {}
    for module in model.modules() if as_computed else ():
        if (layer_type := getattr(module, _LAYER_TYPE, None)) is not None:
            types.update(dict.fromkeys(module.parameters(), layer_type))
    weights = {
        parameter: nn.Parameter(_owned(parameter.detach()).to(types.get(parameter, parameter.dtype)), requires_grad=False)
        for parameter in model.parameters()
    }
    copies: dict[nn.Module, nn.Module] = {}

    def copied(module: nn.Module) -> nn.Module:
        if module not in copies:
            twin = copies[module] = _twin(module)
            twin._parameters = {name: None if own is None else weights[own] for name, own in module._parameters.items()}
            twin._modules = {name: None if child is None else copied(child) for name, child in module._modules.items()}
        return copies[module]

    return cast(ModuleT, copied(model))


def _owned(tensor: Tensor) -> Tensor:
    """The whole tensor in memory of its own: what FSDP2 has gathered already, it frees when it shards again."""
    return whole(tensor) if isinstance(tensor, DTensor) else tensor.clone()


def _twin(module: nn.Module) -> nn.Module:
    """A module of the same attributes, without hooks, compilation and sharding."""
    # A sharded module is of a class made of FSDPModule and its own.
    own = type(module).__mro__[2] if isinstance(module, FSDPModule) else type(module)
    twin: nn.Module = object.__new__(own)
    twin.__dict__.update(module.__dict__)
    twin._forward_pre_hooks, twin._forward_hooks = OrderedDict(), OrderedDict()
    # Asked for the copy's state, they would shard the original.
    twin._state_dict_pre_hooks, twin._state_dict_hooks = OrderedDict(), OrderedDict()
    own_forward = vars(module).get("forward")
    if isinstance(own_forward, FusedNorm):
        twin.forward = replace(own_forward, module=twin)
    if isinstance(own_forward, CompiledForward):
        del twin.forward
    # Of its own, for some models register other rotary frequencies as they go.
    twin._buffers = dict(module._buffers)
    return twin


def is_sharded(model: nn.Module) -> bool:
    """Whether any parameter is spread over ranks."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The unsharded weights on the CPU, on the first rank (empty elsewhere). A collective: call it on every rank."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, Tensor], get_model_state_dict(model, options=options))


def whole(tensor: Tensor) -> Tensor:
    """The full value of a tensor that may be spread over ranks (a collective where it is)."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def is_first_rank() -> bool:
    """Whether this process writes what all processes have in common."""
    return not distributed.is_initialized() or distributed.get_rank() == 0
