"""Fully sharded data parallelism (FSDP2) for a policy: who holds what, and the whole weights again for saving."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


def shard(policy: nn.Module, mesh: DeviceMesh, layer_names: Collection[str]) -> None:
    """Shard parameters, gradients and optimizer states over `mesh`, in place; gradients are averaged over it.

    Every layer is a group of its own. What is left (embeddings, final norm, output layer) is the root group, which stays
    whole between forward and backward: the output head reads its weight in both.

    Args:
        policy: the same weights on every rank.
        mesh: one-dimensional, of the data-parallel ranks.
        layer_names: class names of the modules that become groups.
    """
    for module in policy.modules():
        if type(module).__name__ in layer_names:
            fully_shard(module, mesh=mesh)
    fully_shard(policy, mesh=mesh, reshard_after_forward=False)


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
