"""Figure of the objective as the field reads it: loss, margin, accuracies."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from reports.groups import Group
from reports.panels import Panel, draw_panels, line
from reports.plot import Plot

# `trainer/` is what another trainer logged of its own steps.
PANELS = (
    Panel("Loss", "nats", (line("train", "train/loss", "trainer/loss"), line("val", "val/loss", "test/loss")), level=math.log(2)),
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
    """Loss, reward margin, accuracies."""
    return draw_panels(groups, PANELS)


PLOT = Plot(
    name="objective",
    title="What the objective says",
    meaning=(
        "A falling loss and a growing margin show that the pairs are told apart, but not which side moved. "
        "The thin lines are where DPO starts: loss log 2, margin 0, accuracy 1/2."
    ),
    needs=("train/loss", "val/loss", "test/loss"),
    callback="lightning.pytorch.loggers.TensorBoardLogger",
    draw=draw,
)
