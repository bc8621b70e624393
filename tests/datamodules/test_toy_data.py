"""The toy's data against the paper's figures, and its plan seed by seed."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from datamodules.contracts.batches import CompletionBatch, Role, StepShare
from datamodules.loading.sampler import Microbatch
from datamodules.toy.data import PASSES_PER_EPOCH, ToyDataModule, ToyPlan, ToyPreferenceDataModule, ToySFTDataModule
from datamodules.toy.scenarios import SCENARIOS, initial_row, rejected_responses, scenario_of, whole_row


def set_up(data: ToyDataModule) -> ToyDataModule:
    data.setup("fit")
    return data


def responses(batch: CompletionBatch, prompt: int) -> list[int]:
    """Responses of the batch's prompt with this number, in order."""
    return batch.target_ids[batch.prompt_number == prompt].tolist()


def first_batches(data: ToyDataModule, count: int) -> list[CompletionBatch]:
    loader = iter(data.train_dataloader())
    return [next(loader) for _ in range(count)]


@pytest.mark.parametrize(
    ("number", "chosen", "rejected", "last"),
    [(1, 0.12, 0.12, (0.03, 0.01)), (2, 0.02, 0.12, (0.4, 0.04)), (3, 0.12, 0.02, (0.4, 0.04)), (4, 0.02, 0.02, (0.8, 0.04))],
)
def test_rows_are_those_of_the_papers_figure_3(number: int, chosen: float, rejected: float, last: tuple[float, float]) -> None:
    assert SCENARIOS[number].row == (*[chosen] * 4, *[rejected] * 4, *last)
    assert sum(SCENARIOS[number].hundredths) == 100
    assert initial_row(number) == SCENARIOS[number].row


def test_another_data_modules_scenario_gives_no_row_of_the_toy() -> None:
    assert initial_row({"chosen": "policy"}) == initial_row(None) == (0.1,) * 10


def test_unknown_scenario_is_refused() -> None:
    with pytest.raises(ValueError, match="expected scenario 1, 2, 3 or 4, got 5"):
        scenario_of(5)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_demonstrations_are_soft_labels_in_whole_counts(number: int) -> None:
    data = set_up(ToySFTDataModule(scenario=number, num_seeds=2))
    (batch,) = first_batches(data, 1)
    log_probs = torch.randn(8, 10, dtype=torch.float64).log_softmax(-1)
    token_logps = log_probs[batch.input_ids[batch.target_index], batch.target_ids]
    loss = -token_logps.sum() * batch.share.target_scale()
    row = torch.tensor(SCENARIOS[number].row, dtype=torch.float64)
    per_seed = -(row * log_probs).sum(-1).reshape(2, 4).mean(1)
    torch.testing.assert_close(loss, per_seed.sum(), rtol=1e-12, atol=0)
    assert set(batch.roles.tolist()) == {Role.CHOSEN}
    assert set(batch.lengths.tolist()) == {1}


def test_pairs_are_those_of_figure_1_for_every_seed() -> None:
    (batch,) = first_batches(set_up(ToyPreferenceDataModule(num_seeds=2)), 1)
    assert [responses(batch, prompt) for prompt in range(8)] == [[0, 4], [1, 6], [2, 7], [3, 5]] * 2
    assert batch.input_ids[batch.target_index].tolist() == [prompt for prompt in range(8) for _ in range(2)]
    assert batch.row_numbers.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] * 2
    assert batch.share == StepShare(prompts=4, targets=8, microbatches=1)


def test_random_rejected_responses_are_each_seeds_own() -> None:
    drawn = [rejected_responses("random", seed) for seed in range(50)]
    assert drawn == [rejected_responses("random", seed) for seed in range(50)]
    counts = Counter(response for row in drawn for response in row)
    assert set(counts) == {4, 5, 6, 7}
    assert min(counts.values()) > 30
    (batch,) = first_batches(set_up(ToyPreferenceDataModule(num_seeds=3, seed=7, rejected="random")), 1)
    rejected = batch.target_ids[batch.pairs[:, 1]].reshape(3, 4).tolist()
    assert [tuple(row) for row in rejected] == drawn[7:10]


def test_the_probe_bank_is_the_whole_distribution_in_five_classes() -> None:
    data = set_up(ToyPreferenceDataModule(num_seeds=2))
    (bank,) = data.probe_batches()
    assert bank.target_ids.reshape(8, 10).tolist() == [list(range(10))] * 8
    assert bank.kinds[10:20] == (
        *("other_chosen", "chosen", "other_chosen", "other_chosen"),
        *("other_rejected", "other_rejected", "rejected", "other_rejected"),
        *("unseen", "unseen"),
    )
    assert bank.pairs.tolist() == [
        [10 * prompt + own, 10 * prompt + bad] for prompt, (own, bad) in enumerate([(0, 4), (1, 6), (2, 7), (3, 5)] * 2)
    ]


