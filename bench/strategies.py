"""Every stage on 1, 2 and 4 processes, DDP and FSDP2: after five steps, is it the same model, and was the same logged?

`python -m bench.strategies --out docs/results/strategies/README.md` (gloo, the embedded model, the shipped experiments at small
sizes; some minutes). `--stages ppo rloo` and `--sizes 2` take a part.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors.torch import load_file

from bench.gloo import together
from train import main

ROOT = Path(__file__).parent.parent
STEPS = 5
FSDP2 = "lightning.pytorch.strategies.ModelParallelStrategy"
STRATEGIES = ("ddp", "fsdp2")

_PAIRS = "--data.batch_size 10 --data.num_probe_prompts 4 --data.num_leftovers 1"
_HEAD = "--data.batch_size 10 --data.task.num_train 40 --model.reward_model.likelihood_scale null"
_ROLLOUTS = "--data.max_new_tokens 40 --data.num_samples 3 --data.num_probe_prompts 4 --data.num_leftovers 1"
STAGES: Mapping[str, tuple[str, str]] = {
    "SFT": ("arithmetic_sft", "--data.batch_size 10 --data.task.num_train 200"),
    "SFT, short epochs": ("arithmetic_sft", "--data.batch_size 10 --data.task.num_train 23 --trainer.max_epochs -1"),
    "RM, likelihood": ("arithmetic_rm", "--data.batch_size 10 --data.task.num_train 40"),
    "RM, head at the last token": ("arithmetic_rm", _HEAD),
    "RM, LoRA": ("arithmetic_rm", f"{_HEAD} --model.reward_model.lora.r 4"),
    "DPO": ("arithmetic_dpo", _PAIRS),
    "DPO, LoRA": ("arithmetic_dpo", f"{_PAIRS} --model.policy.lora.r 4 --model.optimizer.lr 0.001"),
    "SimPO": ("arithmetic_dpo", f"{_PAIRS} --model.loss simpo"),
    "KTO": ("arithmetic_dpo", f"{_PAIRS} --model.loss kto"),
    "TDPO2": ("arithmetic_dpo", f"{_PAIRS} --model.loss tdpo2 --model.reference online"),
    "on-policy DPO": ("arithmetic_on_policy_dpo", f"{_ROLLOUTS} --data.prompts_per_rollout 10"),
    "on-policy DPO, few pairs": (
        "arithmetic_on_policy_dpo",
        f"{_ROLLOUTS} --data.prompts_per_rollout 3 --trainer.accumulate_grad_batches 2",
    ),
    "PPO, GAE with a critic": ("arithmetic_ppo", f"{_ROLLOUTS} --data.prompts_per_rollout 9"),
    "PPO, LoRA": ("arithmetic_ppo", f"{_ROLLOUTS} --data.prompts_per_rollout 9 --model.policy.lora.r 4"),
    "PPO, adaptive KL, small passes": (
        "arithmetic_ppo",
        f"{_ROLLOUTS} --data.prompts_per_rollout 9 --model.settings.max_tokens_per_batch 300 --model.kl.target 0.1 "
        "--model.kl.horizon 100 --model.critic lightning_modules.models.scalars.critic.SharedBody",
    ),
    "PPO, RLOO": ("arithmetic_rloo", f"{_ROLLOUTS} --data.prompts_per_rollout 7"),
    "GRPO": ("arithmetic_grpo", f"{_ROLLOUTS} --data.prompts_per_rollout 7"),
    "Dr. GRPO, LLDS": ("arithmetic_dr_grpo", f"{_ROLLOUTS} --data.prompts_per_rollout 7 --model.settings.preservation 0.1"),
    "PPO, ReMax": ("arithmetic_rloo", f"{_ROLLOUTS} --data.prompts_per_rollout 7 --model.advantages ReMax"),
}
"""Stage -> experiment, and what makes it small. Numbers are such that ranks have parts of different sizes, or none."""


class Difference(NamedTuple):
    """Of a run from that of one process."""

    parameter: float
    """Largest relative difference of a parameter, |a - b| / |b|."""
    logged: float
    """Largest difference of a logged point or of a number in a row, relative beyond 1."""


Table = dict[str, dict[str, Difference]]
"""Stage -> run -> difference."""


def callbacks_of(experiment: str) -> list[dict[str, Any]]:
    """Everything that measures, at every step."""
    every = {"every_n_steps": 1}
    judge = {"judge": {"class_path": "judges.arithmetic.ArithmeticJudge"}}
    alarm = {"class_path": "callbacks.alarms.property_alarm.PropertyAlarm", "init_args": {"stop": False}}
    names = ["reward_monitor.RewardMonitor"] if experiment == "arithmetic_rm" else MONITORS
    measured = [{"class_path": f"callbacks.diagnostics.{name}", "init_args": every} for name in names]
    if experiment == "arithmetic_rm":
        return [*measured, {"class_path": "callbacks.saving.reward_export.RewardExport"}]
    examined = {"num_problems": 7, "max_new_tokens": 40, "every_n_steps": 4} | judge
    answers = {"every_n_steps": 4, "num_samples": 2, "num_prompts": 2, "sampling": {"max_new_tokens": 20}}
    return [
        *measured,
        {"class_path": "callbacks.diagnostics.accuracy.AccuracyMonitor", "init_args": examined},
        {"class_path": "callbacks.answers.samples.SampleLogger", "init_args": answers},
        alarm,
        {"class_path": "callbacks.saving.policy_export.PolicyExport"},
    ]


MONITORS = [
    "likelihood.LikelihoodMonitor",
    "softmax_gradient.SoftmaxGradientMonitor",
    "degradation.DegradationMonitor",
    "dispersion.DispersionMonitor",
    "mass_gains.MassMonitor",
    "lazy_likelihood.LazyLikelihood",
]


def config_of(stage: str) -> dict[str, Any]:
    """The experiment, with a quiet trainer that logs every step."""
    experiment, _ = STAGES[stage]
    parts = yaml.safe_load((ROOT / "configs" / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8"))
    for name in ("model", "data"):
        parts[name] = str((ROOT / "configs" / "experiment" / parts[name]).resolve())
    kept = ("max_epochs", "gradient_clip_val", "limit_val_batches", "use_distributed_sampler")
    shipped = yaml.safe_load((ROOT / "configs" / "experiment" / parts["trainer"]).read_text(encoding="utf-8"))
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "runs", "name": "run"}}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    parts["trainer"] = {name: shipped[name] for name in kept if name in shipped} | quiet
    parts["trainer"] |= {"accelerator": "cpu", "max_steps": STEPS, "log_every_n_steps": 1, "num_sanity_val_steps": 0}
    parts["trainer"] |= {"logger": logger, "callbacks": callbacks_of(experiment), "limit_val_batches": 0}
    return dict(parts)


def folder_name(stage: str, strategy: str, size: int) -> str:
    """Of a run's folder."""
    return f"{''.join(letter if letter.isalnum() else '_' for letter in stage)}.{strategy}.{size}"


