"""The contract of an attention backend: one function over packed rows, and a reason if it cannot be used.

Shape legend: N packed rows, M gathered key rows, Hq query heads, Hk key/value heads (Hq a multiple of Hk), D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lightning_modules.models.layers.segments import PackedSegments


class Attend(Protocol):
    """Packed attention."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, segments: PackedSegments, *, scaling: float, softcap: float | None
    ) -> Tensor:
        """Attend every segment's queries to its keys, bottom-right causal.

        Args:
            query: `[N, Hq, D]`.
            key: `[N, Hk, D]`, one row per packed token (not gathered).
            value: like `key`.
            segments: who sees whom.
            scaling: factor on the scores.
            softcap: scores are capped as softcap * tanh(score / softcap), or None.

        Returns:
            `[N, Hq, D]`.
        """


@dataclass(frozen=True)
class AttentionCase:
    """A case that a backend has to handle."""

    device_type: str
    dtype: torch.dtype
    head_dim: int
    softcap: bool


class Refusal(NamedTuple):
    """Why a backend does not serve a case."""

    reason: str
    """Reason in a few words."""
    lasting: bool = True
    """Whether it will hold: an error may have come from a full device."""


@dataclass(frozen=True)
class AttentionBackend:
    """A way to compute packed attention."""

    name: str
    attend: Attend
    obstacle: Callable[[AttentionCase], str | None]
    """Why this backend cannot serve the case, in a few words; None if it can."""
    module: str = "torch"
    """Python module it needs."""
    install: str = ""
    """Shell command that installs that module."""

    @property
    def installed(self) -> bool:
        """Whether the module can be found (its parents are imported, it is not)."""
        try:
            return find_spec(self.module) is not None
        except ModuleNotFoundError:
            return False


def half_precision_on_cuda(case: AttentionCase) -> str | None:
    """The obstacle all FlashAttention kernels share."""
    if case.device_type != "cuda":
        return "needs a CUDA device"
    if case.dtype not in (torch.float16, torch.bfloat16):
        return f"needs float16 or bfloat16, got {case.dtype}"
    return None
