"""Good answers that steps no longer lift: said of a run that only pushes, not of GRPO, nor where what fell is lifted (LLDS)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from torch import Tensor
from torch.optim import SGD
from typing_extensions import override

from callbacks.alarms.property_alarm import PropertyAlarm
from callbacks.diagnostics.lazy_likelihood import LazyLikelihood, lift
from lightning_modules.ppo.aggregation import CompletionMean
from lightning_modules.ppo.estimators import GRPO, Evidence
from lightning_modules.ppo.kl_penalty import KLPenalty
from lightning_modules.ppo.settings import PPOSettings
from run_folder.rows import read_rows
from tests.lightning_modules.ppo import rig

pytestmark = [
    pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`"),
    pytest.mark.filterwarnings("ignore:Rollout"),
]


@dataclass(frozen=True)
class Pushed(GRPO):
    """Bad answers are pushed down and good ones teach nothing."""

    @override
    def __call__(self, evidence: Evidence) -> tuple[Tensor, Tensor | None]:
        advantages, _ = super().__call__(evidence)
        return advantages.clamp_max(0), None


@pytest.mark.parametrize(
    ("estimator", "preservation", "shows"),
    [(GRPO(), 0.0, False), (Pushed(), 0.0, True), (Pushed(), 5.0, False)],
    ids=["grpo", "pushed", "pushed_and_preserved"],
)
def test_it_is_said_where_good_answers_stay_behind(
    estimator: GRPO, preservation: float, shows: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = PPOSettings(
        num_epochs=3, num_minibatches=1, whiten_advantages=False, aggregation=CompletionMean(), preservation=preservation
    )
    ppo = rig.module(advantages=estimator, settings=settings, kl=KLPenalty(0.0), optimizer=partial(SGD, lr=0.5))
    trainer = rig.fit(tmp_path, ppo, callbacks=[LazyLikelihood(1), PropertyAlarm()], max_steps=12)
    folder = Path(trainer.log_dir or "")
    verdict = read_rows(folder, "judged")[-1]["verdicts"]["lazy_likelihood"]
    assert verdict.startswith("shows from step") if shows else verdict == "no sign"
    said = [row for row in read_rows(folder, "alarms") if row["property"] == "lazy_likelihood"]
    assert [row["level"] for row in said] == ["notice"] * shows
    assert ("no longer lift good ones" in " ".join(capsys.readouterr().out.split())) == shows
    for row in read_rows(folder, "lazy_likelihood"):
        above, below = (row.get(f"lazy_likelihood/sample_{side}/gain_per_token") for side in ("above", "below"))
        # A rollout whose answers all score alike has neither, or a step moves nothing.
        expected = None if above is None or below is None else lift(above, below)
        assert row.get("lazy_likelihood/lift") == (None if expected is None else pytest.approx(expected, rel=1e-5))


@pytest.mark.parametrize(
    ("good", "bad", "expected"), [(0.2, -0.2, 0.5), (0.0, -0.3, 0.0), (-0.1, -0.3, -0.25), (0.1, 0.2, None), (0.0, 0.0, None)]
)
def test_lift_by_hand(good: float, bad: float, expected: float | None) -> None:
    assert lift(good, bad) == (None if expected is None else pytest.approx(expected))
