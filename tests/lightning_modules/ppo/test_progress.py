"""The price of KL that a resumed run goes on with."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from lightning_modules.ppo.kl_penalty import KLPenalty
from lightning_modules.ppo.progress import Progress


def resumed(state: dict[str, Any], kl: KLPenalty) -> float:
    progress = Progress(kl)
    progress.load_state_dict(state)
    return progress.coefficient


def saved(kl: KLPenalty, coefficient: float) -> dict[str, Any]:
    progress = Progress(kl)
    progress.coefficient = coefficient
    return progress.state_dict()


def test_a_price_that_the_config_has_changed_since_holds_from_the_next_rollout_on() -> None:
    with pytest.warns(UserWarning, match=r"from the next rollout on a nat of KL costs 0\.4 instead of 0\.1"):
        assert resumed(saved(KLPenalty(0.1), 0.1), KLPenalty(0.4)) == 0.4
    with pytest.warns(UserWarning, match=r"costs 0\.4 instead of 0\.25"):
        assert resumed(saved(KLPenalty(0.1, target=6.0), 0.25), KLPenalty(0.4, target=6.0)) == 0.4
    # A checkpoint of an earlier version does not say what was set; without a target it has not moved.
    old = {key: value for key, value in saved(KLPenalty(0.1), 0.1).items() if key != "configured"}
    with pytest.warns(UserWarning, match=r"costs 0\.4 instead of 0\.1"):
        assert resumed(old, KLPenalty(0.4)) == 0.4


def test_the_same_config_goes_on_with_the_price_that_it_had_come_to() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resumed(saved(KLPenalty(0.1, target=6.0), 0.25), KLPenalty(0.1, target=6.0)) == 0.25
        assert resumed(saved(KLPenalty(0.1), 0.1), KLPenalty(0.1)) == 0.1
