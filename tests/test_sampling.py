"""From a policy to a pool and back: predict, kill, continue; and accuracy while training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.cli import LightningCLI

from datamodules.contracts.prompts import Sampling
from datamodules.pool.files import read_pool
from datamodules.sampling import SamplingDataModule
from datamodules.tasks.arithmetic.task import ArithmeticTask
from datamodules.tasks.arithmetic.tokenizer import build_tokenizer
from judges.arithmetic import ArithmeticJudge
from run_folder.rows import read_rows
from tests import tiny

Run = Callable[..., LightningCLI]
Write = Callable[[Mapping[str, Any], str], Path]
JUDGE = {"class_path": "judges.arithmetic.ArithmeticJudge"}
TASK = {
    "class_path": "datamodules.tasks.arithmetic.task.ArithmeticTask",
    "init_args": {"num_train": 12, "num_pool": 10, "num_test": 7},
}


def policy(seed: int) -> dict[str, Any]:
    config = tiny.POLICY["init_args"]["config"]
    return {
        "class_path": "lightning_modules.models.specs.RandomPolicy",
        "init_args": {"config": config | {"vocab_size": 76, "max_position_embeddings": 256, "eos_token_id": 1}, "seed": seed},
    }


def _sft(seed: int = 0) -> dict[str, Any]:
    arguments = {"policy": policy(seed), "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}}}
    return {"class_path": "lightning_modules.sft.SFTModule", "init_args": arguments}


def sampling_config(folder: Path, pool: str, source: str = "policy", seed: int = 0) -> dict[str, Any]:
    """Four responses to each of ten prompts, four prompts a batch, into a pool."""
    build_tokenizer().save_pretrained(folder / "tokenizer")
    writer = {"pool": str(folder / pool), "source": source}
    data = {"task": TASK, "tokenizer": str(folder / "tokenizer"), "num_samples": 4, "max_new_tokens": 12, "prompts_per_batch": 4}
    return {
        "trainer": tiny.trainer(folder, [{"class_path": "callbacks.answers.pool_writer.PoolWriter", "init_args": writer}]),
        "model": _sft(seed),
        "data": {"class_path": "datamodules.sampling.SamplingDataModule", "init_args": data},
    }


@pytest.fixture
def sample(tmp_path: Path, run: Run, write_config: Write) -> Callable[..., Path]:
    """Sample into a pool; returns its path."""

    def sample(pool: str, source: str = "policy", seed: int = 0) -> Path:
        run("predict", "--config", write_config(sampling_config(tmp_path, pool, source, seed), "sample"))
        return tmp_path / pool

    return sample


def test_every_response_is_scored_and_says_where_it_came_from(sample: Callable[..., Path]) -> None:
    rows, report = read_pool(sample("pool.jsonl"))
    assert report.num_bad == 0
    items, tokenizer = list(ArithmeticTask(num_pool=10).items("pool")), build_tokenizer()
    assert [(row.prompt, row.answer, row.task) for row in rows.values()] == [(i.prompt, i.answer, "arithmetic") for i in items]
    for row, item in zip(rows.values(), items, strict=True):
        (own,) = row.by_source("dataset")
        assert (own.text, own.score, own.model) == (item.solution, 5.0, None)
        for response in row.by_source("policy"):
            assert response.score == ArithmeticJudge().judge(item.prompt, response.text, item.answer).score
            assert (response.judge, response.judge_version) == ("arithmetic", ArithmeticJudge.version)
            assert response.sampling is not None
            assert (response.sampling.temperature, response.sampling.max_new_tokens) == (1.0, 12)
            assert response.is_cut == (len(tokenizer(response.text)["input_ids"]) == 12)
        assert len(row.by_source("policy")) == 4
    assert len({response.model for row in rows.values() for response in row.by_source("policy")}) == 1


def test_a_second_end_of_the_model_ends_a_response(tmp_path: Path, run: Run, write_config: Write) -> None:
    """Responses with one end are those of two, cut at the second: the draws are the same."""
    second, texts = build_tokenizer().decode([9]), {}
    for name, ends in (("one", 1), ("two", [1, 9])):
        config = sampling_config(tmp_path, f"{name}.jsonl")
        config["model"]["init_args"]["policy"]["init_args"]["config"]["eos_token_id"] = ends
        run("predict", "--config", write_config(config, name))
        rows, _ = read_pool(tmp_path / f"{name}.jsonl")
        texts[name] = [response for row in rows.values() for response in row.by_source("policy")]
    assert sum(second in response.text for response in texts["one"]) > 2
    for whole, ended in zip(texts["one"], texts["two"], strict=True):
        assert ended.text == whole.text.split(second)[0]
        assert ended.is_cut == (whole.is_cut and second not in whole.text)


def test_a_killed_run_goes_on_and_draws_what_it_would_have_drawn(sample: Callable[..., Path]) -> None:
    whole = sample("whole.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 10
    killed = sample("killed.jsonl")
    # Killed while it wrote the second batch.
    killed.write_bytes(b"".join(lines[:4]) + lines[4][:50])
    assert sample("killed.jsonl").read_bytes() == whole
    # There is nothing left to sample.
    assert sample("killed.jsonl").read_bytes() == whole


def test_a_pool_takes_one_model_as_a_source(sample: Callable[..., Path]) -> None:
    path = sample("pool.jsonl")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
    with pytest.raises(ValueError, match="one model"):
        sample("pool.jsonl", seed=1)
    sample("pool.jsonl", "small", seed=1)
    rows, _ = read_pool(path)
    assert len(rows) == 14
    with pytest.raises(ValueError, match="data set's own"):
        sample("pool.jsonl", "dataset")


def test_what_has_been_answered_is_left_out(tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(tmp_path / "tokenizer")
    task = ArithmeticTask(num_pool=10)
    data = SamplingDataModule(task, str(tmp_path / "tokenizer"), prompts_per_batch=4)
    assert [len(batch.prompts) for batch in data.predict_dataloader()] == [4, 4, 2]
    prompts = [item.prompt for item in task.items("pool")]
    data.leave_out(prompts[:5])
    left = [prompt.item.prompt for batch in data.predict_dataloader() for prompt in batch.prompts]
    assert left == prompts[5:]
    with pytest.raises(ValueError, match="top_p"):
        SamplingDataModule(task, str(tmp_path / "tokenizer"), top_p=0)


def test_accuracy_is_measured_before_during_and_after_training(
    tmp_path: Path, run: Run, write_config: Callable[[Mapping[str, Any], str], Path]
) -> None:
    build_tokenizer().save_pretrained(tmp_path / "tokenizer")
    monitor = {"every_n_steps": 2, "num_problems": 5, "max_new_tokens": 10}
    data = {"tokenizer": str(tmp_path / "tokenizer"), "task": TASK, "batch_size": 4, "num_probe_prompts": 0}
    config = {
        "trainer": tiny.trainer(
            tmp_path, [{"class_path": "callbacks.diagnostics.accuracy.AccuracyMonitor", "init_args": monitor}], max_epochs=1
        ),
        "model": _sft(),
        "data": {"class_path": "datamodules.tasks.sft.TaskSFTDataModule", "init_args": data},
    }
    cli = run("fit", "--config", write_config(config, "accuracy"))
    rows = read_rows(Path(cli.trainer.log_dir or ""), "accuracy")
    assert [row["step"] for row in rows] == [0, 2, 3]
    policy, prompts = cli.model.policy, cli.datamodule.task_prompts()[:5]
    drawn = policy.sample([p.prompt_ids for p in prompts], Sampling(10, 0.0), eos_token_id=1, seed=0)
    texts = [cli.datamodule.tokenizer.decode(ids, skip_special_tokens=True) for ids in drawn]
    verdicts = [ArithmeticJudge().judge("", text, p.item.answer) for text, p in zip(texts, prompts, strict=True)]
    assert rows[-1]["task/score"] == pytest.approx(sum(verdict.score for verdict in verdicts) / 5)
    assert rows[-1]["task/accuracy"] == sum(verdict.details["correct"] for verdict in verdicts) / 5
    assert rows[-1]["task/length"] == pytest.approx(torch.tensor([float(len(ids)) for ids in drawn]).mean().item())
