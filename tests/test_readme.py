"""Every command of the README, of docs/usage.md and of CONTRIBUTING.md is run, in order, with a tiny model and tiny data.

The test runs each command as it stands, and appends fewer steps, the CPU, a tiny model and a few rows. `make` is only asked what it
would do, because it runs these tests. The quick suite runs the first training of each section of docs/usage.md, and parses others.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.cli import LightningCLI
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from prefscope import command
from tests import tiny

ROOT = Path(__file__).parent.parent
PAGES = sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))
Run = Callable[..., LightningCLI]
TRAIN = ("fit", "validate", "test", "predict")
QUICK = ("--trainer.accelerator", "cpu")


def commands(document: str, *, only_first: bool) -> list[list[str]]:
    """Lines of the bash blocks, as a shell splits them; where a section has several trainings, `only_first` parses the others."""
    found: list[list[str]] = []
    for section in (ROOT / document).read_text(encoding="utf-8").split("\n## "):
        blocks = re.findall(r"^```bash\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
        lines = [shlex.split(line) for block in blocks for line in block.splitlines() if line]
        trainings = [words for words in lines if is_training(words) and not {"--print_config", "--model.help"} & {*words}]
        for words in trainings[1:] if only_first else []:
            words.append("--print_config")
        diagnoses = [words for words in lines if words[:2] == ["prefscope", "diagnose"]]
        for words in diagnoses[1:] if only_first else []:
            words[2:] = ["--help"]
        found += lines
    return found


def is_training(words: list[str]) -> bool:
    return words[0] == "prefscope" and words[1] in TRAIN


def dialogue(number: int) -> str:
    return f"\n\nHuman: w{number} w1 w2\n\nAssistant: w3"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory like the checkout, whose runs and data are the test's own."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml", "setup.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "data").mkdir()
    for name in ("data/my_model", "data/my_checkpoint", "output/checkpoint-100", "output/checkpoint-200"):
        tiny.write_model(tmp_path / name)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "data/my_model"), LoraConfig(target_modules=["q_proj"]))
    model.save_pretrained(str(tmp_path / "lora_output" / "checkpoint-5"))
    pairs = [{"chosen": f"{dialogue(n)} w{n % 20}", "rejected": f"{dialogue(n)} w5 w{n % 7}"} for n in range(60)]
    (tmp_path / "hh.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    pairs_file = tiny.write_pairs(tmp_path / "data" / "pairs.jsonl", 60)
    text = pairs_file.read_text()
    for column, name in {"prompt": "question", "chosen": "better", "rejected": "worse"}.items():
        text = text.replace(f'"{column}":', f'"{name}":')
    (tmp_path / "data" / "answers.jsonl").write_text(text)
    write_own_files(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_own_files(folder: Path) -> None:
    """Files of other formats, as docs/usage.md names them."""
    ask, good, bad = ([f"{first} w{n % 28} w{n // 28}" for n in range(120)] for first in ("w1 w2", "w3", "w4"))
    asked = [[{"from": "system", "value": "w1"}, {"from": "human", "value": text}] for text in ask]
    sides = [
        {"chosen": {"from": "gpt", "value": yes}, "rejected": {"from": "gpt", "value": no}}
        for yes, no in zip(good, bad, strict=True)
    ]
    rows: dict[str, list[Any]] = {
        "sharegpt.json": [{"conversations": turns} | side for turns, side in zip(asked, sides, strict=True)],
        "alpaca.json": [{"instruction": ask[n], "input": "w2" * (n % 2), "output": good[n]} for n in range(60)],
        "labelled.jsonl": [{"prompt": ask[n], "completion": good[n], "label": n % 2 == 0} for n in range(120)],
        "questions.jsonl": [{"question": text, "answer": "w1"} for text in ask[:3]],
    }
    for name, content in rows.items():
        lines = [json.dumps(row) for row in content]
        (folder / name).write_text("\n".join(lines) if name.endswith("l") else f"[{','.join(lines)}]")
    cells = [f"w1,{ask[n]},{good[n]},{bad[n]}" for n in range(60)]
    (folder / "parts.csv").write_text("\n".join(["context,question,better,worse", *cells]))
    (folder / "prompts.txt").write_text("w1 w2\nw3\n")


def stand_ins(arguments: list[str]) -> list[str]:
    """What is appended to a training command."""
    if "--print_config" in arguments or "--model.help" in arguments:
        return []
    if "--trainer.devices" in arguments:
        # tests/test_strategies.py trains with two processes.
        return ["--print_config"]
    services = {"Wandb": "wandb", "MLFlow": "mlflow"}
    absent = [name for name, package in services.items() if find_spec(package) is None]
    if "--data.train.streaming" in arguments or any(f"{name}Logger" in word for name in absent for word in arguments):
        # tests/datamodules/test_streaming.py reads a stream, tests/test_loggers.py logs to both.
        return ["--print_config"]
    extra = list(QUICK)
    experiment = arguments[arguments.index("--config") + 1] if "--config" in arguments else ""
    if arguments[0] == "fit":
        extra += ["--trainer.max_steps", "4" if "--ckpt_path" in arguments else "2"]
    if experiment.startswith("smollm2"):
        extra += ["--data.batch_size", "8"]
        extra += [] if "--model.policy.path" in arguments else ["--model.policy.path", "data/my_model"]
        extra += [] if "--data.train.path" in arguments else ["--data.train.path", "hh.jsonl"]
    if "--trainer.precision" in arguments:
        # The summary warns that it cannot tell the size of a model in bfloat16.
        extra += ["--trainer.enable_model_summary", "false"]
    if experiment == "arithmetic_dpo":
        extra += ["--data.task.num_test", "4", "--data.batch_size", "8", "--data.num_probe_prompts", "4"]
    if experiment == "arithmetic_sample":
        extra += ["--data.task.num_pool", "4", "--data.num_samples", "2"]
    if experiment == "arithmetic_rm":
        extra += ["--data.task.num_train", "4", "--data.batch_size", "4", "--trainer.limit_val_batches", "1"]
    if experiment.startswith("prompts"):
        extra += ["--data.max_new_tokens", "4", "--data.test_decoding.max_new_tokens", "4"]
    if experiment.startswith("toy"):
        extra += ["--model.policy.width", "16"]
    return extra


def train(run: Run, arguments: list[str]) -> None:
    """In this process; options that print and leave do so without an error."""
    try:
        run(*arguments, *stand_ins(arguments))
    except SystemExit as leaving:
        if leaving.code:
            raise


def ask(arguments: list[str]) -> None:
    """Another command of `prefscope`, in this process."""
    extra = ["--trainer.accelerator=cpu", "--data.max_length=60"] if arguments[0] == "diagnose" else []
    extra += ["--until-idle", "6"] if "--follow" in arguments else []
    extra += ["--steps", "1", "--remedies", "lower_rate,stop_here"] if arguments[0] == "advise" else []
    # tests/test_demo.py runs the demo; the quick suite draws no pool.
    if arguments[0] == "demo" or (arguments[0] == "pool" and not Path(arguments[-1]).exists()):
        arguments = [arguments[0], "--help"]
    try:
        assert command.main([*arguments, *([] if "--help" in arguments else extra)]) == 0
    except SystemExit as leaving:
        if leaving.code:
            raise


def execute(command: list[str]) -> None:
    """A command of the environment, by the path it has beside this interpreter."""
    program = Path(sys.executable).with_name(Path(command[0]).name)
    assert program.exists(), f"{command[0]} is not installed by make setup-dev"
    asked = ["--inspect"] if program.name == "tensorboard" else ["--help"]
    # Modules are found in the checkout, which is a reader's working directory.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    finished = subprocess.run([str(program), *command[1:], *asked], check=False, capture_output=True, text=True, env=environment)
    assert finished.returncode == 0, finished.stderr


# PEFT with transformers 5.23.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
# The tiny model has 64 positions, and a prompt with a sample of the reference may have more.
@pytest.mark.filterwarnings("ignore:The probe bank has sequences of up to:UserWarning")
# Dozens of trainings: on a busy machine longer than a test should take.
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("document", "only_first"),
    [
        ("README.md", False),
        ("CONTRIBUTING.md", False),
        ("docs/usage.md", True),
        pytest.param("docs/usage.md", False, marks=pytest.mark.slow),
    ],
)
def test_every_command_runs(document: str, only_first: bool, checkout: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    found = commands(document, only_first=only_first)
    assert found
    # TensorBoard is shown before there is a run to show.
    for words in sorted(found, key=lambda words: "tensorboard" in words[0]):
        if words[0] == "make":
            subprocess.run(["make", "--dry-run", *words[1:]], check=True, capture_output=True)
        elif is_training(words):
            train(run, words[1:])
        elif words[0] == "prefscope":
            ask(words[1:])
        else:
            execute(words)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *PAGES])
def test_links_and_named_files_are_there(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    folder = (ROOT / document).parent
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    named = re.findall(r"`((?:configs|tests|docs|callbacks|judges|datamodules|lightning_modules)/[\w/.-]+\.(?:py|yaml|md))`", text)
    missing = [link for link in links if not (folder / link).exists()] + [name for name in named if not (ROOT / name).exists()]
    assert missing == []


def test_the_number_of_losses_is_right() -> None:
    shipped = len(list((ROOT / "configs/model/loss").glob("*.yaml")))
    for document in ("README.md", "docs/usage.md"):
        said = re.search(r"\[more than (\d+) losses\]", (ROOT / document).read_text(encoding="utf-8"))
        assert said is not None, document
        assert int(said[1]) < shipped, document


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 90