def fit(home: Path, stages: Iterable[str], strategies: Iterable[str], size: int) -> None:
    """In one of `size` processes: the runs that are lacking, one after the other, each in its folder."""
    torch.set_num_threads(1)
    for stage in stages:
        for strategy in strategies:
            folder = home / folder_name(stage, strategy, size)
            if any(folder.glob("runs/run/version_0/*/model.safetensors")):
                continue
            folder.mkdir(exist_ok=True)
            os.chdir(folder)
            for part in ("assets", "configs"):
                if not Path(part).is_symlink():
                    Path(part).symlink_to(ROOT / part)
            Path("run.yaml").write_text(yaml.safe_dump(config_of(stage)), encoding="utf-8")
            main(["fit", "--config", "run.yaml", *STAGES[stage][1].split(), *options_of(strategy, size)])


def options_of(strategy: str, size: int) -> list[str]:
    """Of the trainer."""
    sharded = {"class_path": FSDP2, "init_args": {"data_parallel_size": size, "tensor_parallel_size": 1}}
    chosen = {"one": "auto", "ddp": "ddp", "fsdp2": json.dumps(sharded)}[strategy]
    return ["--trainer.devices", str(size), "--trainer.strategy", chosen]


def difference(run: Path, other: Path) -> Difference:
    """Between two runs' exported weights, logged points and rows."""
    (one,), (two,) = (list(folder.glob("runs/run/version_0/*/model.safetensors")) for folder in (run, other))
    weights, others = load_file(one), load_file(two)
    assert weights.keys() == others.keys()
    parameter = max(float((others[name] - weight).norm() / weight.norm().clamp_min(1e-12)) for name, weight in weights.items())
    found, expected = numbers_of(other), numbers_of(run)
    if missing := found.keys() ^ expected.keys():
        print("only in one of both:", sorted(missing)[:5])
        return Difference(parameter, float("inf"))
    return Difference(parameter, max(abs(found[key] - value) / max(1.0, abs(value)) for key, value in expected.items()))


