"""What was read off the paper's plots of its toy, to about 0.005 and 20 epochs."""

from __future__ import annotations

from dataclasses import dataclass

UNDERFLOW = 2.0**-150
"""Half the smallest float32: below it a probability is exactly 0 there."""

NEARLY_ZERO = 0.005
"""A smaller value cannot be told from 0 in the paper's plots."""


@dataclass(frozen=True)
class PaperCurves:
    """One scenario of the paper's Fig. 3."""

    chosen_peak: float
    chosen_peak_at: int
    min_peak: float
    min_peak_at: int
    chosen_end: float
    min_end: float
    rejected_gone_by: int
    unseen: tuple[float, float, float]
    """Start, minimum, end of the curve the paper calls unseen."""


PAPER = {
    1: PaperCurves(0.585, 1000, 0.47, 970, 0.348, 0.165, 450, (0.095, 0.052, 0.0815)),
    2: PaperCurves(0.489, 590, 0.417, 600, 0.185, 0.026, 400, (0.107, 0.064, 0.163)),
    3: PaperCurves(0.490, 940, 0.457, 840, 0.156, 0.034, 250, (0.107, 0.064, 0.169)),
    4: PaperCurves(0.401, 660, 0.243, 520, 0.116, 0.070, 250, (0.120, 0.075, 0.177)),
}

PAPER_S1_CHOSEN = {0: 0.12, 250: 0.28, 500: 0.415, 750: 0.495, 1000: 0.585, 1250: 0.548, 1500: 0.52, 2000: 0.348}
"""More readings of scenario 1: mean chosen probability by epoch."""

PAPER_GRADIENTS = {
    "chosen": {0: -0.33, 500: -1.9},
    "rejected": {0: -0.33, 200: 6.5, 300: 16.7, 400: 30.4, 500: 46.5},
}
"""Fig. 2 middle: log10 of the gradient in pi of each side, by epoch. Its scenario is not stated."""

PAPER_MATRIX = ((0.17, 0.26, 0.22, 0.35), (0.01, 0.65, 0.12, 0.21), (0.01, 0.19, 0.72, 0.08), (0.03, 0.35, 0.20, 0.42))
"""Fig. 1, lower right: probability of the four chosen responses (columns) for each prompt, scenario 1, 500 epochs; others are 0."""
