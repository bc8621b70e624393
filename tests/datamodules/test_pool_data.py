from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from datamodules.contracts.batches import CompletionBatch, Role
from datamodules.pool.data import PoolDataModule
from datamodules.pool.files import write_pool
from datamodules.pool.scenarios import SCENARIOS
from datamodules.pool.schema import PoolRow, Response
from datamodules.tasks.arithmetic.task import ArithmeticTask
from datamodules.tasks.arithmetic.tokenizer import build_tokenizer
from datamodules.tasks.base import Task, TaskItem
from datamodules.tasks.sft import TaskSFTDataModule

SOURCES = {1: ("policy", "policy"), 2: ("dataset", "policy"), 3: ("policy", "small"), 4: ("dataset", "small")}


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    build_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


@pytest.fixture
def pool(tmp_path: Path) -> str:
    rows = [
        PoolRow(
            f"What is {number}?",
            (
                Response(f"dataset {number}", "dataset", 5.0),
                *(Response(f"policy {number} {score}", "policy", float(score)) for score in (1, 3, 5, 2)),
                *(Response(f"small {number} {score}", "small", float(score)) for score in (2, 1)),
            ),
        )
        for number in range(24)
    ]
    alike = PoolRow("Alike?", (Response("a", "policy", 5.0), Response("b", "dataset", 5.0), Response("c", "small", 5.0)))
    write_pool(tmp_path / "pool.jsonl.xz", [alike, *rows])
    return str(tmp_path / "pool.jsonl.xz")


def _texts(data: PoolDataModule, batch: CompletionBatch, role: Role) -> list[str]:
    texts = []
    for number in (batch.roles == role).nonzero().flatten().tolist():
        texts.append(data.tokenizer.decode(batch.target_ids[batch.target_sequence == number][:-1]))
    return texts


def test_scenarios_pair_the_right_sources_on_the_same_prompts(pool: str, tokenizer: str) -> None:
    prompts = []
    for scenario in SCENARIOS:
        data = PoolDataModule(pool, scenario, tokenizer, val_fraction=0.25, batch_size=6)
        data.setup("fit")
        chosen, rejected = SOURCES[scenario]
        seen = []
        for batch in data.train_dataloader():
            assert {text.split()[0] for text in _texts(data, batch, Role.CHOSEN)} == {chosen}
            assert {text.split()[0] for text in _texts(data, batch, Role.REJECTED)} == {rejected}
            assert batch.scores is not None
            assert batch.scores[batch.pairs].tolist() == [[5.0, 1.0]] * batch.num_prompts
            seen += batch.row_numbers.tolist()
        assert len(seen) == 36  # 18 pairs
        prompts.append((sorted(seen), [example.prompt_ids for example in data.dataset("val").examples]))
    assert prompts.count(prompts[0]) == 4


class _HeldOut(Task):
    name = "held out"

    def items(self, split: str) -> Iterator[TaskItem]:
        # The pool's third prompt, and its fifth in another spelling.
        yield from (TaskItem(prompt) for prompt in (("What is 2?", "WHAT is  4 ?") if split == "test" else ()))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_test_prompt_is_trained_on(scenario: int, pool: str, tokenizer: str, caplog: pytest.LogCaptureFixture) -> None:
    data = PoolDataModule(pool, scenario, tokenizer, task=_HeldOut(), batch_size=22, num_probe_prompts=0)
    data.setup("fit")
    prompts = {data.tokenizer.decode(example.prompt_ids) for example in data.dataset("train").examples}
    assert prompts == {f"What is {number}?" for number in range(24) if number not in (2, 4)}
    assert "left out 2 prompts" in caplog.text
    # Whatever the scenario, the same prompts.
    assert {pair.row_number for pair in data.view.pairs} == {number for number in range(1, 25) if number not in (3, 5)}


