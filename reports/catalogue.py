"""All figures, in the order of the page."""

from __future__ import annotations

from reports.figures import (
    band,
    dispersion,
    drop,
    figure_2,
    figure_3,
    figure_6,
    gradient_asymmetry,
    ledger,
    mass,
    objective,
    quadrants,
    reward,
    task_accuracy,
    trajectories,
)

PLOTS = (
    objective.PLOT,
    reward.PLOT,
    task_accuracy.PLOT,
    trajectories.PLOT,
    drop.PLOT,
    gradient_asymmetry.PLOT,
    quadrants.PLOT,
    band.PLOT,
    dispersion.PLOT,
    mass.PLOT,
    ledger.PLOT,
    figure_2.PLOT,
    figure_3.PLOT,
    figure_6.PLOT,
)
