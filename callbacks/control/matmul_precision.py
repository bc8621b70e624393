"""Sets how exactly a GPU multiplies float32 matrices."""

from __future__ import annotations

from typing import Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override


class MatmulPrecision(Callback):
    """Sets `torch.set_float32_matmul_precision` on CUDA while a command runs, and puts back what was there.

    Only products of float32 matrices change: all of them under `precision: 32-true`, and under `bf16-mixed` those that stay
    float32 (heads of reward models and critics, diagnostics). Sums stay float32.

    Args:
        float32: `high` rounds the factors to TF32, 10 bits instead of 23 (relative 5e-4), on tensor cores; `highest` rounds
            nothing, as torch does by default.

    Raises:
        ValueError: if it is another word.
    """

    def __init__(self, float32: Literal["highest", "high"] = "high") -> None:
        if float32 not in ("highest", "high"):
            raise ValueError(f"expected float32: highest or high, got {float32!r}. For half precision set trainer.precision.")
        self.float32 = float32
        self._before: str | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # On a CPU the same call may choose bfloat16 or nothing, by the model of the processor.
        if trainer.strategy.root_device.type == "cuda":
            self._before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision(self.float32)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._before is not None:
            torch.set_float32_matmul_precision(self._before)
            self._before = None
