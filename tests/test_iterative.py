"""The iterative loop (iterate.sh), and how on-policy a round's pairs are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.cli import LightningCLI

from callbacks.diagnostics.freshness import freshness
from datamodules.pool.files import read_pool, write_pool
from datamodules.pool.scenarios import view_scenario
from datamodules.pool.schema import PoolRow, Response
from datamodules.tasks.arithmetic.tokenizer import build_tokenizer
from lightning_modules.models.specs import PretrainedPolicy, RandomPolicy
from run_folder.rows import read_rows
from tests import tiny
from tests.test_sampling import TASK, policy

ROOT = Path(__file__).parent.parent
FRESHNESS = {"class_path": "callbacks.diagnostics.freshness.PoolFreshness"}


def score(prompt: str, response: str, answer: str | None) -> float:
    """A judge that random weights can please more or less: the share of different characters."""
    return len(set(response)) / max(1, len(response))


def _row(number: int, *models: str | None) -> PoolRow:
    best, worst = (
        Response(f"{side} {number}", "policy", side, model=model) for side, model in zip((1.0, 0.0), models, strict=True)
    )
    return PoolRow(f"What is {number}?", (best, worst, Response(f"gold {number}", "dataset", 1.0)))


def test_freshness_counts_what_these_weights_have_drawn() -> None:
    rows = dict(enumerate([_row(0, "now", "now"), _row(1, "now", "then"), _row(2, "then", "then"), _row(3, None, "now")]))
    assert freshness(view_scenario(rows, 1, shared=(1,)).pairs, "now") == {"freshness/policy": 1.0, "freshness/current": 0.5}
    # Chosen from the data set: half of what is learnt from is nobody's sample.
    assert freshness(view_scenario(rows, 2, shared=(2,)).pairs, "then") == {"freshness/policy": 0.5, "freshness/current": 0.25}


def _model(folder: Path) -> dict[str, Any]:
    """DPO from a tiny policy over the arithmetic characters, which is saved with its tokenizer."""
    RandomPolicy(**policy(0)["init_args"]).build().save(folder / "base")
    build_tokenizer().save_pretrained(folder / "base")
    spec = {"class_path": "lightning_modules.models.specs.PretrainedPolicy", "init_args": {"path": str(folder / "base")}}
    model = tiny.module(folder)
    model["init_args"]["policy"] = spec
    return model


def test_freshness_is_reported_when_training_starts(
    tmp_path: Path,
    run: Callable[..., LightningCLI],
    write_config: Callable[[Mapping[str, Any], str], Path],
) -> None:
    model = _model(tmp_path)
    current = PretrainedPolicy(path=str(tmp_path / "base")).build().fingerprint()
    write_pool(tmp_path / "pool.jsonl", [_row(0, current, current), _row(1, current, "older"), _row(2, "older", "older")])
    data = {"pool": str(tmp_path / "pool.jsonl"), "scenario": 1, "shared": [1], "tokenizer": None, "batch_size": 3}
    config = {
        "trainer": tiny.trainer(tmp_path, [FRESHNESS], max_steps=1),
        "model": model,
        "data": {"class_path": "datamodules.pool.data.PoolDataModule", "init_args": data},
    }
    cli = run("fit", "--config", write_config(config, "fresh"))
    (row,) = read_rows(Path(cli.trainer.log_dir or ""), "freshness")
    assert row == {"step": 0, "freshness/policy": 1.0, "freshness/current": 0.5}


def _experiments(folder: Path) -> dict[str, Path]:
    """SAMPLE and FIT of the loop, on the embedded task, tiny."""
    judge = {
        "class_path": "judges.function.CallableJudge",
        "init_args": {"function": "tests.test_iterative.score", "min_score": 0.0, "max_score": 1.0},
    }
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(folder), "name": None}}
    writer = {
        "class_path": "callbacks.answers.pool_writer.PoolWriter",
        "init_args": {"pool": "x.jsonl", "source": "policy", "judge": judge},
    }
    table = {"class_path": "callbacks.answers.results_table.ResultsTable", "init_args": {"judge": judge}}
    export = {"class_path": "callbacks.saving.policy_export.PolicyExport"}
    model = _model(folder)
    frozen = {
        "class_path": "lightning_modules.sft.SFTModule",
        "init_args": {name: model["init_args"][name] for name in ("policy", "optimizer")},
    }
    sampling = {"tokenizer": None, "task": TASK, "num_samples": 3, "max_new_tokens": 6}
    pairs = {
        "pool": "x.jsonl",
        "scenario": 1,
        "tokenizer": None,
        "task": TASK,
        "batch_size": 2,
        "num_probe_prompts": 0,
        "rules": {"min_gap": 0.01},
        "test_decoding": {"max_new_tokens": 4},
    }
    configs = {
        "SAMPLE": (tiny.trainer(folder, [writer], logger=logger), frozen, "datamodules.sampling.SamplingDataModule", sampling),
        "FIT": (
            tiny.trainer(folder, [FRESHNESS, table, export], logger=logger, max_steps=2),
            model,
            "datamodules.pool.data.PoolDataModule",
            pairs,
        ),
    }
    paths = {name: folder / f"{name}.yaml" for name in configs}
    for name, (trainer, module, data, options) in configs.items():
        content = {"trainer": trainer, "model": module, "data": {"class_path": data, "init_args": options}}
        paths[name].write_text(yaml.safe_dump(content))
    return paths


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_round_samples_from_what_the_round_before_left(tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = {
        "OUT": str(out),
        "POLICY": str(tmp_path / "base"),
        "PROBLEMS": "8",
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
    }
    environment = {**os.environ, **settings, **{name: str(path) for name, path in _experiments(tmp_path).items()}}
    result = subprocess.run(["bash", str(ROOT / "iterate.sh"), "2"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    prompts, models = [], []
    for number in range(2):
        rows, _ = read_pool(out / f"round_{number}" / "pool.jsonl")
        assert len(rows) == 8
        prompts.append({row.prompt for row in rows.values()})
        models.append({response.model for row in rows.values() for response in row.by_source("policy")})
        (row,) = read_rows(out / f"round_{number}" / "train" / "version_0", "freshness")
        assert (row["freshness/policy"], row["freshness/current"]) == (1.0, 1.0)
        assert (out / f"round_{number}" / "test" / "version_0" / "diagnostics" / "test.jsonl").is_file()
    # Other problems, and other weights.
    assert not prompts[0] & prompts[1]
    assert models[0] == {PretrainedPolicy(path=str(tmp_path / "base")).build().fingerprint()}
    assert models[1] == {PretrainedPolicy(path=str(out / "round_0" / "train" / "version_0" / "policy")).build().fingerprint()}
    assert models[0] != models[1]
    # A second call finds the first round done, and examines its policy again.
    again = subprocess.run(["bash", str(ROOT / "iterate.sh"), "1"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    assert not (out / "round_0" / "train" / "version_1").exists()
    assert (out / "round_0" / "test" / "version_1").exists()