def test_what_is_left_in_the_pool_becomes_probes(pool: str, tokenizer: str) -> None:
    data = PoolDataModule(pool, 2, tokenizer, num_probe_prompts=5, num_leftovers=3)
    data.setup("fit")
    probes = list(data.probe_batches())
    kinds = [kind for batch in probes for kind in batch.kinds]
    assert kinds.count("leftover") == 15
    assert {"chosen", "rejected", "other_chosen", "permuted"} < set(kinds)
    for batch in probes:
        leftovers = [number for number, kind in enumerate(batch.kinds) if kind == "leftover"]
        assert {batch.roles[number].item() for number in leftovers} == {Role.PROBE}
        texts = [data.tokenizer.decode(batch.target_ids[batch.target_sequence == number][:-1]) for number in leftovers]
        # Scenario 2 pairs dataset with policy 1: the others are left, each with its prompt's number.
        numbers = [batch.row_numbers[number].item() - 1 for number in leftovers]
        expected = [f"policy {number} {score}" for number in dict.fromkeys(numbers) for score in (3, 5, 2)]
        assert texts == expected


def test_mix_and_limit(pool: str, tokenizer: str) -> None:
    data = PoolDataModule(pool, 4, tokenizer, mix=0.5, limit=10)
    assert len(data.view.pairs) == 10
    assert {pair.chosen.source for pair in data.view.pairs} == {"policy", "dataset"}
    assert data.view.num_prompts == 25
    data.setup("fit")
    assert len(data.dataset("train").examples) == 10


def test_held_out_problems_are_tokenised_as_in_training(pool: str, tokenizer: str) -> None:
    data = PoolDataModule(pool, 1, tokenizer, task=ArithmeticTask(num_test=3))
    prompts = data.task_prompts()
    assert [data.tokenizer.decode(list(prompt.prompt_ids)) for prompt in prompts] == [prompt.item.prompt for prompt in prompts]
    assert len(prompts) == 3
    assert PoolDataModule(pool, 1, tokenizer).task_prompts() == []


def test_bad_rows_of_the_pool_stop_the_run_or_are_skipped(pool: str, tokenizer: str, tmp_path: Path) -> None:
    import lzma

    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(b"{\n" + lzma.decompress(Path(pool).read_bytes()))
    with pytest.raises(ValueError, match="malformed JSON"):
        PoolDataModule(str(broken), 1, tokenizer).setup("fit")
    data = PoolDataModule(str(broken), 1, tokenizer, on_bad_row="skip")
    assert [pair.row_number for pair in data.view.pairs] == list(range(2, 26))


def test_impossible_arguments(pool: str, tokenizer: str) -> None:
    with pytest.raises(ValueError, match="val_fraction"):
        PoolDataModule(pool, 1, tokenizer, val_fraction=1.0)
    with pytest.raises(ValueError, match="tokenizer"):
        PoolDataModule(pool, 1, None)
    with pytest.raises(ValueError, match="scenarios"):
        PoolDataModule(pool, 7, tokenizer).setup("fit")


def test_supervised_data_of_a_task(tokenizer: str) -> None:
    task = ArithmeticTask(num_train=20, num_val=4, terse_share=0.0)
    data = TaskSFTDataModule(tokenizer, task, batch_size=5)
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert [batch.num_prompts for batch in batches] == [5, 5, 5, 5]
    expected = {item.solution for item in task.items("train")}
    found = set()
    for batch in batches:
        ends = torch.cumsum(batch.lengths, 0).tolist()
        assert set(batch.target_ids[[end - 1 for end in ends]].tolist()) == {data.tokenizer.eos_token_id}
        found |= {data.tokenizer.decode(ids[:-1]) for ids in torch.split(batch.target_ids, batch.lengths.tolist())}
    assert found == expected
    assert len(data.dataset("val").examples) == 4


def test_a_pool_without_a_source_and_a_scenario_that_is_none_are_named(tokenizer: str, tmp_path: Path) -> None:
    path = str(tmp_path / "own.jsonl")
    write_pool(path, [PoolRow("p", (Response("a", "policy", 5.0), Response("b", "policy", 1.0)))])
    with pytest.raises(
        ValueError, match=r"(?s)expected pairs for scenario 2 in .*own.jsonl, got none.*1 x scenario 2: no scored response"
    ):
        PoolDataModule(path, 2, tokenizer).setup("fit")
    with pytest.raises(ValueError, match=r"expected scenarios among \[1, 2, 3, 4\], got 5 .* Table 4 numbers them"):
        PoolDataModule(path, 5, tokenizer).setup("fit")
    data = PoolDataModule(path, 1, tokenizer, shared=[1], num_probe_prompts=0)
    data.setup("fit")
    assert len(data.view.pairs) == 1
