"""Holds the memory that `bench.plan` predicts against measured steps of three sizes on the CPU.

`python -m bench.plan_measured --out docs/results/scaling/memory.md` (a minute on a free core).
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoConfig

from bench.markdown import write_lines
from bench.measure import peak_bytes
from bench.plan import Run, Shape, memory
from datamodules.contracts.batches import CompletionBatch, Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack
from lightning_modules.models.heads.tiled_logits import CPU_TILE
from lightning_modules.models.specs import RandomPolicy

CHECKED = {
    "6M": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "vocab_size": 4096},
    "15M": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "vocab_size": 4096},
    "37M": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "vocab_size": 12288},
}
"""Name -> sizes of a Llama whose step is measured on the CPU."""
MEASURED = Run(pairs=4, prompt=128, response=192, gpus=1, max_tokens=2048, precision="32-true", tile=CPU_TILE)


def measure(sizes: dict[str, int]) -> tuple[float, float]:
    """Planned and measured peak of two steps, bytes."""
    config = {"model_type": "llama", "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 1024} | sizes
    return memory(Shape.of(AutoConfig.for_model(**config)), MEASURED)["peak"], peak_bytes(_prepare, config)


def _prepare(config: dict[str, object]) -> Callable[[], None]:
    torch.set_num_threads(1)
    # What is imported and allocated once is not the step's.
    _steps(RandomPolicy({**config, "hidden_size": 32, "intermediate_size": 32, "vocab_size": 64}), 64)
    return lambda: _steps(RandomPolicy(config), int(str(config["vocab_size"])))


def _steps(spec: RandomPolicy, vocabulary: int) -> None:
    policy = spec.build()
    optimizer = torch.optim.AdamW(policy.parameters(), fused=True)
    for _ in range(2):
        policy(_batch(vocabulary)).sum_by_sequence().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def _batch(vocabulary: int) -> CompletionBatch:
    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, vocabulary, (count,)).tolist())

    sides = ((Role.CHOSEN, "chosen"), (Role.REJECTED, "rejected"))
    return pack(
        [
            Example(tokens(MEASURED.prompt), tuple(TokenizedCompletion(tokens(MEASURED.response), *side) for side in sides))
            for _ in range(MEASURED.max_tokens // MEASURED.rows)
        ]
    )


def check(out: Path) -> None:
    """Write how far the plan is from what is measured."""
    lines = ["| parameters | planned MB | measured MB | planned / measured |", "|---|---|---|---|"]
    for name, sizes in CHECKED.items():
        planned, measured = measure(sizes)
        lines.append(f"| {name} | {planned / 1e6:.0f} | {measured / 1e6:.0f} | {planned / measured:.2f} |")
    command = shlex.join(["python", "-m", "bench.plan_measured", *sys.argv[1:]])
    text = (
        f"# Planned and measured memory\n\n`{command}` (torch {torch.__version__}, one CPU thread, float32, fused AdamW): peak "
        f"resident memory that building a random Llama and two steps on {MEASURED.max_tokens} packed tokens add, against "
        "`bench.plan.memory`. Asked: within 15%.\n\n"
    )
    write_lines(out, text, lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    check(parser.parse_args().out)
