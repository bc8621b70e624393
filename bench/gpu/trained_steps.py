"""Runs DPO steps of our Trainer with several settings in one process: seconds, losses, memory, attention backend.

Weights are random and drawn on the device: a step's speed does not depend on them, and drawing 1.5B numbers on the host does
take time.
"""

from __future__ import annotations

import gc
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, PreTrainedModel
from typing_extensions import override

from bench.step.side import now
from bench.step.workload import SHAPES, Shape, build_pairs, read_lengths
from datamodules.formats.columns import PairColumns
from datamodules.preference import PreferenceDataModule
from datamodules.sources.readers import DataSource
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.models.attention_backends import selection
from lightning_modules.models.attention_backends.selection import BackendSelector
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.layers.checkpointing import Checkpointing, enable_checkpointing
from lightning_modules.models.policy import PolicySpec
from lightning_modules.optimization.stochastic_rounding import StochasticAdamW
from lightning_modules.preference import PreferenceModule

WARM_UP = 3
"""Steps that are not counted."""


class _Drawn(CausalLMPolicy):
    """A policy that is known by how it was drawn: hashing gigabytes of weights takes longer than the steps."""

    @override
    def fingerprint(self) -> str:
        return f"seed 0 of {self.model.config.to_json_string()} on {next(self.parameters()).device.type}"


@dataclass(frozen=True)
class DrawnPolicy(PolicySpec):
    """Random weights of a benchmark's shape, drawn on `device`; the same at every call."""

    shape: str
    device: str
    gradient_checkpointing: Checkpointing = False
    compile: bool = False

    def draw(self) -> PreTrainedModel:
        """The bare model."""
        with torch.device(self.device):
            torch.manual_seed(0)
            return AutoModelForCausalLM.from_config(SHAPES[self.shape].config(), dtype=torch.float32, attn_implementation="sdpa")

    def build(self) -> CausalLMPolicy:
        """Draw and wrap."""
        model = self.draw()
        if self.gradient_checkpointing and not self.compile:
            enable_checkpointing(model, self.gradient_checkpointing)
        policy = _Drawn(model, attention=BackendSelector("auto"))
        if self.compile:
            policy.compile_layers(checkpoints=bool(self.gradient_checkpointing))
        return policy


@dataclass(frozen=True)
class Setting:
    """One thing to time."""

    shape: str
    precision: str
    device: str
    steps: int = 11
    pairs_per_step: int = 16
    mix: str = "long_response"
    gradient_checkpointing: Checkpointing = False
    compile: bool = False
    learning_rate: float = 1e-5

    def small(self) -> Setting:
        """The same on a CPU in a few seconds."""
        return replace(self, shape="dry-run", device="cpu", steps=WARM_UP + 2, pairs_per_step=2)


class StepClock(Callback):
    """The time of every optimizer step, with the device idle at its ends, its loss, and the peak of memory."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.peak_bytes = 0
        self._begin = 0.0

    @override
    def on_train_start(self, *_: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._begin = now()

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: object, outputs: Any, *_: object) -> None:
        end = now()
        self.losses.append(outputs["loss"].item())
        self.seconds.append(end - self._begin)
        self._begin = now()

    @override
    def on_train_end(self, *_: object) -> None:
        self.peak_bytes = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def train(setting: Setting, callbacks: Sequence[Callback] = ()) -> StepClock:
    """Run the steps; `callbacks` come before the clock, so that their work counts."""
    clock = StepClock()
    folder = _folder(setting)
    with tempfile.TemporaryDirectory() as logs:
        trainer = Trainer(
            accelerator="cpu" if setting.device == "cpu" else "gpu",
            devices=1,
            precision=setting.precision,  # type: ignore[arg-type]
            max_steps=setting.steps,
            gradient_clip_val=1.0,
            log_every_n_steps=10,
            logger=TensorBoardLogger(logs, name="bench"),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[*callbacks, clock],
        )
        trainer.fit(module_of(setting, folder), datamodule=data_of(setting, folder))
    free_memory()
    return clock


@cache
def _root() -> Path:
    """Folder of what the settings of this process share: pairs, tokens, reference log-probs."""
    return Path(tempfile.mkdtemp())


def _folder(setting: Setting) -> str:
    folder = _root() / f"{setting.shape}-{setting.mix}-{setting.steps}-{setting.pairs_per_step}"
    folder.mkdir(exist_ok=True)
    return str(folder)


def module_of(setting: Setting, folder: str) -> PreferenceModule:
    spec = DrawnPolicy(setting.shape, setting.device, setting.gradient_checkpointing, setting.compile)
    kind = partial(StochasticAdamW) if setting.precision == "bf16-true" else partial(AdamW, fused=True)
    optimizer = partial(kind, lr=setting.learning_rate, weight_decay=0.0)
    return PreferenceModule(spec, DPOLoss(beta=0.1), optimizer, cache_dir=folder)


def data_of(setting: Setting, folder: str) -> PreferenceDataModule:
    pairs = Path(folder) / "data"
    if not (pairs / "pairs.jsonl").exists():
        build_pairs(pairs, setting.shape, setting.mix, setting.steps * setting.pairs_per_step)
    return PreferenceDataModule(
        tokenizer=str(pairs / "model"),
        train=DataSource(str(pairs / "pairs.jsonl")),
        format=PairColumns(),
        val_fraction=0.0,
        max_length=1024,
        batch_size=setting.pairs_per_step,
        max_tokens_per_batch=1 << 16,
        num_probe_prompts=4,
        cache_dir=folder,
    )


def figures(setting: Setting, clock: StepClock, peak: float | None) -> dict[str, Any]:
    """Median step and what follows from it; `peak`: measured FLOP/s of a large bf16 product."""
    seconds = median(clock.seconds[WARM_UP:])
    flops = step_flops(SHAPES[setting.shape], read_lengths(setting.mix)[: setting.steps * setting.pairs_per_step])
    return {
        "milliseconds": 1000 * seconds,
        "pairs_per_second": setting.pairs_per_step / seconds,
        "mfu": None if peak is None else flops * setting.pairs_per_step / seconds / peak,
        "peak_gib": clock.peak_bytes / 2**30,
        "first_loss": clock.losses[0],
        "last_loss": clock.losses[-1],
        "all_milliseconds": [round(1000 * second, 2) for second in clock.seconds],
    }


def step_flops(shape: Shape, lengths: list[tuple[int, int, int]]) -> float:
    """Mean FLOPs of one pair (prompt, chosen, rejected): what MFU counts.

    6 P per packed token (P = parameters outside the embedding and head; forward 2, backward 4), 6 V H per scored position, and
    causal attention 12 L H per pair of tokens that see each other. Recomputation is not counted.
    """
    layer = 4 * shape.hidden**2 * (1 + shape.kv_heads / shape.heads) / 2 + 3 * shape.hidden * shape.intermediate
    total = 0.0
    for prompt, chosen, rejected in lengths:
        tokens, targets = prompt + chosen + rejected, chosen + rejected
        seen = prompt**2 / 2 + sum(n * prompt + n**2 / 2 for n in (chosen, rejected))
        total += 6 * shape.layers * layer * tokens + 6 * shape.vocab * shape.hidden * targets
        total += 12 * shape.layers * shape.hidden * seen
    return total / len(lengths)


@contextmanager
def backend_choices() -> Iterator[list[str]]:
    """The lines in which the attention backends say which one was chosen and why."""
    lines: list[str] = []

    class _Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger(selection.__name__), _Keep()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def quiet() -> None:
    """Leave Lightning's and transformers' advice out of the log."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def free_memory() -> None:
    """Give back what a run held, before the next one."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
