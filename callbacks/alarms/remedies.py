"""Numbers and clauses that an alarm's advice needs beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_modules.losses.base import Loss
from lightning_modules.ppo.kl_penalty import KLPenalty

CENTRE = "head/centre"
"""Geometric mean over pairs of ||s_w|| / ||s_l||, as DisentanglementMonitor writes it."""


def centred_beta(latest: Mapping[str, float], loss: object) -> dict[str, float]:
    """The beta_rejected that centres the disentanglement band: beta_chosen ||s_w|| / ||s_l|| (docs/derivations.md 5.5).

    Args:
        latest: last readings by metric.
        loss: the objective; it needs `beta_chosen` or `beta`.

    Returns:
        `{beta_chosen, beta_rejected}`, per nat, or nothing.
    """
    beta = getattr(loss, "beta_chosen", getattr(loss, "beta", None))
    if beta is None or CENTRE not in latest:
        return {}
    return {"beta_chosen": float(beta), "beta_rejected": float(beta) * latest[CENTRE]}


def likelihood_term(loss: object) -> str:
    """The advice to hold the likelihoods in place, which depends on the terms that the objective has already.

    Args:
        loss: the objective; of PPO its `KLPenalty`, which is what holds the likelihoods there.
    """
    if isinstance(loss, KLPenalty):
        return f"Raise the KL coefficient (now {loss.coefficient:g})"
    return loss.likelihood_remedy() if isinstance(loss, Loss) else "Add a likelihood term (SFTDPOLoss)"


def advice(latest: Mapping[str, float], loss: object) -> dict[str, float | str]:
    """What the sentences of `PROPERTY_RULES` may name, by name."""
    return {**centred_beta(latest, loss), "likelihood_term": likelihood_term(loss)}
