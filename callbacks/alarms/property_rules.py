"""When a run shows the paper's three properties together with harm, and what to do about it."""

from __future__ import annotations

from callbacks.alarms.conditions import Condition
from callbacks.alarms.rules import AlarmRule

_BANK = "likelihood/bank"

PROPERTY_RULES = (
    AlarmRule(
        property="suppression",
        conditions=(
            Condition(metric=f"{_BANK}/drop_share", above=1.0),
            Condition(metric=f"{_BANK}/chosen/change_per_token", below=-0.01),
        ),
        says=(
            "From step {since} the margin grows only by suppression: drop share {likelihood/bank/drop_share:.2f}, chosen "
            "{likelihood/bank/chosen/change_per_token:+.3f} nats per token since the start.",
            "The disentanglement band is violated for {head/band_violated:.0%} of the pairs.",
            "beta_rejected = {beta_rejected:.3g} would centre it (beta_chosen = {beta_chosen:.3g}): FlexDPOLoss, AdaptiveBeta.",
            "Otherwise lower the learning rate or add a likelihood term (SFTDPOLoss).",
        ),
    ),
)
