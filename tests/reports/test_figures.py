"""What is drawn equals what the rows say, for every figure."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reports.catalogue import PLOTS
from reports.groups import Group, grouped
from reports.runs import load_run
from tests.reports.made_up import STEPS, config, language_rows, reward_rows, toy_rows, write_run

BY_NAME = {plot.name: plot for plot in PLOTS}
BANK = "likelihood/bank"

DRAWN: dict[str, dict[tuple[int, int], tuple[str, Callable[[float], float] | None]]] = {
    "objective": {(0, 0): ("train/loss", None)},
    "trajectories": {
        (0, 0): (f"{BANK}/chosen/logp", None),
        (0, 1): (f"{BANK}/rejected/logp", None),
        (1, 1): (f"{BANK}/rejected/change_per_token", None),
        (2, 0): (f"{BANK}/other_chosen/change_per_token", None),
    },
    "drop": {(0, 0): (f"{BANK}/drop_share", None), (1, 0): (f"{BANK}/drop_gap", None)},
    "gradient_asymmetry": {
        (0, 0): ("softmax_grad/chosen/norm", None),
        (0, 1): ("softmax_grad/rejected/norm", None),
        (2, 1): ("softmax_grad/asymmetry_per_token", None),
    },
    "dispersion": {(0, 0): ("dispersion/bank/probes/index_per_token", None), (1, 0): ("dispersion/bank/off_pair_mass", None)},
    "band": {(0, 0): ("head/band_violated", None), (1, 1): ("head/incentive_ratio", lambda ratio: 1 / ratio)},
    "mass": {(0, 1): ("mass/rejected/moved", None), (1, 0): ("mass/chosen/to_argmax", None)},
    "figure_2": {
        (0, 0): (f"{BANK}/chosen/logp_per_token", math.exp),
        (1, 1): ("softmax_grad/rejected/log_pi_gradient", lambda nats: nats / math.log(10)),
        (2, 1): (f"{BANK}/rejected/logp", lambda nats: nats / math.log(10)),
    },
    "figure_3": {(0, 1): (f"{BANK}/rejected/logp_per_token", math.exp)},
    "reward": {
        (0, 1): ("objective/rlhf_reward", None),
        (1, 0): ("objective/kl", None),
        (2, 0): ("policy/entropy", None),
        (3, 0): ("lazy_likelihood/lift", None),
    },
    "figure_6": {(0, 1): ("softmax_grad/rejected/log_pi_gradient", None), (2, 0): ("softmax_grad/corollary1_from_reference", None)},
}


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> list[Group]:
    folder = tmp_path_factory.mktemp("runs") / "made_up" / "version_0"
    return grouped([load_run(write_run(folder, language_rows()))])


@pytest.fixture(scope="module")
def rewarded(tmp_path_factory: pytest.TempPathFactory) -> list[Group]:
    return grouped([load_run(write_run(tmp_path_factory.mktemp("runs") / "rewarded" / "version_0", reward_rows()))])


def drawn(name: str, groups: list[Group]) -> Figure:
    figure = BY_NAME[name].draw(groups)
    assert figure is not None
    return figure


@pytest.mark.parametrize("name", DRAWN)
def test_lines_are_the_rows(name: str, groups: list[Group], rewarded: list[Group]) -> None:
    shown_groups = rewarded if name == "reward" else groups
    figure, tracks = drawn(name, shown_groups), shown_groups[0].runs[0].tracks
    for (panel, line), (metric, transform) in DRAWN[name].items():
        steps, values = zip(*tracks[metric], strict=True)
        shown = figure.axes[panel].lines[line]
        assert np.asarray(shown.get_xdata()).tolist() == list(steps)
        assert np.asarray(shown.get_ydata()) == pytest.approx([transform(v) if transform else v for v in values])


def test_the_expectations_cover_every_figure_of_curves() -> None:
    assert {*DRAWN, "task_accuracy", "quadrants", "ledger"} == set(BY_NAME)


def test_the_path_through_the_quadrants_and_the_shares_at_its_end(groups: list[Group]) -> None:
    path, shares = drawn("quadrants", groups).axes
    line, tracks = path.lines[0], groups[0].runs[0].tracks
    for values, side in ((line.get_xdata(), "chosen"), (line.get_ydata(), "rejected")):
        assert np.asarray(values).tolist() == [value for _, value in tracks[f"{BANK}/{side}/change_per_token"]]
    bars = [patch.get_width() for patch in shares.patches if isinstance(patch, Rectangle)]
    assert bars == [0.5, 0.25, 0.125, 0.125]


def test_the_ledger_stacks_to_one(tmp_path: Path) -> None:
    toy = grouped([load_run(write_run(tmp_path / "toy" / "version_0", toy_rows()))])
    (axes,) = drawn("ledger", toy).axes
    areas = [area for area in axes.collections if isinstance(area, PolyCollection)]
    tops = [float(np.asarray(area.get_paths()[0].vertices)[:, 1].max()) for area in areas]
    # Means over the two seeds, one on the other.
    assert tops == pytest.approx([0.2, 0.4, 0.55, 0.8, 1.0])
    panel = drawn("figure_3", toy).axes[0]
    assert np.asarray(panel.lines[0].get_ydata()).tolist() == [0.2] * len(STEPS)
    band = panel.collections[0].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == pytest.approx((0.1, 0.3))


def test_two_settings_share_a_panel_and_have_their_colours(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "made_up" / f"version_{n}", language_rows(n), config(n, lr)) for n, lr in enumerate((1e-5, 3e-5))
    ]
    both = grouped([load_run(folder) for folder in folders])
    first, second = drawn("trajectories", both).axes[0].lines[:2]
    assert np.asarray(second.get_ydata()) - np.asarray(first.get_ydata()) == pytest.approx([1.0] * len(STEPS))
    assert first.get_color() != second.get_color()
    assert first.get_linestyle() == second.get_linestyle()


def test_the_one_setting_with_pairs_is_named_beside_others(tmp_path: Path) -> None:
    with_pairs, without = language_rows(0), language_rows(1)
    del without["degradation"]
    folders = [
        write_run(tmp_path / "made_up" / f"version_{n}", rows, config(n, lr))
        for n, (rows, lr) in enumerate(((with_pairs, 1e-5), (without, 3e-5)))
    ]
    both = grouped([load_run(folder) for folder in folders])
    shares = drawn("quadrants", both).axes[-1]
    assert [label.get_text() for label in shares.get_yticklabels()] == [both[0].label]


def test_what_nobody_measured_is_no_figure(tmp_path: Path) -> None:
    bare = grouped([load_run(write_run(tmp_path / "bare" / "version_0", {}))])
    assert [plot.name for plot in PLOTS if plot.draw(bare) is not None] == ["objective"]
