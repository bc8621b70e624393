"""Numbers that an alarm's advice needs beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping

CENTRE = "head/centre"
"""Geometric mean over pairs of ||s_w|| / ||s_l||, as DisentanglementMonitor writes it."""


def centred_beta(latest: Mapping[str, float], loss: object) -> dict[str, float]:
    """The beta_rejected that centres the disentanglement band: beta_chosen ||s_w|| / ||s_l|| (paper.md 7, D2.4).

    Args:
        latest: last readings by metric.
        loss: the objective; where it has neither `beta_chosen` nor `beta`, there is nothing to say.

    Returns:
        `{beta_chosen, beta_rejected}`, per nat, or nothing.
    """
    beta = getattr(loss, "beta_chosen", getattr(loss, "beta", None))
    if beta is None or CENTRE not in latest:
        return {}
    return {"beta_chosen": float(beta), "beta_rejected": float(beta) * latest[CENTRE]}