def test_a_response_that_nobody_rejects_is_unseen() -> None:
    kinds = [completion.kind for completion in whole_row(0, 0, (4, 4, 6, 4)).completions]
    assert kinds == ["chosen", *["other_chosen"] * 3, "rejected", "unseen", "other_rejected", "unseen", "unseen", "unseen"]
    # Rejected by this prompt and by others too, it is this prompt's own.
    assert whole_row(0, 1, (4, 4, 6, 4)).completions[4].kind == "rejected"


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_every_pass_shows_every_prompt_of_every_seed_once(batch_size: int) -> None:
    plan = set_up(ToyPreferenceDataModule(num_seeds=3, batch_size=batch_size)).step_plan()
    steps = plan.steps(0)
    per_pass = 4 // batch_size
    assert len(steps) == plan.steps_per_epoch == PASSES_PER_EPOCH * per_pass
    for first in range(0, len(steps), per_pass):
        shown = [[index // 4 for index in step[0].indices] for step in steps[first : first + per_pass]]
        assert all(Counter(seeds) == {0: batch_size, 1: batch_size, 2: batch_size} for seeds in shown)
        assert sorted(index for step in steps[first : first + per_pass] for index in step[0].indices) == list(range(12))
    assert steps[0][0].share == StepShare(prompts=batch_size, targets=2 * batch_size, microbatches=1)
    assert plan.num_left_out() == 0


def test_mini_batches_come_in_another_order_each_epoch_and_for_each_seed() -> None:
    plan = set_up(ToyPreferenceDataModule(num_seeds=2, batch_size=1)).step_plan()
    orders = [[step[0].indices[seed] % 4 for step in plan.steps(epoch)] for epoch in (0, 1) for seed in (0, 1)]
    assert all(orders[i] != orders[j] for i in range(4) for j in range(i))
    # All 24 orders of a pass come up: it is the order within a pass that is drawn, not a rotation.
    assert len({tuple(order[i : i + 4]) for order in orders for i in range(0, 400, 4)}) == 24


def test_a_seeds_order_does_not_depend_on_its_neighbours() -> None:
    together = set_up(ToyPreferenceDataModule(num_seeds=3, batch_size=2, seed=5)).step_plan().steps(3)
    for number in range(3):
        alone = set_up(ToyPreferenceDataModule(num_seeds=1, batch_size=2, seed=5 + number)).step_plan().steps(3)
        own = [tuple(i - 4 * number for i in step[0].indices if i // 4 == number) for step in together]
        assert own == [step[0].indices for step in alone]


def test_a_step_can_be_cut_into_microbatches() -> None:
    plan = ToyPlan(
        set_up(ToyPreferenceDataModule(num_seeds=3)).dataset("train").lengths, num_seeds=3, batch_size=2, microbatches=4, seed=0
    )
    whole = ToyPlan(plan.lengths, num_seeds=3, batch_size=2, microbatches=1, seed=0)
    assert len(plan.steps(0)[0]) == 4
    assert [sum((part.indices for part in step), ()) for step in plan.steps(0)] == [step[0].indices for step in whole.steps(0)]
    assert plan.steps(0)[0][0].share == StepShare(prompts=2, targets=4, microbatches=4)


@pytest.mark.parametrize(("batch_size", "microbatches"), [(3, 1), (0, 1), (8, 1), (1, 4)])
def test_batches_that_do_not_fit_are_refused(batch_size: int, microbatches: int) -> None:
    lengths = set_up(ToyPreferenceDataModule(num_seeds=3)).dataset("train").lengths
    with pytest.raises(ValueError, match="expected batch_size 1, 2 or 4"):
        ToyPlan(lengths, num_seeds=3, batch_size=batch_size, microbatches=microbatches, seed=0)


def test_a_full_batch_is_packed_once_until_the_reference_comes() -> None:
    data = set_up(ToyPreferenceDataModule(num_seeds=1))
    first, second = first_batches(data, 2)
    assert first is second
    data.set_reference_logps("train", torch.arange(8.0))
    (third,) = first_batches(data, 1)
    assert third.reference_logps is not None
    assert third.reference_logps.tolist() == list(range(8))
    assert data.dataset("train")[Microbatch((2,), third.share)].target_ids.tolist() == [2, 7]
