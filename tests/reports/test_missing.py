"""Figures by kind of objective: what is drawn of it, what is left out, and what is said of the rest."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports.catalogue import PLOTS
from reports.groups import Group, grouped
from reports.page import report_page
from reports.runs import Run, load_run
from reports.style import BLUE, VERMILION
from tests.reports.made_up import STEPS, config, language_rows, reward_rows, write_run

BY_NAME = {plot.name: plot for plot in PLOTS}
BAND = "callbacks.diagnostics.disentanglement.DisentanglementMonitor"
GRADIENT = "callbacks.diagnostics.softmax_gradient.SoftmaxGradientMonitor"


def run_of(tmp_path: Path, name: str, rows: dict[str, list[dict[str, Any]]], *callbacks: str) -> Run:
    own = config()
    own["trainer"]["callbacks"] = [{"class_path": callback} for callback in callbacks]
    own["trainer"]["logger"]["init_args"]["name"] = name
    own["model"]["name"] = name
    return load_run(write_run(tmp_path / name / "version_0", rows, own))


def gradient_rows(*metrics: str) -> dict[str, list[dict[str, Any]]]:
    """A monitor that wrote these, and margins, as losses of the data's answers have them."""
    names = [*(f"softmax_grad/{name}" for name in metrics), "train/rewards/margins"]
    return {"softmax_grad": [{"step": step, **dict.fromkeys(names, 0.5)} for step in STEPS]}


TOKENS = ("chosen/norm", "rejected/norm", "chosen/incentive", "rejected/incentive")
PAIRS = (*TOKENS, "chosen/log_pi_gradient", "rejected/log_pi_gradient")
GROUPS = (*PAIRS, "ranked/norm", "ranked/incentive")


def levels(group: Group) -> list[float]:
    """Heights of the thin lines over the loss."""
    figure = BY_NAME["objective"].draw([group])
    assert figure is not None
    return [float(np.asarray(line.get_ydata())[0]) for line in figure.axes[0].lines if line.get_linewidth() < 1]


def test_a_rewarded_run_shows_its_samples_in_place_of_the_sides(tmp_path: Path) -> None:
    run = run_of(tmp_path, "grpo", reward_rows(), GRADIENT)
    figure = BY_NAME["gradient_asymmetry"].draw(grouped([run]))
    assert figure is not None
    above, below = figure.axes[0].lines
    assert (above.get_color(), below.get_color()) == (BLUE, VERMILION)
    assert np.asarray(below.get_ydata()) == pytest.approx([value for _, value in run.tracks["softmax_grad/sample_below/norm"]])


def test_a_rewarded_page_asks_for_nothing_that_no_callback_would_write(tmp_path: Path) -> None:
    page = report_page([run_of(tmp_path, "grpo", reward_rows(), GRADIENT)])
    assert '<section id="reward">' in page
    for name in ("objective", "band", "figure_6", "tokens", "data"):
        assert f'<section id="{name}">' not in page
        assert f'href="#{name}"' not in page
    for callback in (GRADIENT, BAND, "callbacks.output.token_heatmap.TokenHeatmap", "callbacks.output.data_doctor.DataDoctor"):
        assert f"callbacks+={callback}" not in page
    assert "loss, training (nats)" not in page
    assert "KL to the reference, nats per completion" in page
    # Its bank of pairs it could watch.
    assert "callbacks+=callbacks.diagnostics.likelihood.LikelihoodMonitor" in page


@pytest.mark.parametrize(
    ("metrics", "has_band", "has_slopes", "expected"),
    [(PAIRS, True, True, [math.log(2)]), (GROUPS, False, True, []), (TOKENS, False, False, [])],
    ids=["pairs", "groups", "tokens"],
)
def test_the_band_and_log_2_are_of_pairs(
    metrics: tuple[str, ...], has_band: bool, has_slopes: bool, expected: list[float], tmp_path: Path
) -> None:
    run = run_of(tmp_path, "losses", gradient_rows(*metrics), GRADIENT)
    page = report_page([run])
    assert (f"callbacks+={BAND}" in page) == has_band
    assert ('<section id="figure_6">' in page) == has_slopes
    assert levels(grouped([run])[0]) == pytest.approx(expected)


def test_sft_has_no_log_2(tmp_path: Path) -> None:
    assert levels(grouped([run_of(tmp_path, "sft", {})])[0]) == []


def test_a_callback_that_is_on_is_not_asked_for(tmp_path: Path) -> None:
    # Pairs, and the monitor is on, but no step was due.
    page = report_page([run_of(tmp_path, "short", gradient_rows(*PAIRS), GRADIENT, BAND)])
    assert f"callbacks+={BAND}" not in page
    assert "DisentanglementMonitor is on and has written none of it." in page


def test_beside_a_run_of_pairs_the_rewarded_one_is_told_apart(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, "dpo", language_rows(), GRADIENT, BAND), run_of(tmp_path, "grpo", reward_rows(), GRADIENT)]
    page = report_page(runs)
    groups = {group.label: group for group in grouped(runs)}
    assert len(groups) == 2
    assert "grpo: nothing to measure, since it is about losses of the two likelihoods of a pair." in page
    assert "dpo: nothing to measure, since it is about rewards of what the policy samples." in page
    objective = BY_NAME["objective"].draw([*groups.values()])
    assert objective is not None
    curves = [line for line in objective.axes[0].lines if line.get_linewidth() > 1]
    assert len(curves) == 1, "the rewarded run's loss is no loss of pairs"
