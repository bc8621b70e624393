"""Learning rates step by step, against values worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter
from torch.optim import SGD

from lightning_modules.optimization.schedules import ConstantSchedule, CosineSchedule, LinearSchedule, WarmupSchedule


def optimizer(lr: float = 8.0) -> SGD:
    return SGD([Parameter(torch.zeros(1))], lr=lr)


def rates(schedule: WarmupSchedule, num_steps: int) -> list[float]:
    """Learning rate of each optimizer step."""
    used = []
    for _ in range(num_steps):
        used.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return used


def test_constant_after_the_warm_up() -> None:
    assert rates(ConstantSchedule(optimizer(), num_warmup_steps=3), 6) == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]


def test_constant_without_warm_up_is_the_optimizers_own_rate() -> None:
    assert rates(ConstantSchedule(optimizer()), 3) == [8.0, 8.0, 8.0]


def test_linear_falls_to_the_final_fraction_and_stays() -> None:
    schedule = LinearSchedule(optimizer(), num_steps=5, num_warmup_steps=1, final_fraction=0.25)
    # 8 (0.25 + 0.75 (1 - k/4)) for k = 0..4, after one step of warm-up at half the rate.
    assert rates(schedule, 8) == [4.0, 8.0, 6.5, 5.0, 3.5, 2.0, 2.0, 2.0]


def test_cosine_passes_its_quarter_points() -> None:
    half_root = 2**0.5 / 2
    expected = [8.0, 4 * (1 + half_root), 4.0, 4 * (1 - half_root), 0.0, 0.0]
    assert rates(CosineSchedule(optimizer(), num_steps=4), 6) == pytest.approx(expected, abs=1e-12)


def test_every_parameter_group_keeps_its_own_rate() -> None:
    groups = [{"params": [Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 10.0)]
    schedule = ConstantSchedule(SGD(groups), num_warmup_steps=1)
    assert [group["lr"] for group in schedule.optimizer.param_groups] == [0.5, 5.0]


def test_a_restored_schedule_goes_on_where_it_stopped() -> None:
    whole = rates(CosineSchedule(optimizer(), num_steps=9, num_warmup_steps=2), 9)
    first = CosineSchedule(optimizer(), num_steps=9, num_warmup_steps=2)
    rates(first, 4)
    second = CosineSchedule(optimizer(), num_steps=9, num_warmup_steps=2)
    second.load_state_dict(first.state_dict())
    assert rates(second, 5) == whole[4:]


def test_a_restored_schedule_follows_the_config_and_not_the_checkpoint() -> None:
    first = LinearSchedule(optimizer(8.0), num_steps=8)
    rates(first, 4)
    second_optimizer = optimizer(2.0)
    second = LinearSchedule(second_optimizer, num_steps=16)
    # What restoring does: the optimizer first, with the learning rate of the checkpoint.
    second_optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    # 2 (1 - k/16) at k = 4, 5.
    assert rates(second, 2) == [1.5, 1.375]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 4, "num_warmup_steps": 4}, "num_steps > num_warmup_steps"),
        ({"num_steps": 4, "num_warmup_steps": -1}, "num_warmup_steps >= 0"),
        ({"num_steps": 4, "final_fraction": 1.5}, "final_fraction in"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearSchedule(optimizer(), **arguments)  # type: ignore[arg-type]
