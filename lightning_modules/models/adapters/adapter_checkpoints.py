"""Checkpoints of adapters: they hold trained weights only; the frozen base is built again and compared with a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.models.adapters.lora import has_adapters
from lightning_modules.models.adapters.quantized import described_by
from lightning_modules.models.sharding import is_sharded

_ENTRY = "frozen_base"
"""Key of a checkpoint that has no base: the sha256 of the base's weights."""


class FrozenBase:
    """Takes the frozen weights of a module with adapters out of its checkpoints, and puts them back.

    A checkpoint of a 7B model with adapters of rank 16 is then 0.5 GB with the optimizer's state, and 28 GB otherwise. Sharded
    modules keep the base in their checkpoints: parts are read by name, each rank its own.

    Args:
        module: asked when a checkpoint is written or read.
    """

    def __init__(self, module: nn.Module) -> None:
        # A list, which hides it: the module holds this object.
        self._module = [module]
        self._digest: str | None = None

    def take_out(self, checkpoint: dict[str, Any]) -> None:
        """Remove the base from a checkpoint that is about to be written, and note its digest."""
        frozen = self._frozen()
        if frozen:
            checkpoint[_ENTRY] = self._digest_of(frozen)
            kept = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name: value for name, value in kept.items() if described_by(name) not in frozen}

    def put_back(self, checkpoint: dict[str, Any]) -> None:
        """Add the base that this run has built to a checkpoint that was read.

        Raises:
            ValueError: if the checkpoint's adapters were trained on other weights, or this run's model has no adapters.
        """
        written = checkpoint.get(_ENTRY)
        if written is None:
            return
        frozen = self._frozen()
        if not frozen:
            raise ValueError(
                "expected a model with adapters (lora) that is not sharded, because the checkpoint holds adapters without "
                "their base, got another. Use the config of the run that wrote it."
            )
        if self._digest_of(frozen) != written:
            raise ValueError(
                "expected the model that the checkpoint's adapters were trained on, got other weights. Set its path to the "
                "one that the run started from."
            )
        checkpoint["state_dict"] = {**frozen, **checkpoint["state_dict"]}

    def _frozen(self) -> dict[str, Tensor]:
        """Every name that a frozen parameter has, tied ones too; empty without adapters, and where they are sharded."""
        (module,) = self._module
        if not has_adapters(module) or is_sharded(module):
            return {}
        state: Mapping[str, Tensor] = module.state_dict(keep_vars=True)
        return {
            name: value.detach() for name, value in state.items() if isinstance(value, nn.Parameter) and not value.requires_grad
        }

    def _digest_of(self, frozen: Mapping[str, Tensor]) -> str:
        """sha256 over names, types and bytes, taken once: about a second a gigabyte."""
        if self._digest is None:
            digest = hashlib.sha256()
            for name, value in sorted(frozen.items()):
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.contiguous().flatten().view(torch.uint8).cpu().numpy())  # type: ignore[arg-type]
            self._digest = digest.hexdigest()
        return self._digest
