"""Reference log-probs: computed once, cached on disk by what they depend on, and the reference model dropped again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import cast

import torch
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed

from datamodules.batches import ReferenceStore, demand_of
from lightning_modules.models.policy import Policy, PolicySpec


class ReferenceScorer:
    """Attaches token log-probs under a frozen reference to every split of a data module.

    The cache key covers the reference's weights (and what else its log-probs depend on), the tokenised data and the
    compute precision; a file is written under a temporary name and renamed, so that a killed run leaves no half file, and carries
    a checksum: one with other bytes is named and computed anew.

    Args:
        spec: recipe of the reference.
        cache_dir: folder of the cache; made when missing.
    """

    def __init__(self, spec: PolicySpec, cache_dir: Path) -> None:
        self._spec = spec
        self._cache_dir = cache_dir
        self._attached: dict[str, str] = {}
        self.fingerprint: str | None = None
        """Fingerprint of the reference, where it is known without building it."""

    def attach(self, store: ReferenceStore, *, device: torch.device, precision: Precision) -> None:
        """Make sure that every split of `store` that is set up carries its reference log-probs."""
        digests = {split: store.data_fingerprint(split) for split in store.splits()}
        missing = {split: digest for split, digest in digests.items() if self._attached.get(split) != digest}
        policy: Policy | None = None
        for split, digest in missing.items():
            if self.fingerprint is None:
                policy = self._spec.build()
                self.fingerprint = policy.fingerprint()
            path = self._path(digest, precision)
            # Every rank must take the same branch, or the collective in _score would hang.
            if not _agreed(_is_whole(path)):
                policy = policy or self._spec.build()
                rank_zero_info(f"Computing reference log-probs of the {split} split once; they are cached at {path}")
                _save(path, _score(policy, store, split, device, precision))
            store.set_reference_logps(split, load_file(path)["token_logps"])
            self._attached[split] = digest

    def _path(self, data_digest: str, precision: Precision) -> Path:
        key = hashlib.sha256(f"{self.fingerprint}|{data_digest}|{precision.precision}|sha256".encode()).hexdigest()
        return self._cache_dir / "reference" / f"{key[:32]}.safetensors"


def _score(policy: Policy, store: ReferenceStore, split: str, device: torch.device, precision: Precision) -> Tensor:
    """`[all scored positions]` float32; batch i is scored by rank i modulo the world size."""
    policy = cast(Policy, precision.convert_module(policy)).to(device).eval().requires_grad_(False)
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
    own: dict[int, Tensor] = {}
    with torch.no_grad(), precision.forward_context():
        for number, batch in enumerate(store.scoring_dataloader(split)):
            if number % world == rank:
                if policy.limits is not None:
                    policy.limits.require([demand_of(batch, f"{split} data, which the reference reads")])
                own[number] = policy(batch.to(device)).logps.float().cpu()
    parts = {number: part for shard in _gathered(own) for number, part in shard.items()}
    return torch.cat([parts[number] for number in sorted(parts)])


def _gathered(own: dict[int, Tensor]) -> list[dict[int, Tensor]]:
    if not distributed.is_initialized():
        return [own]
    shards: list[dict[int, Tensor] | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(shards, own)
    return cast(list[dict[int, Tensor]], shards)


def _agreed(found: bool) -> bool:
    if not distributed.is_initialized():
        return found
    votes: list[bool | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(votes, found)
    return all(votes)


def _is_whole(path: Path) -> bool:
    """Whether the file is there with the bytes that were written; it then counts as used today."""
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            written, found = (file.metadata() or {}).get("sha256"), _digest(file.get_tensor("token_logps"))
    except (OSError, SafetensorError) as error:
        written, found = "", f"{type(error).__name__}: {error}"
    if written != found:
        rank_zero_warn(
            f"The cached reference log-probs in {path} are damaged (checksum {written}, found {found}): computing them anew."
        )
        return False
    path.touch()
    return True


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()


def _save(path: Path, token_logps: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    save_file({"token_logps": token_logps}, temporary, metadata={"sha256": _digest(token_logps)})
    temporary.replace(path)
