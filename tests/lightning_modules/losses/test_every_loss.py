"""What every preference loss must do, whichever it is: a new one is tested with no edit here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import Field, FrozenInstanceError, fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from lightning_modules.losses.base import PreferenceLoss, SequenceLogps, incentives
from tests.lightning_modules.losses.cases import all_losses, extreme_logps, loss_classes, random_logps

LOSSES = all_losses()
DTYPES = [torch.float32, torch.float64]
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def test_the_walk_finds_the_losses() -> None:
    assert {"DPOLoss", "FlexDPOLoss", "BPOLoss-Exponential", "FDPOLoss-Alpha", "IPOLoss-per_token"} <= LOSSES.keys()


def fields_of(cls: type[PreferenceLoss]) -> tuple[Field[Any], ...]:
    """The contract is a plain class; that each loss is a dataclass is ours to check."""
    found: object = cls
    assert is_dataclass(found)
    return fields(found)


@pytest.mark.parametrize("cls", loss_classes(), ids=lambda cls: cls.__name__)
def test_is_a_frozen_documented_dataclass(cls: type[PreferenceLoss]) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(cls(), fields_of(cls)[0].name, 1.0)
    source = inspect.getsource(cls)
    assert "Source:" in source
    assert "Incentives" in source
    assert "Rewards:" in source
    for f in fields_of(cls):
        assert f.kw_only, f"{cls.__name__}.{f.name} can be given by position"
        owner = next(base for base in cls.__mro__ if f.name in vars(base).get("__annotations__", {}))
        _, _, after = inspect.getsource(owner).partition(f"\n    {f.name}:")
        assert after.split("\n")[1].startswith('    """'), f"{cls.__name__}.{f.name} has no docstring"


@pytest.mark.parametrize("cls", loss_classes(), ids=lambda cls: cls.__name__)
def test_is_built_from_a_config_by_class_path(cls: type[PreferenceLoss]) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(PreferenceLoss, "loss")
    given = parser.parse_object({"loss": {"class_path": f"{cls.__module__}.{cls.__name__}"}})
    # What is saved beside a run must build the same loss again.
    saved = parser.parse_string(parser.dump(given))
    assert parser.instantiate(saved).loss == cls()
    for f in fields_of(cls):
        with pytest.raises(ArgumentError, match="nonsense"):
            parser.parse_object({"loss": {"class_path": f"{cls.__module__}.{cls.__name__}", "init_args": {f.name: "nonsense"}}})


@every_loss
@pytest.mark.parametrize("dtype", DTYPES)
def test_shape_dtype_and_detached_rewards(loss: PreferenceLoss, dtype: torch.dtype) -> None:
    logps = random_logps(dtype=dtype)
    out = loss(replace(logps, policy_chosen=logps.policy_chosen.requires_grad_()))
    for tensor in out:
        assert tensor.shape == (16,)
        assert tensor.dtype == dtype
        assert torch.isfinite(tensor).all()
    assert out.losses.requires_grad
    assert not out.chosen_rewards.requires_grad
    assert not out.rejected_rewards.requires_grad


@every_loss
@pytest.mark.parametrize("dtype", DTYPES)
def test_finite_at_extreme_likelihoods(loss: PreferenceLoss, dtype: torch.dtype) -> None:
    logps = extreme_logps(dtype)
    assert all(torch.isfinite(tensor).all() for tensor in loss(logps))
    d_w, d_l = incentives(loss, logps)
    assert torch.isfinite(d_w).all()
    assert torch.isfinite(d_l).all()


@every_loss
def test_float32_agrees_with_float64(loss: PreferenceLoss) -> None:
    wide = random_logps()
    # The very same numbers in both precisions, so that only the loss's own arithmetic differs.
    narrow = _cast(wide, torch.float32)
    wide = _cast(narrow, torch.float64)
    for single, double in zip(loss(narrow), loss(wide), strict=True):
        torch.testing.assert_close(single.double(), double, rtol=2e-5, atol=2e-5)


@every_loss
def test_incentives_are_finite_differences(loss: PreferenceLoss) -> None:
    logps, step = random_logps(), 1e-5
    with _stop_gradients_held() as rewind:
        loss(logps)
        slopes = []
        for name in ("policy_chosen", "policy_rejected"):
            sides = []
            for sign in (1, -1):
                rewind()
                sides.append(loss(replace(logps, **{name: getattr(logps, name) + sign * step})).losses)
            slopes.append((sides[0] - sides[1]) / (2 * step))
    d_w, d_l = incentives(loss, logps)
    torch.testing.assert_close(-slopes[0], d_w, rtol=1e-6, atol=2e-8)
    torch.testing.assert_close(slopes[1], d_l, rtol=1e-6, atol=2e-8)


@every_loss
def test_a_pair_pulls_only_its_own_log_probs(loss: PreferenceLoss) -> None:
    logps = random_logps(pairs=4)
    for name in ("policy_chosen", "policy_rejected"):
        jacobian = torch.autograd.functional.jacobian(
            lambda side, name=name: loss(replace(logps, **{name: side})).losses, getattr(logps, name)
        )
        assert torch.equal(jacobian, jacobian.diagonal().diag())


@every_loss
def test_reference_is_read_exactly_when_declared(loss: PreferenceLoss) -> None:
    blind = replace(random_logps(), reference_chosen=None, reference_rejected=None)
    if loss.needs_reference:
        with pytest.raises(ValueError, match="expected reference log-probs"):
            loss(blind)
    else:
        assert torch.isfinite(loss(blind).losses).all()


@every_loss
@pytest.mark.parametrize("name", ["policy_rejected", "chosen_lengths", "reference_chosen"])
def test_mismatched_shapes_raise(loss: PreferenceLoss, name: str) -> None:
    logps = random_logps()
    with pytest.raises(ValueError, match=f"expected {name} of shape"):
        loss(replace(logps, **{name: getattr(logps, name)[:-1]}))


def _cast(logps: SequenceLogps, dtype: torch.dtype) -> SequenceLogps:
    floats = {name: value for name, value in vars(logps).items() if isinstance(value, Tensor)}
    cast_ones: dict[str, Any] = {name: value.to(dtype) for name, value in floats.items() if value.is_floating_point()}
    return replace(logps, **cast_ones)


@contextmanager
def _stop_gradients_held() -> Iterator[Callable[[], None]]:
    """Hold what the first call detaches, as the gradient does: later calls, each after a rewind, get the first call's values."""
    held: list[Tensor] = []
    position = 0
    recording = True

    def detach(tensor: Tensor) -> Tensor:
        nonlocal position
        if recording:
            held.append(original(tensor))
            return held[-1]
        position += 1
        return held[position - 1]

    def rewind() -> None:
        nonlocal position, recording
        recording, position = False, 0

    original = torch.Tensor.detach
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "detach", detach)
        yield rewind
