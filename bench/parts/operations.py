"""Counts the operations that a step and a sampled token call, on a CPU: `python -m bench.parts.operations`.

A GPU runs small operations faster than the host can launch them, so that their number is the time of a step. Counted are calls
that do work (views and empty tensors do none), for a decoder of 24 layers under bfloat16 autocast, with stand-ins for what only a
GPU has (see `stand_ins`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch._inductor.async_compile import AsyncCompile
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from bench.gpu.sampling import ours
from bench.gpu.step import monitors
from bench.gpu.trained_steps import DrawnPolicy, Setting, data_of, module_of, quiet
from bench.stand_ins import as_on_a_gpu
from bench.step.workload import SHAPES, Shape
from lightning_modules.models.generation.batching import TOKENS_PER_READ

SHAPE = Shape(layers=24, hidden=32, intermediate=64, heads=2, kv_heads=1, vocab=151936)
FREE = (
    "empty",
    "detach",
    "alias",
    "lift_fresh",
    "new_empty",
    "resize_",
    "set_",
    "is_",
    "_unsafe_view",
    "_reshape_alias",
    "promote_types",
)
"""Beginnings of the names of operators that do no work."""


class Counting(TorchDispatchMode):
    """Counts operators by name, and numbers that the host reads."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()
        self.reads = 0

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """The compiler works although calls are counted."""
        return True

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense":
            self.reads += 1
        elif not func.is_view and not name.startswith(FREE):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


class _Phases(Callback):
    """What each part of a training step calls, for steps 2 and 3."""

    def __init__(self) -> None:
        self.phases: dict[str, list[Counting]] = {}
        self.open: Counting | None = None

    def _enter(self, phase: str) -> None:
        self._leave()
        self.open = Counting()
        self.phases.setdefault(phase, []).append(self.open)
        self.open.__enter__()  # type: ignore[no-untyped-call]

    def _leave(self) -> None:
        if self.open is not None:
            self.open.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self.open = None

    @override
    def on_train_batch_start(self, *_: object) -> None:
        self._enter("forward")

    @override
    def on_before_backward(self, *_: object) -> None:
        self._enter("backward")

    @override
    def on_after_backward(self, *_: object) -> None:
        self._enter("clip and step")

    @override
    def on_before_zero_grad(self, trainer: Trainer, *_: object) -> None:
        if self.open is not None:
            self._enter("clip and step")

    @override
    def on_train_batch_end(self, *_: object) -> None:
        self._leave()


class _Before(Callback):
    """Counts what the callbacks after it do when a step has ended."""

    def __init__(self) -> None:
        self.counts: list[Counting] = []

    @override
    def on_train_batch_end(self, *_: object) -> None:
        self.counts.append(Counting())
        self.counts[-1].__enter__()  # type: ignore[no-untyped-call]


class _After(Callback):
    """Ends what `_Before` began."""

    def __init__(self, before: _Before) -> None:
        self._before = before

    @override
    def on_train_batch_end(self, *_: object) -> None:
        self._before.counts[-1].__exit__(None, None, None)  # type: ignore[no-untyped-call]


@contextmanager
def _fused_calls(phases: _Phases) -> Iterator[None]:
    """Calls of kernels that the compiler wrote are counted in their phase: they pass by the dispatcher."""
    write = AsyncCompile.cpp_pybinding

    def counted(self: AsyncCompile, *arguments: Any) -> Callable[..., Any]:  # noqa: ANN401
        written = write(self, *arguments)

        def call(*tensors: Any) -> Any:  # noqa: ANN401
            kernel = written.result() if hasattr(written, "result") else written
            if phases.open is not None:
                phases.open.counts["fused"] += 1
            return kernel(*tensors)

        return call

    # Of an earlier count: its kernels would tell that one.
    torch._dynamo.reset()
    with patch.object(AsyncCompile, "cpp_pybinding", counted), torch._inductor.config.patch(force_disable_caches=True):
        yield


def step_counts(watchers: Sequence[Callback] = (), steps: int = 3, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Operators of the last of `steps` training steps, by phase; what watching adds once the step has ended.

    Args:
        watchers: callbacks.
        steps: of the training.
        options: of the `Setting`, such as `compile=True`.
    """
    phases, before = _Phases(), _Before()
    setting = Setting("counted", "bf16-mixed", "cpu", steps=steps, pairs_per_step=4, **options)
    with _fused_calls(phases), as_on_a_gpu(), patch.dict(SHAPES, {"counted": SHAPE}), tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            precision="bf16-mixed",
            max_steps=steps,
            gradient_clip_val=1.0,
            log_every_n_steps=100,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[phases, before, *watchers, _After(before)],
        )
        trainer.fit(module_of(setting, folder), datamodule=data_of(setting, folder))
    per_step = {phase: len(counted) // steps for phase, counted in phases.phases.items()}
    last = {phase: counted[-count:] for (phase, counted), count in zip(phases.phases.items(), per_step.values(), strict=True)}
    report = {phase: sum(c.counts.total() for c in counted) for phase, counted in last.items()}
    names: Counter[str] = sum((c.counts for counted in last.values() for c in counted), Counter())
    return {
        **report,
        "step": sum(report.values()),
        "callbacks": before.counts[-1].counts.total(),
        "reads": sum(c.reads for counted in last.values() for c in counted) + before.counts[-1].reads,
        "most called": dict(names.most_common(25)),
        "most called in callbacks": dict(before.counts[-1].counts.most_common(25)),
    }


@contextmanager
def _copies(counting: Counting) -> Iterator[None]:
    """What is copied to the host is a read too, though a CPU has nothing to do for it."""
    copy = Tensor.cpu

    def cpu(tensor: Tensor) -> Tensor:
        counting.reads += 1
        return copy(tensor)

    with patch.object(Tensor, "cpu", cpu):
        yield


def token_counts(rows: int = 64) -> dict[str, Any]:
    """Operators of one more token for `rows` completions, under autocast."""
    counted = []
    with as_on_a_gpu(), patch.dict(SHAPES, {"counted": SHAPE}):
        policy = DrawnPolicy("counted", "cpu").build().eval()
        for new_tokens in (TOKENS_PER_READ, 3 * TOKENS_PER_READ):
            with torch.autocast("cpu", torch.bfloat16), Counting() as counting, _copies(counting):
                ours(policy, rows, new_tokens)
            counted.append(counting)
    more = 2 * TOKENS_PER_READ
    names = {name: (count - counted[0].counts[name]) / more for name, count in counted[1].counts.items()}
    return {
        "token": sum(names.values()),
        "reads": (counted[1].reads - counted[0].reads) / more,
        "most called": dict(sorted(names.items(), key=lambda entry: -entry[1])[:25]),
    }


def main() -> None:
    """Count, print, write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    quiet()
    report = {
        "step": step_counts(),
        "compiled step": step_counts(compile=True),
        "watched step": step_counts(monitors(every_n_steps=1)),
        "sampling": token_counts(),
    }
    print(json.dumps(report, indent=1))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
