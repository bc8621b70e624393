"""The values that a figure shows where it is pointed at are those of the rows, at the places where the curves are drawn."""

from __future__ import annotations

import re
from html import unescape
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from reports.figures.quadrants import PLOT as QUADRANTS
from reports.figures.trajectories import PLOT as TRAJECTORIES
from reports.groups import Group, grouped
from reports.plot import Plot
from reports.runs import load_run
from reports.svg import panels_svg
from tests.reports.made_up import language_rows, write_run


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Group:
    [group] = grouped([load_run(write_run(tmp_path_factory.mktemp("runs") / "made_up" / "version_0", language_rows()))])
    return group


def views(plot: Plot, group: Group) -> list[str]:
    figure = plot.draw([group])
    assert figure is not None
    return re.findall(r"<svg viewBox.*?</svg>", panels_svg(figure, "figure", "words"), re.DOTALL)


def test_a_strip_says_what_the_lines_are_at_its_step(group: Group) -> None:
    [first, *_] = views(TRAJECTORIES, group)
    titles = [unescape(title).split("; ") for title in re.findall(r"<title>(.*?)</title>", first)]
    sides = {side: group.curve(f"likelihood/bank/{side}/logp") for side in ("chosen", "rejected")}
    steps = [float(step) for step in sides["chosen"].steps]  # type: ignore[union-attr]
    assert [title[0] for title in titles] == [f"step {step:g}" for step in steps]
    for number, title in enumerate(titles):
        assert title[1:] == [f"{side} {curve.mean[number]:.4g}" for side, curve in sides.items()]  # type: ignore[union-attr]


def test_strips_cover_the_panel_around_their_steps(group: Group) -> None:
    [first, *_] = views(TRAJECTORIES, group)
    strips = [tuple(map(float, found)) for found in re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', first)]
    left, _, width, _ = map(float, re.findall(r'viewBox="([^"]+)"', first)[0].split())
    for (start, size), (after, _) in pairwise(strips):
        assert start + size == pytest.approx(after, abs=0.15)
    assert left < strips[0][0] < sum(strips[-1]) < left + width
    curve = group.curve("likelihood/bank/chosen/logp")
    # Readings are evenly spaced, and so are the strips between the two at the ends.
    assert curve is not None
    inner = [size for _, size in strips[1:-1]]
    assert np.allclose(inner, inner[0], atol=0.15) == np.allclose(np.diff(curve.steps), np.diff(curve.steps)[0])


def test_a_path_has_discs_at_its_points(group: Group) -> None:
    [path, *_] = views(QUADRANTS, group)
    chosen, rejected = (group.curve(f"likelihood/bank/{side}/change_per_token") for side in ("chosen", "rejected"))
    assert chosen is not None
    assert rejected is not None
    said = [unescape(title) for title in re.findall(r"<circle[^>]*/><title>(.*?)</title>", path)]
    assert len(said) == len(chosen.steps)
    assert all(f"({x:.3g}, {y:.3g})" in words for x, y, words in zip(chosen.mean, rejected.mean, said, strict=True))


def test_text_of_labels_is_text(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "<b>made & up" / "version_0", language_rows()))
    other = load_run(write_run(tmp_path / "other" / "version_0", language_rows()))
    figure = TRAJECTORIES.draw(grouped([run, other]))
    assert figure is not None
    drawing = panels_svg(figure, "figure", "words")
    assert "<b>made" not in drawing[drawing.index('<div class="panels"') :]
