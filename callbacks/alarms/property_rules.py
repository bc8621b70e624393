"""Rules that say when a run shows the paper's three properties together with harm, and what to do about it.

A fall of the chosen likelihood alone is in no rule: in the paper it falls in the best scenario (Table 7). What the thresholds
were chosen on, and how often the rules are right: docs/results/alarm.
"""

from __future__ import annotations

from callbacks.alarms.conditions import Condition
from callbacks.alarms.rules import AlarmRule

_CHOSEN = "likelihood/bank/chosen/change_per_token"
_REJECTED = "likelihood/bank/rejected/change_per_token"
_OTHERS = "likelihood/bank/other_chosen/change_per_token"
_OFF_DATA = "dispersion/bank/off_data_mass"
_OFF_PAIR = "dispersion/bank/off_pair_mass"

_BETA = "beta_rejected = {beta_rejected:.3g} would centre the band (beta_chosen = {beta_chosen:.3g}): FlexDPOLoss, or AdaptiveBeta."
_BAND = "The disentanglement band is violated for {head/band_violated:.0%} of the pairs."

PROPERTY_RULES = (
    # The push on rejected reaches text that it has nothing to do with, while the chosen side gains little by it.
    AlarmRule(
        property="drastic_drop",
        conditions=(
            Condition(metric=_REJECTED, below=-0.015, window=1),
            Condition(metric=_OTHERS, of="change", below=-0.04, window=1),
            Condition(metric=_CHOSEN, below=0.065, window=1),
        ),
        says=(
            "From step {since} the fall of the rejected completions takes other text along: rejected "
            "{likelihood/bank/rejected/change_per_token:+.3f} nats per token, other prompts' chosen ones "
            "{likelihood/bank/other_chosen/change_per_token:+.3f}, chosen {likelihood/bank/chosen/change_per_token:+.3f}.",
            _BETA,
            "{likelihood_term}, lower the learning rate, or push rejected less (a smaller beta_rejected).",
        ),
        patience=1,
    ),
    # The training pairs' chosen side falls while mass leaves everything that is known for the prompts.
    AlarmRule(
        property="suppression",
        conditions=(
            Condition(metric="likelihood/chosen/change_per_token", below=-0.008, window=4),
            Condition(metric=_OFF_DATA, of="growth", above=0.05, window=1),
        ),
        says=(
            "From step {since} the margin grows only by suppression: chosen "
            "{likelihood/chosen/change_per_token:+.3f} nats per token, and what the pair loses goes to responses nobody gave.",
            "Drop share {likelihood/bank/drop_share:.2f} (above 1: chosen fell too).",
            _BAND,
            _BETA,
            "{likelihood_term}, lower beta_rejected or the learning rate.",
        ),
        patience=1,
    ),
    # The chosen side rose and falls again: the paper's toy, Fig. 3.
    AlarmRule(
        property="suppression",
        conditions=(
            Condition(metric=_CHOSEN, of="drift", below=-0.03, window=2),
            Condition(metric="likelihood/bank/drop_gap", of="drift", below=0.0, window=2),
        ),
        says=(
            "From step {since} the chosen completions lose what they had gained, while the margin still grows: chosen "
            "{likelihood/bank/chosen/change_per_token:+.3f} nats per token since the start, and falling.",
            "Drop share {likelihood/bank/drop_share:.2f} (above 1: chosen fell too).",
            _BAND,
            _BETA,
            "{likelihood_term}, lower beta_rejected, or stop here.",
        ),
        patience=1,
    ),
    AlarmRule(
        property="dispersion",
        conditions=(Condition(metric=_OFF_DATA, of="growth", above=0.08, window=1),),
        says=(
            "From step {since} probability leaves everything that is known for the prompts: off-data mass "
            "{dispersion/bank/off_data_mass:.3f} a token, and more than at the start.",
            _BETA,
            "{likelihood_term}, lower the learning rate, or take on-policy pairs (scenario 1).",
        ),
        patience=2,
    ),
    AlarmRule(
        property="dispersion",
        conditions=(Condition(metric=_OFF_PAIR, of="drift", above=0.01, window=2),),
        says=(
            "From step {since} probability leaves both sides of the pairs: {dispersion/bank/off_pair_mass:.3f} is on neither "
            "where they part, and rising.",
            _BETA,
            "{likelihood_term}, lower the learning rate, or stop here.",
        ),
        patience=1,
    ),
)
"""The rules, in the order in which they speak."""
