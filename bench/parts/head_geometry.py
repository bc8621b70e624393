"""Measures how well some columns give the output layer's geometry, and how much of a step that layer explains.

`python -m bench.parts.head_geometry --model HuggingFaceTB/SmolLM2-135M-Instruct --pairs Anthropic/hh-rlhf`: for real pairs, the
geometry from n columns beside the sum over the whole vocabulary, with the time each takes; then, pair by pair, one small step of
gradient descent on DPO's objective with ALL weights, and what happened to both sides beside what the layer's geometry predicts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from bench.measure import machine
from callbacks.mathematics.head_geometry import HeadReader, PairGeometry
from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.packing import pack
from datamodules.formats.dialogues import HHDialogues
from datamodules.preference import PreferenceDataModule
from datamodules.sources.readers import DataSource
from lightning_modules.models.policy import Policy
from lightning_modules.models.specs import PretrainedPolicy
from lightning_modules.token_stats import TokenStats

INCENTIVE = 0.05
"""d_w = d_l of DPO at its start, beta / 2 with beta = 0.1."""


@dataclass(frozen=True)
class Read:
    """One geometry and what it cost."""

    geometry: PairGeometry
    seconds: float


def main() -> None:
    """Measure, print a table, write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pairs", required=True, help="file of HH dialogues")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--columns", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--steps", type=int, default=8, help="pairs that are trained on, one at a time")
    parser.add_argument("--cache", type=Path, default=Path(".cache/prefscope"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    policy = PretrainedPolicy(path=options.model).build()
    batches = list(islice(real_pairs(options.model, options.pairs, options.cache), options.count))
    report = {
        "options": {name: str(value) for name, value in vars(options).items()},
        "machine": machine("cpu"),
        "vocabulary": policy.vocab_size,
        "scored_tokens": sum(batch.num_targets for batch in batches),
        "columns": by_columns(policy, batches, options.columns),
        "one_step": one_step(policy, batches[: options.steps]),
    }
    text = json.dumps(report, indent=1)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n", encoding="utf-8")


def real_pairs(model: str, path: str, cache: Path) -> Iterator[CompletionBatch]:
    """The first pairs of the file, one a batch."""
    data = PreferenceDataModule(
        tokenizer=model,
        train=DataSource(path),
        format=HHDialogues(),
        val_fraction=0.0,
        max_length=640,
        max_prompt_length=384,
        on_bad_row="skip",
        cache_dir=str(cache),
    )
    data.setup("fit")
    examples = data.dataset("train")
    return (pack([examples.examples[number]]) for number in range(len(examples.examples)))


def by_columns(policy: Policy, batches: list[CompletionBatch], columns: list[int]) -> list[dict[str, float]]:
    """Errors against the sum over all columns: relative for norms, absolute for the cosine; shares of pairs judged otherwise."""
    found: dict[int, list[Read]] = {number: [] for number in [*columns, policy.vocab_size]}
    with torch.no_grad():
        for batch in batches:
            stats = policy(batch)
            for number, reads in found.items():
                reads.append(read(policy, batch, stats, number))
    exact = joined(found[policy.vocab_size])
    return [{"columns": number, **errors(joined(reads), exact), "seconds": total(reads)} for number, reads in found.items()]


def read(policy: Policy, batch: CompletionBatch, stats: TokenStats, columns: int) -> Read:
    """The geometry of the batch's pair."""
    start = time.process_time()
    geometry = HeadReader(columns).geometry_of(policy, batch, stats)
    assert geometry is not None
    return Read(geometry, time.process_time() - start)


def joined(reads: list[Read]) -> PairGeometry:
    """All pairs in one."""
    geometries = [r.geometry for r in reads]
    return PairGeometry(
        *(torch.cat([getattr(g, name) for g in geometries]) for name in ("chosen_norms", "rejected_norms", "inner"))
    )


def total(reads: list[Read]) -> float:
    """CPU seconds."""
    return sum(r.seconds for r in reads)


def errors(found: PairGeometry, exact: PairGeometry) -> dict[str, float]:
    """Mean and largest errors over pairs."""
    norms = torch.cat([found.chosen_norms / exact.chosen_norms, found.rejected_norms / exact.rejected_norms]) - 1
    cosine, centre = found.cosine - exact.cosine, (found.log_centre() - exact.log_centre()).expm1()
    push = torch.full_like(exact.inner, INCENTIVE)
    judged = found.in_band((push, push)) != exact.in_band((push, push))
    named = {"norm": norms, "cosine": cosine, "centre": centre}
    values = {
        f"{name}_{kind}": float(f(e.abs())) for name, e in named.items() for kind, f in (("mean", Tensor.mean), ("max", Tensor.max))
    }
    return {**values, "band_judged_otherwise": float(judged.double().mean())}


def one_step(policy: Policy, batches: list[CompletionBatch]) -> dict[str, object]:
    """Realised and predicted changes of both sides, nats per unit of learning rate, and how they go together."""
    rows = torch.tensor([step(policy, batch) for batch in batches], dtype=torch.float64)
    realised, predicted = rows[:, :2], rows[:, 2:]
    r2 = [float(torch.corrcoef(torch.stack([realised[:, side], predicted[:, side]]))[0, 1] ** 2) for side in (0, 1)]
    return {
        "r_squared": {"chosen": r2[0], "rejected": r2[1]},
        "same_sign": {
            side: float((realised.sign() == predicted.sign())[:, i].double().mean())
            for i, side in enumerate(("chosen", "rejected"))
        },
        "share_of_layer": {side: float((predicted / realised)[:, i].median()) for i, side in enumerate(("chosen", "rejected"))},
        "band_violated_predicted": float(((predicted[:, 0] <= 0) | (predicted[:, 1] >= 0)).double().mean()),
        "band_violated_realised": float(((realised[:, 0] <= 0) | (realised[:, 1] >= 0)).double().mean()),
        "rows": rows.tolist(),
    }


def step(policy: Policy, batch: CompletionBatch) -> list[float]:
    """`[dL+, dL-, predicted dL+, predicted dL-]` of one small step with all weights, which is then taken back."""
    reader = HeadReader(policy.vocab_size)
    reader.watch(policy)
    before = policy(batch).sum_by_sequence()
    geometry = reader.take()
    assert geometry is not None
    policy.zero_grad()
    (INCENTIVE * before[batch.pairs] * before.new_tensor([1.0, -1.0])).sum().backward()
    moved: list[Tensor] = [p for p in policy.parameters() if p.grad is not None]
    gradients = [p.grad for p in moved if p.grad is not None]
    # The margin grows by about 0.4 nats: enough to be read off float32, little enough to be first order.
    rate = 0.4 * INCENTIVE / float(sum(g.square().sum() for g in gradients))
    with torch.no_grad():
        torch._foreach_add_(moved, gradients, alpha=rate)
        after = policy(batch).sum_by_sequence()
        torch._foreach_add_(moved, gradients, alpha=-rate)
    push = torch.full_like(geometry.inner, INCENTIVE)
    realised = ((after - before.detach())[batch.pairs][0] / rate).tolist()
    return [*realised, *(float(side) for side in geometry.predicted((push, push)))]


if __name__ == "__main__":
    main()
