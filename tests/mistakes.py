"""Mistakes on the command line, and how each is answered; `python -m tests.mistakes` writes docs/mistakes.md."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

import train
from tests import tiny

LOSSES = ("Choices: ", "simpo", "kto")


@dataclass(frozen=True)
class Mistake:
    """What is typed, and what has to be in the answer."""

    name: str
    arguments: str
    """Behind `fit --config tiny.yaml`; or a whole command line, from `:` on."""
    says: tuple[str, ...]
    code: int = 2
    config: str | None = None
    """YAML of a second config, `own.yaml`."""


MISTAKES = [
    Mistake("no subcommand", ":", ("fit, validate, test, predict", "python train.py fit --config")),
    Mistake("subcommand", ":fitt", ("got fitt", "Did you mean fit?")),
    Mistake("no config", ":fit", ("data and model", "--config configs/experiment/")),
    Mistake(
        "config that is not there", ":fit --config configs/experiment/toy_dop.yaml", ("toy_dop.yaml, got none", "toy_dpo.yaml?")
    ),
    Mistake("YAML", ":fit --config own.yaml", ("own.yaml, line 2", "bracket"), config="model: [1\nfoo: {\n"),
    Mistake("list as config", ":fit --config own.yaml", ("names and values",), config="- 1\n"),
    Mistake("key of a config", "--config own.yaml", ("modell", "Did you mean model?", "own.yaml, line 1"), config="modell: x\n"),
    Mistake(
        "key of the trainer in a config",
        "--config own.yaml",
        ("max_step.", "Did you mean trainer.max_steps?", "own.yaml, line 3"),
        config="seed_everything: 1\ntrainer:\n  max_step: 3\n",
    ),
    Mistake(
        "key deep in a config",
        "--config own.yaml",
        ("model.optimizer (SGD) has no option lrr", "Did you mean lr?", "own.yaml, line 5"),
        config="model:\n  init_args:\n    optimizer:\n      init_args:\n        lrr: 3\n",
    ),
    Mistake(
        "part that is not there", "--config own.yaml", ("../nothing.yaml", "own.yaml, line 1"), config="model: ../nothing.yaml\n"
    ),
    Mistake("option", "--max_steps 3", ("no option max_steps", "Did you mean trainer.max_steps?")),
    Mistake("option of the module", "--model.losss x", ("no option losss", "Did you mean loss?")),
    Mistake(
        "option of the loss", "--model.loss.betta 0.2", ("model.loss (DPOLoss)", "Did you mean beta?", "beta, label_smoothing")
    ),
    Mistake("option of the optimizer", "--model.optimizer.lrr 1", ("model.optimizer (SGD)", "Did you mean lr?")),
    Mistake("option of the data", "--data.batchsize 3", ("no option batchsize", "Did you mean batch_size?")),
    Mistake("text for a number", "--model.loss.beta abc", ("a number for model.loss.beta, got abc",)),
    Mistake("text for a rate", "--model.optimizer.lr fast", ("a number for model.optimizer.lr, got fast",)),
    Mistake("text for a count", "--trainer.max_steps many", ("a whole number for trainer.max_steps, got many",)),
    Mistake("fraction for a count", "--data.batch_size 4.5", ("a whole number for data.batch_size, got 4.5",)),
    Mistake("number out of range", "--model.loss.beta -1", ("beta > 0, got -1.0",), 1),
    Mistake("batch of none", "--data.batch_size 0", ("batch_size >= 1, got 0",), 1),
    Mistake("loss", "--model.loss simp", ("got simp", "Did you mean simpo?", *LOSSES)),
    Mistake("class of a loss", "--model.loss lightning_modules.losses.simpo.SimPOLos", ("Did you mean SimPOLoss?", *LOSSES)),
    Mistake("module of a loss", "--model.loss no.where.Loss", ("got no.where.Loss", *LOSSES)),
    Mistake(
        "class of another kind",
        "--model.loss torch.optim.AdamW",
        ("expected a Loss for model.loss", "got torch.optim.AdamW", *LOSSES),
    ),
    Mistake("format", "--data.format sharegtp", ("Did you mean sharegpt?", "hh", "columns")),
    Mistake("optimizer", "--model.optimizer Adamm", ("Did you mean Adam?", "AdamW")),
    Mistake(
        "part that appends",
        "--trainer own.yaml",
        ("callbacks+: a part file is parsed alone", "own.yaml, line 1", "--trainer.callbacks+"),
        code=1,
        config="callbacks+:\n  - class_path: lightning.pytorch.callbacks.DeviceStatsMonitor\n",
    ),
    Mistake("callback", "--trainer.callbacks+ RunSumary", ("got RunSumary", "Did you mean RunSummary?")),
    Mistake("data module", "--data SFTDataModul", ("Did you mean SFTDataModule?", "preference")),
    Mistake("precision", "--trainer.precision bf17", ("bf16-mixed", "got bf17")),
    Mistake("strategy", "--trainer.strategy fsdp", ("strategy: ddp", "flattens the parameters"), 1),
    Mistake("word without option", "extra", ("begin with --", "got extra")),
    Mistake("missing GPU", "--trainer.accelerator cuda", ("trainer.accelerator cpu|--trainer.accelerator auto",), 1),
    Mistake("accelerator", "--trainer.accelerator gpuu", ("gpuu", "--trainer.accelerator auto"), 1),
    Mistake("devices", "--trainer.devices 4x", ("trainer.devices", "a number >= 1"), 1),
    Mistake("checkpoint that is not there", "--ckpt_path nothing.ckpt", ("at nothing.ckpt, got none", "last.ckpt"), 1),
    Mistake("checkpoint that is none", "--ckpt_path own.ckpt", ("whole checkpoint, got own.ckpt", "Resume from one"), 1),
    Mistake("data that is not there", "--data.train.path nothing.jsonl", ("nothing.jsonl", "Check the path"), 1),
    Mistake("model that is not there", "--model.policy pretrained --model.policy.path no/model", ("no/model", "folder"), 1),
    Mistake("no logger", "--trainer.logger false", ("expected TensorBoardLogger or CSVLogger", "got none"), 1),
    Mistake("folder that is a file", "--trainer.logger.save_dir own.ckpt", ("cannot write", "--trainer.logger.save_dir"), 1),
]


def write_run(folder: Path) -> None:
    """The run that the mistakes are made in, as `tiny.yaml`, and a file that is no checkpoint."""
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    config = {
        "trainer": tiny.trainer(folder, [], max_steps=2),
        "model": tiny.module(folder, loss="dpo", optimizer=optimizer),
        "data": tiny.pair_data(folder),
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    (folder / "own.ckpt").write_text("nothing")


def ask(mistake: Mistake) -> tuple[int, str]:
    """Exit code and error output of a mistake, made in the working directory."""
    if mistake.config is not None:
        Path("own.yaml").write_text(mistake.config)
    error = io.StringIO()
    with contextlib.redirect_stderr(error):
        try:
            code = train.command(command_line(mistake))
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else -1
    return code, error.getvalue()


def command_line(mistake: Mistake) -> list[str]:
    """The words behind `train.py`."""
    words = mistake.arguments.removeprefix(":").split()
    return words if mistake.arguments.startswith(":") else ["fit", "--config", "tiny.yaml", *words]


def answer_in(error: str) -> str:
    """The answer itself, without what was logged before it."""
    return error[error.index("error: ") :].strip()


def title(mistake: Mistake) -> str:
    """Its heading on the page."""
    return mistake.name[0].upper() + mistake.name[1:]


def _page() -> Iterator[str]:
    yield "# Mistakes, and what is said of them\n"
    yield "Written by `python -m tests.mistakes`; `tests/test_mistakes.py` holds every answer to 8 lines that name the remedy.\n"
    for mistake in MISTAKES:
        code, error = ask(mistake)
        config = f"own.yaml:\n{mistake.config}\n" if mistake.config else ""
        command = " ".join(["python train.py", *command_line(mistake)])
        yield f"**{title(mistake)}** (exit code {code})\n\n```\n{config}$ {command}\n{answer_in(error)}\n```\n"


if __name__ == "__main__":
    page = Path(__file__).parent.parent / "docs" / "mistakes.md"
    sys.argv = ["train.py"]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_run(Path(folder))
        page.write_text("\n".join(_page()).replace(f"{folder}/", "").replace(f"{page.parent.parent}/", ""))
