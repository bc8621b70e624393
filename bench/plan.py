"""What a preference run needs before it is started: memory of a GPU by part, tokens/s and days.

`python -m bench.plan --model HuggingFaceTB/SmolLM2-1.7B --pairs 1000000 --gpus 8` plans a run (a hub name, or a folder with a
config.json; no weights are read). `bench/plan_measured.py` holds the formulas of memory against three sizes on the CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from lightning_modules.models.heads.tiled_logits import DEVICE_TILE, TileShape

GIB = 2**30
GPUS = {"a100": (312, 80), "h100": (989, 80), "h200": (989, 141)}
"""Name -> dense bfloat16 TFLOP/s of the data sheet, GiB."""
Precision = Literal["32-true", "bf16-mixed", "bf16-true"]


@dataclass(frozen=True)
class Layer:
    """Bytes that a decoder layer keeps for backward, a packed token: `width` H + `inner` I + `keys` KV M / N.

    H hidden width, I inner width of the MLP, KV width of the keys of a token, M key rows for N packed rows (a completion reads its
    prompt's keys). Counted on a Llama layer: norms, residuals, queries, keys and values that attention gathers, gate and up.
    """

    width: int
    inner: int
    keys: int


LAYERS: dict[Precision, Layer] = {"32-true": Layer(36, 16, 8), "bf16-mixed": Layer(32, 8, 4), "bf16-true": Layer(18, 8, 4)}
WEIGHT_BYTES: dict[Precision, int] = {"32-true": 4, "bf16-mixed": 4, "bf16-true": 2}


@dataclass(frozen=True)
class Shape:
    """What the formulas need of a model."""

    parameters: int
    """All."""
    in_layers: int
    """Of the decoder layers."""
    layers: int
    width: int
    inner: int
    keys: int
    vocabulary: int

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Shape:
        """Counted on a model without storage."""
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        text = config.get_text_config()
        outside = {id(p) for part in (model.get_input_embeddings(), model.get_output_embeddings()) for p in part.parameters()}
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        return cls(
            parameters=sum(p.numel() for p in model.parameters()),
            in_layers=sum(p.numel() for p in model.parameters() if id(p) not in outside),
            layers=text.num_hidden_layers,
            width=text.hidden_size,
            inner=text.intermediate_size,
            keys=heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads),
            vocabulary=text.vocab_size,
        )


@dataclass(frozen=True)
class Run:
    """What is trained on what."""

    pairs: int
    prompt: int
    """Mean tokens."""
    response: int
    """Mean tokens."""
    gpus: int
    max_tokens: int
    """Packed tokens of one forward pass."""
    precision: Precision = "bf16-mixed"
    is_sharded: bool = False
    checkpoints: bool = False
    epochs: int = 1
    tile: TileShape = DEVICE_TILE
    """Of the output head, which is another on a CPU."""

    @property
    def targets(self) -> float:
        """K of one forward pass."""
        return self.max_tokens * 2 * self.response / self.rows

    @property
    def rows(self) -> int:
        """Packed tokens of a pair: its prompt once."""
        return self.prompt + 2 * self.response

    @property
    def key_rows(self) -> float:
        """M / N."""
        return (3 * self.prompt + 2 * self.response) / self.rows


def memory(shape: Shape, run: Run) -> dict[str, float]:
    """Bytes of each part on one GPU, and the peak.

    The peak is what stays (weights, optimizer state) with the larger of what a step begins its backward pass with (activations, the
    output head, the gradients of one layer's values) and what it ends with (all gradients).
    """
    held, share = WEIGHT_BYTES[run.precision], 1 / run.gpus if run.is_sharded else 1.0
    layer = LAYERS[run.precision]
    kept = layer.width * shape.width + layer.inner * shape.inner + layer.keys * shape.keys * run.key_rows
    deep = run.max_tokens * kept
    # The layers' inputs, and one layer at a time whole.
    activations = run.max_tokens * shape.layers * 4 * shape.width + deep if run.checkpoints else shape.layers * deep
    values = 4 if run.precision == "32-true" else 2
    tiles = 2 * 4.0 * min(run.targets, run.tile.rows) * min(shape.vocabulary, run.tile.columns)
    outer = shape.parameters - shape.in_layers
    # Embeddings and output layer stay whole between forward and backward; one layer more is gathered while it runs.
    gathered = 0.0
    if run.is_sharded:
        layer_bytes = 2 if run.precision == "bf16-mixed" else held
        gathered = outer * held + 2 * shape.in_layers / shape.layers * layer_bytes
    parts = {
        "weights": shape.parameters * held * share,
        "gradients": shape.parameters * held * share,
        "optimizer (two moments, float32)": shape.parameters * 8 * share,
        "half-precision copies of weights": shape.in_layers * 2.0 * (run.precision == "bf16-mixed" and not run.is_sharded),
        "gathered weights": gathered,
        "activations": activations,
        "one layer in backward": run.max_tokens * values * (3.0 * shape.inner + 6 * shape.width),
        "output head": tiles + 4.0 * shape.vocabulary * shape.width + 13.0 * run.max_tokens * shape.width,
    }
    stays = parts["weights"] + parts["optimizer (two moments, float32)"] + parts["gathered weights"]
    begins = sum(
        parts[name] for name in ("activations", "one layer in backward", "output head", "half-precision copies of weights")
    )
    return parts | {"peak": stays + max(begins, parts["gradients"])}


def operations(shape: Shape, run: Run) -> float:
    """Floating-point operations of the whole run: 6 a weight and token of the layers (8 with checkpoints), 8 in the head.

    The head scores response tokens alone. The reference, scored once, adds 2 of both. Attention itself is left out.
    """
    body, head = shape.in_layers * run.rows, shape.vocabulary * shape.width * 2 * run.response
    trained = (8 if run.checkpoints else 6) * body + 8 * head
    return float(run.pairs * (run.epochs * trained + 2 * (body + head)))


def plan(shape: Shape, run: Run, gpu: str, mfu: float) -> str:
    """The answer, as text."""
    tera, capacity = GPUS[gpu]
    parts = memory(shape, run)
    seconds = operations(shape, run) / (run.gpus * tera * 1e12 * mfu)
    lines = [
        f"{shape.parameters / 1e9:.2f}B parameters, {run.pairs:,} pairs of {run.rows} packed tokens, {run.gpus} x {gpu.upper()}"
    ]
    lines += [f"  {name:34} {value / GIB:8.1f} GiB" for name, value in parts.items() if value]
    fits = "fits" if parts["peak"] < 0.9 * capacity * GIB else "does NOT fit: FSDP2, checkpoints, bf16-true or a lower max_tokens"
    lines.append(f"  of {capacity} GiB: {fits}")
    tokens = run.pairs * run.epochs * run.rows / seconds
    lines.append(f"  {tokens:,.0f} tokens/s at an MFU of {mfu}, {seconds / 86400:.2f} days")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="hub name, or folder with a config.json")
    parser.add_argument("--pairs", type=int, default=60000)
    parser.add_argument("--prompt", type=int, default=150, help="mean tokens of a prompt")
    parser.add_argument("--response", type=int, default=300, help="mean tokens of a response")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--gpu", choices=GPUS, default="h100")
    parser.add_argument("--max_tokens", type=int, default=8192, help="data.max_tokens_per_batch")
    parser.add_argument("--precision", choices=LAYERS, default="bf16-mixed")
    parser.add_argument("--sharded", action="store_true", help="FSDP2; DDP without it")
    parser.add_argument("--checkpoints", action="store_true", help="gradient_checkpointing: true")
    parser.add_argument("--mfu", type=float, default=0.15, help="share of the data sheet's TFLOP/s; measured: docs/results/gpu")
    given = parser.parse_args(arguments)
    shape = Shape.of(AutoConfig.from_pretrained(given.model, trust_remote_code=False))
    sizes = {"pairs": given.pairs, "prompt": given.prompt, "response": given.response, "epochs": given.epochs}
    run = Run(
        **sizes,
        gpus=given.gpus,
        max_tokens=given.max_tokens,
        precision=given.precision,
        is_sharded=given.sharded,
        checkpoints=given.checkpoints,
    )
    print(plan(shape, run, given.gpu, given.mfu))


if __name__ == "__main__":
    main()
