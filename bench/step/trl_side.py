"""Runs TRL's DPOTrainer on the shared workload in its own process, one JSON line out (`python -m bench.step.trl_side --help`)."""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback
from typing_extensions import override

from bench.step.side import Side, add_side_arguments, now, side_from
from bench.step.workload import write_in_order


class StepTimes(TrainerCallback):  # type: ignore[misc]  # untyped base
    """The time at the start of training and at the end of every optimizer step."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    @override
    def on_train_begin(self, *args: object, **kwargs: object) -> None:
        self.marks.append(now())

    @override
    def on_step_end(self, *args: object, **kwargs: object) -> None:
        self.marks.append(now())

    def seconds(self) -> list[float]:
        """Of each step."""
        return [end - begin for begin, end in pairwise(self.marks)]


def dpo_trainer(
    workload: Path,
    model: PreTrainedModel,
    times: StepTimes,
    *,
    steps: int,
    pairs_per_step: int,
    learning_rate: float,
    bf16: bool,
    on_cpu: bool,
    accumulation: int = 1,
    gradient_checkpointing: bool = False,
    max_grad_norm: float = 0.0,
) -> Any:  # noqa: ANN401 - TRL is untyped
    """A DPOTrainer that takes the steps our Trainer takes, over the pairs in our order."""
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    dataset = load_dataset("json", data_files=str(write_in_order(workload, pairs_per_step)), split="train")
    arguments = DPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=pairs_per_step // accumulation,
        gradient_accumulation_steps=accumulation,
        max_steps=steps,
        learning_rate=learning_rate,
        lr_scheduler_type="constant",
        # The peer would not decay norms and biases, ours would: left out, so that both take the same step.
        weight_decay=0.0,
        max_grad_norm=max_grad_norm,
        optim="adamw_torch_fused",
        precompute_ref_log_probs=True,
        precompute_ref_batch_size=pairs_per_step // accumulation,
        train_sampling_strategy="sequential",
        gradient_checkpointing=gradient_checkpointing,
        bf16=bf16,
        use_cpu=on_cpu,
        max_length=None,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=not on_cpu,
    )
    tokenizer = AutoTokenizer.from_pretrained(workload / "model")
    return DPOTrainer(model=model, args=arguments, train_dataset=dataset, processing_class=tokenizer, callbacks=[times])


def run(side: Side) -> dict[str, Any]:
    """Train `side.steps` steps; per-step seconds, losses and peak memory above the loaded weights (bytes)."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(side.threads)
    model = AutoModelForCausalLM.from_pretrained(side.workload / "model", dtype=torch.float32, attn_implementation="sdpa")
    times = StepTimes()
    trainer = dpo_trainer(
        side.workload,
        model,
        times,
        steps=side.steps,
        pairs_per_step=side.pairs_per_step,
        learning_rate=side.learning_rate,
        gradient_checkpointing=side.gradient_checkpointing,
        bf16=side.bf16,
        on_cpu=not torch.cuda.is_available(),
    )
    floor = side.memory_floor()
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return side.report(times.marks, losses, floor)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_side_arguments(parser)
    print(json.dumps(run(side_from(parser.parse_args()))))
