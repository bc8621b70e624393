"""Checkpoints of adapters: they hold trained weights only; the frozen base is built again and compared with a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.models.adapters.lora import has_adapters
from lightning_modules.models.adapters.quantized import described_by
from lightning_modules.models.sharding import is_sharded, whole

_ENTRY = "frozen_base"
"""Key of a checkpoint that has no base: the sha256 of the base's weights."""
_TRAINED = "trained_shapes"
"""Beside it: `{name: shape}` of what is trained."""


class FrozenBase:
    """Takes the frozen weights of a module with adapters out of its checkpoints, and puts them back.

    A checkpoint of a 7B model with adapters of rank 16 is then 0.5 GB with the optimizer's state, and 28 GB otherwise.

    Args:
        module: asked when a checkpoint is written or read.
    """

    def __init__(self, module: nn.Module) -> None:
        # A list, which hides it: the module holds this object.
        self._module = [module]
        self._digest: str | None = None

    def take_out(self, checkpoint: dict[str, Any]) -> None:
        """Remove the base from a checkpoint that is about to be written, and note its digest. Call it on every rank."""
        frozen = self._frozen()
        if frozen:
            checkpoint[_ENTRY], checkpoint[_TRAINED] = self._digest_of(frozen), self._trained()
            checkpoint["state_dict"] = without(checkpoint["state_dict"], frozen)

    def put_back(self, checkpoint: dict[str, Any]) -> None:
        """Add the base that this run has built to a checkpoint that was read. Call it on every rank.

        A sharded module has read its part of the adapters by now, and has its base already.

        Raises:
            ValueError: if the checkpoint's adapters were trained on other weights, or this run's model has no adapters, or others.
        """
        (module,) = self._module
        written, frozen = checkpoint.get(_ENTRY), self._frozen()
        if written is None:
            if frozen and is_sharded(module):
                raise ValueError(
                    "expected a checkpoint of adapters, got one that holds no digest of their base: of an earlier version, or of a "
                    "model without adapters. Start a new run from the exported weights."
                )
            return
        if not frozen:
            raise ValueError(
                "expected a model with adapters (lora), because the checkpoint holds adapters without their base, got another. Use "
                "the config of the run that wrote it."
            )
        # First, for the base has other names under other adapters. Of a file, Lightning leaves what it lacks as it is, unsaid.
        self._require_trained(checkpoint.get(_TRAINED, self._trained()))
        if self._digest_of(frozen) != written:
            raise ValueError(
                "expected the model that the checkpoint's adapters were trained on, got other weights. Set its path to the "
                "one that the run started from."
            )
        if not is_sharded(module):
            checkpoint["state_dict"] = {**frozen, **checkpoint["state_dict"]}

    def of_parts(self, state: dict[str, Any]) -> dict[str, Any]:
        """What a sharded module writes and reads of its state: all but the base."""
        (module,) = self._module
        return without(state, self._frozen()) if has_adapters(module) and is_sharded(module) else state

    def _require_trained(self, written: Mapping[str, list[int]]) -> None:
        own = self._trained()
        others = sorted(name for name in own.keys() | written.keys() if own.get(name) != written.get(name))
        if others:
            one = others[0]
            raise ValueError(
                f"expected the adapters that wrote the checkpoint, got others: {one} was {written.get(one, 'absent')} and is "
                f"{own.get(one, 'absent')}. Use the lora settings of its run."
            )

    def _trained(self) -> dict[str, list[int]]:
        (module,) = self._module
        return {name: list(value.shape) for name, value in module.named_parameters() if value.requires_grad}

    def _frozen(self) -> dict[str, Tensor]:
        """Every name that a frozen parameter has, tied ones too; empty without adapters."""
        (module,) = self._module
        if not has_adapters(module):
            return {}
        # Not that of a subclass, which may leave out just these.
        state: Mapping[str, Tensor] = nn.Module.state_dict(module, keep_vars=True)
        return {
            name: value.detach() for name, value in state.items() if isinstance(value, nn.Parameter) and not value.requires_grad
        }

    def _digest_of(self, frozen: Mapping[str, Tensor]) -> str:
        """sha256 over names, types and bytes, taken once: about a second a gigabyte. Sharded ones are gathered one by one."""
        if self._digest is None:
            digest = hashlib.sha256()
            for name, value in sorted(frozen.items()):
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(whole(value).contiguous().flatten().view(torch.uint8).cpu().numpy())  # type: ignore[arg-type]
            self._digest = digest.hexdigest()
        return self._digest


def without(state: Mapping[str, Any], frozen: Mapping[str, Tensor]) -> dict[str, Any]:
    """A state without frozen parameters and what describes them."""
    return {name: value for name, value in state.items() if described_by(name) not in frozen}