def numbers_of(folder: Path) -> dict[tuple[object, ...], float]:
    """Every number that a run has logged, by file, point and name."""
    run = folder / "runs" / "run" / "version_0"
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        points: list[tuple[str, Mapping[str, Any]]] = [("metrics", row) for row in csv.DictReader(file)]
    for path in sorted((run / "diagnostics").glob("*.jsonl")):
        points += [(path.stem, json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    found: dict[tuple[object, ...], float] = {}
    for number, (name, row) in enumerate(points):
        # What a token is called when it ties with another is a matter of the last digit.
        if name not in ("samples", "gaining_tokens"):
            found |= {(name, number, key): float(value) for key, value in row.items() if _is_number(value)}
    return found


def _is_number(value: object) -> bool:
    if isinstance(value, str):
        return bool(value) and value.replace(".", "").replace("e", "").replace("-", "").replace("+", "").isdigit()
    return isinstance(value, int | float) and not isinstance(value, bool)


def compare(home: Path, stages: Sequence[str], strategies: Sequence[str], sizes: Sequence[int]) -> Iterator[Table]:
    """Run everything and hold each run against that of one process; gives what there is after each number of processes."""
    together(1, fit, home, stages, ["one"], 1)
    found: Table = {stage: {} for stage in stages}
    for size in sizes:
        together(size, fit, home, stages, strategies, size)
        for stage in stages:
            alone = home / folder_name(stage, "one", 1)
            for strategy in strategies:
                run = home / folder_name(stage, strategy, size)
                found[stage][f"{strategy.upper()}, {size}"] = difference(alone, run)
        yield found


def page(found: Table, command: str) -> str:
    """The results as Markdown."""
    names = list(dict.fromkeys(name for runs in found.values() for name in runs))
    lines = ["| stage | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for stage, runs in found.items():
        cells = [f"{runs[name].parameter:.1e}, {runs[name].logged:.1e}" if name in runs else "not run" for name in names]
        lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    lacking = [stage for stage in STAGES if stage not in found]
    lines += ["", f"Not run for this page: {'; '.join(lacking)}."] if lacking else []
    return ABOUT.format(command=command, torch=torch.__version__, steps=STEPS) + "\n".join(lines) + "\n"


ABOUT = """# Stages on several processes

`{command}` (torch {torch}, gloo, processes of one machine with a thread each).

{steps} optimizer steps of the shipped experiments at small sizes (`bench/strategies.py` has them), on one process and on several.
A cell has the largest relative difference of an exported parameter from the run of one process (asked: at most 1e-5), then the
largest difference of any logged point and any number in the rows of the diagnostics (relative where it is above 1). Prompts do not
divide evenly among the processes: with four, some have none in some steps.

"""


def run(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), metavar="STAGE")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--sizes", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--folder", type=Path, help="keep the runs here, and go on with those that are")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    out = None if options.out is None else options.out.absolute()
    home = (options.folder or Path(tempfile.mkdtemp()) / "runs").absolute()
    home.mkdir(parents=True, exist_ok=True)
    for found in compare(home, options.stages, options.strategies, options.sizes):
        text = page(found, shlex.join(["python", "-m", "bench.strategies", *sys.argv[1:]]))
        print(text)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run()
