"""Measures the output head against full logits: `python -m bench.parts.head`.

Forward and backward of a weighted sum of K log-probs, with the diagnostics of `TokenStats` unless a row says otherwise. The
baseline forms `[K, V]` logits and takes log_softmax, as one would write it down.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.markdown import publish_page
from bench.measure import machine, peak_bytes, summary, time_in_turn
from lightning_modules.models.heads.head import HeadStats, ScoringHead
from lightning_modules.models.heads.tile_kernels import WRITTEN, kernels_for
from lightning_modules.models.heads.tiled_log_probs import TiledLogProbs
from lightning_modules.models.heads.tiled_logits import CPU_TILE, DEVICE_TILE, LogitTransform

BASELINE = "full logits"


@dataclass(frozen=True)
class Problem:
    """Sizes and types."""

    vocab: int
    width: int
    positions: int
    device: str
    dtype: str
    threads: int


@dataclass(frozen=True, eq=False)
class Inputs:
    """Random hidden states, output layer, targets, and dL/dlogp."""

    hidden: Tensor
    head: ScoringHead
    targets: Tensor
    upstream: Tensor

    @classmethod
    def of(cls, problem: Problem) -> Inputs:
        """The same at every call."""
        torch.manual_seed(0)
        dtype = getattr(torch, problem.dtype)
        linear = nn.Linear(problem.width, problem.vocab, bias=False, dtype=dtype, device=problem.device)
        return cls(
            torch.randn(problem.positions, problem.width, dtype=dtype, device=problem.device).requires_grad_(),
            ScoringHead.adopt(linear),
            torch.randint(problem.vocab, (problem.positions,), device=problem.device),
            torch.randn(problem.positions, device=problem.device),
        )

    def backward(self, logps: Tensor) -> tuple[Tensor, ...]:
        """Gradients of hidden states and weight."""
        return torch.autograd.grad((logps * self.upstream).sum(), [self.hidden, self.head.weight])


def tiled(inputs: Inputs) -> Tensor:
    """Ours."""
    stats = inputs.head(inputs.hidden, inputs.targets)
    assert isinstance(stats, HeadStats)
    return stats.logps


def tiled_written_out(inputs: Inputs) -> Tensor:
    """Ours without fused kernels, which a GPU would take."""
    head = inputs.head
    tile = CPU_TILE if inputs.hidden.device.type == "cpu" else DEVICE_TILE
    transform = LogitTransform(head.scale, head.softcap)
    logps: Tensor = TiledLogProbs.apply(inputs.hidden, head.weight, head.bias, inputs.targets, transform, tile, WRITTEN)[0]  # type: ignore[no-untyped-call]
    return logps


def full_logits(inputs: Inputs, *, diagnostics: bool = True) -> Tensor:
    """The definition."""
    log_probs = functional.linear(inputs.hidden, inputs.head.weight).float().log_softmax(-1)
    logps = log_probs.gather(1, inputs.targets[:, None]).squeeze(1)
    if diagnostics:
        with torch.no_grad():
            probs = log_probs.exp()
            _ = -(probs * log_probs).sum(1), probs.square().sum(1), probs.amax(1), log_probs.amax(1) == logps
    return logps


def linear_cross_entropy(inputs: Inputs) -> Tensor:
    """PyTorch's own chunked head (2.13), which has no diagnostics."""
    options = nn.LinearCrossEntropyOptions()
    loss = functional.linear_cross_entropy(inputs.hidden, inputs.head.weight, inputs.targets, reduction="none", options=options)
    return -loss


WAYS: dict[str, Callable[[Inputs], Tensor]] = {
    BASELINE: full_logits,
    "full logits, no diagnostics": lambda inputs: full_logits(inputs, diagnostics=False),
    "tiled (ours)": tiled,
}
if torch.cuda.is_available():
    WAYS["tiled, kernels not fused"] = tiled_written_out
if hasattr(functional, "linear_cross_entropy"):
    WAYS["torch linear_cross_entropy, no diagnostics"] = linear_cross_entropy


def prepare(name: str, problem: Problem) -> Callable[[], None]:
    """One way, ready to run."""
    torch.set_num_threads(problem.threads)
    inputs = Inputs.of(problem)

    def run() -> None:
        inputs.backward(WAYS[name](inputs))

    return run


def largest_difference(problem: Problem) -> float:
    """Between our gradients and log-probs and the definition's, relative to the largest entry."""
    inputs = Inputs.of(problem)
    results = []
    for way in (tiled, full_logits):
        logps = way(inputs)
        results.append([logps.detach(), *inputs.backward(logps)])
    errors = [(ours - theirs).abs().max() / theirs.abs().max() for ours, theirs in zip(*results, strict=True)]
    return float(torch.stack(errors).max())


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=int, default=49152)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--positions", type=int, default=2048)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    problem = Problem(options.vocab, options.width, options.positions, options.device, options.dtype, options.threads)
    torch.set_num_threads(problem.threads)
    difference = largest_difference(problem)
    seconds = time_in_turn({name: prepare(name, problem) for name in WAYS}, options.rounds, problem.device)
    rows = summary(seconds, BASELINE)
    memory = {name: peak_bytes(prepare, name, problem) for name in WAYS}
    for name, row in rows.items():
        row |= {"peak_mib": memory[name] / 2**20, "peak_ratio": memory[name] / memory[BASELINE]}
    report = {"problem": asdict(problem), "rounds": options.rounds, "largest_difference": difference}
    report["kernels"] = kernels_for(problem.device).name
    report["machine"] = machine(problem.device)
    publish_page("The output head against full logits", (__doc__ or "").partition("\n\n")[2], report, rows, options.out)


if __name__ == "__main__":
    main()
