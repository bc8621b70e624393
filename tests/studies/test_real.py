"""The study at real size from nothing to its page, with a tiny model in place of its own, cut off twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from callbacks.answers.pool_writer import PoolWriter
from datamodules.pool.files import read_pool
from studies import running
from studies import study as study_module
from studies.files import load_study
from studies.pages import report
from studies.running import make
from studies.study import ROOT, Level, Study

NUM_PROBLEMS = 48
SMALL = {
    "method": ("--trainer.accelerator", "cpu", "--trainer.precision", "32-true"),
    "dpo": ("--data", "configs/data/arithmetic_pool.yaml", "--data.batch_size", "2"),
    "flex_dpo": ("--data", "configs/data/arithmetic_pool.yaml", "--data.batch_size", "2"),
    "ppo": ("--data", "configs/data/arithmetic_rollouts.yaml", "--data.prompts_per_rollout", "4", "--data.num_samples", "2"),
}


def stand_in(folder: Path) -> Study:
    """The same study but for its models, its problems and the machine: one seed, three methods, at most four steps."""
    study = load_study("paper/real")
    base = str(ROOT / "assets" / "arithmetic" / "base")
    methods = {
        name: replace(level, options=(*level.options, *SMALL[name], *SMALL["method"], "--trainer.max_steps", "2"))
        for name, level in study.grid["method"].items()
        if name in SMALL
    }
    data = ("--data.num_probe_prompts", "2", "--data.task.num_test", "4", "--trainer.callbacks.num_problems", "4")
    models = {
        name: Level(name, ("--model.policy.path", base, "--data.pool", str(folder / name / "pool.jsonl"), *data))
        for name in study.grid["model"]
    }
    grid = {**study.grid, "method": methods, "seed": {"0": study.grid["seed"]["0"]}, "model": models}
    sampling = {
        **study.settings["sampling"],
        "experiment": "arithmetic_sample",
        "options": ["--data.task.num_pool", str(NUM_PROBLEMS), "--data.prompts_per_batch", "16", "--trainer.accelerator", "cpu"],
    }
    skip: list[dict[str, Any]] = [{"method": ["flex_dpo", "ppo"], "scenario": ["2", "3", "4"]}, {"model": "qwen2.5_1.5b"}]
    return replace(study, grid=grid, skip=tuple(skip), settings={**study.settings, "sampling": sampling})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_nothing_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "RUNS", tmp_path / "runs")
    study = stand_in(tmp_path)
    own = tmp_path / "qwen2.5_0.5b" / "policy.jsonl"
    with monkeypatch.context() as cut:
        write = PoolWriter.on_predict_batch_end

        def killed(self: PoolWriter, *arguments: Any, **options: Any) -> None:
            write(self, *arguments, **options)
            raise SystemExit(143)

        cut.setattr(PoolWriter, "on_predict_batch_end", killed)
        with pytest.raises(SystemExit):
            make(study.cells)
    assert len(own.read_text(encoding="utf-8").splitlines()) == 16
    first = own.read_bytes()
    with monkeypatch.context() as cut:
        train = running._train

        def killed_in_the_second(command: Sequence[str], output: Path) -> None:
            train(command, output)
            if "scenario2" in output.parent.name:
                (output.parent / "version_0" / "policy").rename(output.parent / "unwritten")
                raise SystemExit(143)

        cut.setattr(running, "_train", killed_in_the_second)
        with pytest.raises(SystemExit):
            make(study.cells)
    assert own.read_bytes().startswith(first)
    assert [cell.is_complete for cell in study.cells] == [True, False, False, False, False, False]
    pool, _ = read_pool(tmp_path / "qwen2.5_0.5b" / "pool.jsonl")
    sources = [sorted(response.source for response in row.responses) for row in pool.values()]
    assert sources == [["dataset", *["policy"] * 8, *["qwen2.5_1.5b"] * 4]] * NUM_PROBLEMS
    assert make(study.cells) == []
    assert all(cell.is_complete for cell in study.cells)
    whole = replace(study, settings={**study.settings, "out": str(tmp_path / "page")})
    whole.out.mkdir(parents=True)
    report.write(whole)
    table = (whole.out / "table.md").read_text(encoding="utf-8")
    assert all(f"DPO, qwen2.5_0.5b, scenario {number}" in table for number in range(1, 5))
    assert "PPO, qwen2.5_0.5b, scenario 1" in table
    assert json.loads((study.cells[0].folder / "diagnostics" / "accuracy.jsonl").read_text().splitlines()[-1])["step"] == 2
