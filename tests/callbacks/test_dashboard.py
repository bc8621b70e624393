"""Every chart of the dashboard finds the metrics it is made for."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch.optim import SGD

from callbacks.alarms.property_alarm import PropertyAlarm
from callbacks.answers.samples import SampleLogger
from callbacks.diagnostics.degradation import DegradationMonitor
from callbacks.diagnostics.disentanglement import DisentanglementMonitor
from callbacks.diagnostics.dispersion import DispersionMonitor
from callbacks.diagnostics.likelihood import LikelihoodMonitor
from callbacks.diagnostics.mass_gains import MassMonitor
from callbacks.diagnostics.softmax_gradient import SoftmaxGradientMonitor
from callbacks.output.dashboard import LAYOUT, PropertyDashboard
from datamodules.contracts.prompts import Sampling
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.preference import PreferenceModule
from run_folder.tensorboard import is_shown
from tests.callbacks.rig import ProbedPairs, events, fit
from tests.lightning_modules.stubs import TINY, make_pairs

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


OF_OTHER_RUNS = ("task/accuracy", "val/accuracy", "val/rewards/accuracies", "objective/kl")


def test_every_chart_finds_metrics_and_an_overview_comes_first(tmp_path: Path) -> None:
    monitors: list[Any] = [
        LikelihoodMonitor(1, 1),
        SoftmaxGradientMonitor(1, 1),
        DegradationMonitor(1, 1),
        DisentanglementMonitor(1),
        DispersionMonitor(1, 1),
        MassMonitor(1),
        PropertyAlarm(),
        SampleLogger(2, sampling=Sampling(max_new_tokens=4)),
    ]
    module = PreferenceModule(TINY, DPOLoss(beta=0.5), partial(SGD, lr=0.3), cache_dir=str(tmp_path / "cache"))
    data = ProbedPairs(make_pairs(5), [[0, 1, 2], [3, 4], [0, 1]], 1)
    seen = events(fit(module, [*monitors, PropertyDashboard()], tmp_path, data=data)).Tags()
    shown = [tag for tag in seen["scalars"] if is_shown(tag)]
    assert [row.split(" ", 1)[-1] for row in LAYOUT] == ["Overview", "Drastic drop", "Degradation", "Dispersion"]
    for row, charts in LAYOUT.items():
        for chart, (_, patterns) in charts.items():
            found = {pattern: [tag for tag in shown if re.search(pattern, tag)] for pattern in patterns}
            assert all(found[pattern] or pattern.strip("^$") in OF_OTHER_RUNS for pattern in patterns), (chart, found)
            assert row != "Overview" or 1 <= sum(map(len, found.values())) <= 4, (chart, found)
    assert "custom_scalars__config__" in seen["tensors"]
