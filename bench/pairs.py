"""Memory and time that many pairs take before the first step: read and tokenised, found in the cache, planned, trained on.

`python -m bench.pairs --out docs/results/scaling/pairs.md` (half an hour of a core).
"""

from __future__ import annotations

import argparse
import random
import shlex
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bench.measure import peak_bytes_here, resident_bytes
from callbacks.output.data_doctor import DataDoctor
from command_line.experiment import run_experiment
from datamodules.formats.columns import PairColumns
from datamodules.preference import PreferenceDataModule
from datamodules.sources.readers import DataSource

WORDS = [f"w{number}" for number in range(60)]
SENTENCES, LENGTH = 4000, 10
PROMPT, RESPONSE = 2, 3
"""Sentences of a prompt and of a response: a pair has 80 tokens."""
MODEL = (
    '{"model_type": "llama", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, '
    '"num_attention_heads": 2, "max_position_embeddings": 128}'
)


def write(folder: Path, rows: int) -> Path:
    """A file of random pairs."""
    draw = random.Random(rows)
    sentences = [" ".join(draw.choices(WORDS, k=LENGTH)) for _ in range(SENTENCES)]
    path = folder / f"{rows}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            parts = [" ".join(draw.choices(sentences, k=count)) for count in (PROMPT, RESPONSE, RESPONSE)]
            file.write('{{"prompt": "{}", "chosen": "{}", "rejected": "{}"}}\n'.format(*parts))
    return path


def write_tokenizer(folder: Path) -> Path:
    """A token a word."""
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>").save_pretrained(folder)
    return folder


def data_of(folder: Path, rows: int) -> PreferenceDataModule:
    """The data module that a config would name."""
    source = DataSource(str(folder / f"{rows}.jsonl"))
    return PreferenceDataModule(
        train=source, format=PairColumns(), tokenizer=str(folder / "tokenizer"), cache_dir=str(folder / "cache")
    )


def read(folder: Path, rows: int) -> None:
    """Read, tokenise and cache; found in the cache the second time."""
    data_of(folder, rows).prepare_data()


def plan(folder: Path, rows: int) -> None:
    """Hold out by prompt, plan all steps of an epoch, and digest what is trained on."""
    data = data_of(folder, rows)
    data.setup("fit")
    data.step_plan().compositions(0)
    data.training_content()


def train(folder: Path, rows: int) -> None:
    """Two steps of a tiny model, by the command, with the doctor."""
    doctor = f"{DataDoctor.__module__}.{DataDoctor.__name__}"
    run_experiment(
        [
            *("fit", "--config", "smollm2_hh_dpo", "--trainer.callbacks", f"[{{class_path: {doctor}}}]"),
            *("--trainer.accelerator=cpu", "--trainer.max_steps=2", "--trainer.limit_val_batches=0", "--data.format=columns"),
            *("--model.policy=RandomPolicy", f"--model.policy.config={MODEL}", f"--model.cache_dir={folder / 'cache'}"),
            *(f"--data.train.path={folder / f'{rows}.jsonl'}", "--data.train.data_dir=null", "--data.train.revision=null"),
            *(f"--data.tokenizer={folder / 'tokenizer'}", f"--data.cache_dir={folder / 'cache'}"),
            f"--trainer.logger.save_dir={folder / 'runs'}",
        ]
    )


PARTS: dict[str, Callable[[Path, int], None]] = {
    "read, tokenised, cached": read,
    "read again (cached)": read,
    "held out, planned, digested": plan,
    "fit of two steps, all of it": train,
}


def measure(part: Callable[[Path, int], None], folder: Path, rows: int) -> tuple[float, float]:
    """CPU seconds, and MB that a process of its own takes on top of what it had imported."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure_here, part, folder, rows).result()


def _measure_here(part: Callable[[Path, int], None], folder: Path, rows: int) -> tuple[float, float]:
    torch.set_num_threads(1)
    # What is imported and allocated once is no part of it.
    part(folder, 1000)
    began = time.process_time()
    used = peak_bytes_here(lambda: partial(part, folder, rows))
    return time.process_time() - began, used / 1e6


def table(sizes: list[int], target: int) -> list[str]:
    """A row a part; the last columns carry a straight line through the two largest sizes on to `target`."""
    heads = [f"{size:,}: s, MB" for size in sizes] + [f"{target:,} (extrapolated): s, MB"]
    lines = [f"| part | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_tokenizer(folder / "tokenizer")
        for size in (1000, *sizes):
            write(folder, size)
        for part, function in PARTS.items():
            found = np.array([measure(function, folder, size) for size in sizes])
            slope = (found[-1] - found[-2]) / (sizes[-1] - sizes[-2])
            carried = [*found, found[-1] + slope * (target - sizes[-1])]
            lines.append(f"| {part} | {' | '.join(f'{seconds:.0f}, {used:.0f}' for seconds, used in carried)} |")
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 400_000])
    parser.add_argument("--target", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    lines = table(asked.rows, asked.target)
    command = shlex.join(["python", "-m", "bench.pairs", *sys.argv[1:]])
    text = (
        f"# Many pairs\n\n`{command}`: pairs of {LENGTH * (PROMPT + 2 * RESPONSE)} tokens in one JSONL file; CPU seconds of one "
        f"thread, and the most memory that a process takes on top of the {resident_bytes() / 1e6:.0f} MB that it has imported. "
        "Mapped files (tokens) count while they are read; the system takes them back when it needs room.\n\n"
    )
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
