"""Computes reference log-probs once, caches them on disk, and drops the reference model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed
from tqdm import tqdm

from datamodules.contracts.batches import CompletionBatch, demand_of
from datamodules.contracts.stores import ReferenceStore
from lightning_modules.models.policy import Policy, PolicySpec
from lightning_modules.optimization.precision import converted
from lightning_modules.references.scored_parts import ScoredParts
from lightning_modules.token_stats import TokenStats

_Attached = tuple[str, tuple[tuple[int, ...], ...] | None]
"""Digest of a split, and the passes whose examples have reference log-probs; None for all."""


class ReferenceScorer:
    """Attaches token log-probs under a frozen reference to every split of a data module.

    A run that reads less than half of a split scores what it reads; any other scores the whole split, once for all runs.

    The cache key covers the reference's weights (and what else its log-probs depend on), the tokenised data and the
    compute precision; a file is written under a temporary name and renamed, so that a killed run leaves no half file, and carries
    a checksum: one with other bytes is named and computed anew. What is scored is kept in parts while scoring goes on.

    Args:
        spec: recipe of the reference.
        cache_dir: folder of the cache; made when missing.
    """

    def __init__(self, spec: PolicySpec, cache_dir: Path) -> None:
        self._spec = spec
        self._cache_dir = cache_dir
        self._attached: dict[str, _Attached] = {}
        self._built: Policy | None = None
        self.fingerprint: str | None = None
        """Fingerprint of the reference, where it is known without building it."""

    def attach(self, store: ReferenceStore, *, device: torch.device, precision: Precision) -> None:
        """Make sure that every split of `store` that is set up carries reference log-probs of all that this run reads of it."""
        for split in store.splits():
            digest, passes = store.data_fingerprint(split), store.planned_passes(split)
            wanted = (digest, None if passes is None else tuple(passes))
            if self._attached.get(split) in (wanted, (digest, None)):
                continue
            if self.fingerprint is None:
                self.fingerprint = self._policy().fingerprint()
            scoring = _Scoring(store, split, device, precision)
            self._attached[split] = self._attach(scoring, self._path(digest, precision), wanted)
        self._built = None

    def _attach(self, scoring: _Scoring, path: Path, wanted: _Attached) -> _Attached:
        digest, passes = wanted
        # Every rank must take the same branch, or the collective in `values` would hang.
        if _agreed(_is_whole(path)):
            scoring.store.set_reference_logps(scoring.split, load_file(path)["token_logps"])
            return digest, None
        parts = ScoredParts(path.with_suffix(".parts"))
        values = scoring.values(self._policy, None if passes is None else list(passes), parts)
        if passes is None:
            _save(path, values)
            parts.remove()
            scoring.store.set_reference_logps(scoring.split, load_file(path)["token_logps"])
        else:
            scoring.store.set_reference_logps(scoring.split, values, [index for examples in passes for index in examples])
        return wanted

    def _policy(self) -> Policy:
        """The reference, built at most once for all splits."""
        self._built = self._built or self._spec.build()
        return self._built

    def _path(self, data_digest: str, precision: Precision) -> Path:
        key = hashlib.sha256(f"{self.fingerprint}|{data_digest}|{precision.precision}|sha256".encode()).hexdigest()
        return self._cache_dir / "reference" / f"{key[:32]}.safetensors"


@dataclass(frozen=True)
class _Scoring:
    """A split that is to be scored, and where."""

    store: ReferenceStore
    split: str
    device: torch.device
    precision: Precision

    def values(self, build: Callable[[], Policy], passes: list[tuple[int, ...]] | None, parts: ScoredParts) -> Tensor:
        """`[scored positions of the passes]` float32; pass i is scored by rank i modulo the world size, if no part has it."""
        rank, world = (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
        share = [i for i in range(len(passes or ())) if i % world == rank]
        own = {i: part for i in share if passes and (part := parts.get(passes[i])) is not None}
        if not _agreed(passes is not None and len(own) == len(share)):
            own = self._scored(build(), passes, parts, rank, world)
        together = {i: part for shard in _gathered(own) for i, part in shard.items()}
        return torch.cat([torch.empty(0), *(together[i] for i in sorted(together))])

    def _scored(
        self, policy: Policy, passes: list[tuple[int, ...]] | None, parts: ScoredParts, rank: int, world: int
    ) -> dict[int, Tensor]:
        policy = converted(policy, self.precision).to(self.device).eval().requires_grad_(False)
        loader = self.store.scoring_dataloader(self.split) if passes is None else self.store.scoring_dataloader(self.split, passes)
        own: dict[int, Tensor] = {}
        number_of = "all" if passes is None else sum(map(len, passes))
        words = f"Reference log-probs of the {self.split} split"
        rank_zero_info(f"{words}: scoring {number_of} examples.")
        with torch.no_grad(), self.precision.forward_context():
            for number, batch in enumerate(tqdm(loader, words, disable=rank > 0, unit="pass", leave=False, delay=1)):
                if number % world == rank:
                    examples = dict.fromkeys(batch.example_index.tolist())
                    known = parts.get(examples)
                    own[number] = self._logps(policy, batch) if known is None else known
                    if known is None:
                        parts.add(examples, own[number])
        parts.flush()
        return own

    def _logps(self, policy: Policy, batch: CompletionBatch) -> Tensor:
        if policy.limits is not None:
            policy.limits.require([demand_of(batch, f"{self.split} data, which the reference reads")])
        stats: TokenStats = policy(batch.to(self.device))
        return stats.logps.float().cpu()


def _gathered(own: dict[int, Tensor]) -> list[dict[int, Tensor]]:
    if not distributed.is_initialized():
        return [own]
    shards: list[dict[int, Tensor] | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(shards, own)
    return [shard for shard in shards if shard is not None]


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
