"""Figure of the objective as the field reads it: loss, margin, accuracies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from matplotlib.figure import Figure

from reports.groups import Group
from reports.missing import has_no_pair_incentives, is_reinforced
from reports.panels import Panel, draw_panels, line
from reports.plot import Plot

# `trainer/` is what another trainer logged of its own steps.
_OF_PAIRS = ("train/rewards/margins", "val/rewards/margins", "trainer/rewards/margins", "reward/margin")
LOSS = Panel("Loss", "nats", (line("train", "train/loss", "trainer/loss"), line("val", "val/loss", "test/loss")))
PANELS = (
    LOSS,
    Panel(
        "Margin of the rewards",
        "reward",
        (line("train", "train/rewards/margins", "trainer/rewards/margins"), line("val", "val/rewards/margins")),
        level=0,
    ),
    Panel(
        "Pairs in the right order",
        "share",
        (
            line("by reward", "train/rewards/accuracies", "trainer/rewards/accuracies"),
            line("by likelihood", "degradation/ranking_accuracy"),
        ),
        level=0.5,
    ),
)


def draw(groups: Sequence[Group]) -> Figure | None:
    """Loss, reward margin, accuracies, of runs whose loss is no reward: `reports.figures.reward` is about the others."""
    # Empty groups keep the places of the others, and so their colours.
    own = [Group(group.label, ()) if is_reinforced(group) else group for group in groups]
    panels = tuple(replace(panel, level=math.log(2)) if panel is LOSS and _is_of_pairs(own) else panel for panel in PANELS)
    return draw_panels(own, panels)


def _is_of_pairs(groups: Sequence[Group]) -> bool:
    """Whether any loss tells two answers apart, so that it is log 2 where it cannot."""
    return any(name in _OF_PAIRS for group in groups for name in group.metrics()) and not all(map(has_no_pair_incentives, groups))


PLOT = Plot(
    name="objective",
    title="What the objective says",
    meaning=(
        "A falling loss and a growing margin show that the pairs are told apart, but not which side moved. "
        "Thin lines are where DPO starts: of losses of pairs log 2, margin 0, accuracy 1/2."
    ),
    needs=("train/loss", "val/loss", "test/loss"),
    callback="lightning.pytorch.loggers.TensorBoardLogger",
    draw=draw,
    has_none=is_reinforced,
    reads="losses that answers of the data make",
)
