"""Figure of runs that maximise a reward: score, distance from the reference, entropy, and whether good answers rise."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from reports.groups import Group
from reports.missing import is_reinforced
from reports.panels import Panel, draw_panels, line
from reports.plot import Plot

PANELS = (
    Panel("Reward", "reward", (line("score", "objective/scores"), line("less the penalty", "objective/rlhf_reward"))),
    Panel("KL to the reference", "nats per completion", (line("sampled", "objective/kl"),), level=0),
    Panel("Entropy of the next token", "nats", (line("entropy", "policy/entropy"),)),
    Panel("Rise of good answers", "share of what a step moves", (line("lift", "lazy_likelihood/lift"),), level=0),
)


def draw(groups: Sequence[Group]) -> Figure | None:
    """Reward, KL, entropy, lift."""
    return draw_panels(groups, PANELS, columns=2)


PLOT = Plot(
    name="reward",
    title="What the reward says",
    meaning=(
        "The score of what the policy samples should rise, with little KL for it. If the entropy nears 0, nothing new is tried. "
        "If the rise of good answers falls to 0, steps only push bad answers down."
    ),
    needs=("objective/scores",),
    callback="lightning.pytorch.loggers.TensorBoardLogger",
    draw=draw,
    is_optional=True,
    has_none=lambda group: not is_reinforced(group),
    reads="rewards of what the policy samples",
)
