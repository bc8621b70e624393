"""TRL's DPOTrainer on the shared workload, in a process of its own: one JSON line out (`python -m bench.trl_side --help`)."""

from __future__ import annotations

import argparse
import json
import tempfile
from typing import Any

import torch
from transformers import TrainerCallback

from bench.side import Side, add_side_arguments, now, side_from
from bench.workload import write_in_order


class _Clock(TrainerCallback):  # type: ignore[misc]  # untyped base
    """The time at the start of training and at the end of every optimizer step."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_train_begin(self, *args: object, **kwargs: object) -> None:
        self.marks.append(now())

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        self.marks.append(now())


def run(side: Side) -> dict[str, Any]:
    """Train `side.steps` steps; per-step seconds, losses and peak memory above the loaded weights (bytes)."""
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    torch.set_num_threads(side.threads)
    model = AutoModelForCausalLM.from_pretrained(side.workload / "model", dtype=torch.float32, attn_implementation="sdpa")
    dataset = load_dataset("json", data_files=str(write_in_order(side.workload, side.pairs_per_step)), split="train")
    clock = _Clock()
    with tempfile.TemporaryDirectory() as output:
        trainer = DPOTrainer(
            model=model,
            args=DPOConfig(
                output_dir=output,
                per_device_train_batch_size=side.pairs_per_step,
                max_steps=side.steps,
                learning_rate=side.learning_rate,
                lr_scheduler_type="constant",
                # The peer would not decay norms and biases, ours would: left out, so that both take the same step.
                weight_decay=0.0,
                max_grad_norm=0.0,
                optim="adamw_torch_fused",
                precompute_ref_log_probs=True,
                precompute_ref_batch_size=side.pairs_per_step,
                train_sampling_strategy="sequential",
                gradient_checkpointing=side.gradient_checkpointing,
                bf16=side.bf16,
                use_cpu=not torch.cuda.is_available(),
                max_length=None,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=torch.cuda.is_available(),
            ),
            train_dataset=dataset,
            processing_class=AutoTokenizer.from_pretrained(side.workload / "model"),
            callbacks=[clock],
        )
        floor = side.memory_floor()
        trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return side.report(clock.marks, losses, floor)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_side_arguments(parser)
    print(json.dumps(run(side_from(parser.parse_args()))))
