"""The shipped notices: rules that say that a property shows and how large it is, without a claim of harm."""

from __future__ import annotations

from callbacks.alarms.conditions import Condition
from callbacks.alarms.rules import AlarmRule

PREFIX = "harm"
"""Of the features of `callbacks.alarms.features`, where rules name them: `harm/others_fall`."""
KL_RATIO = f"{PREFIX}/kl_ratio"
"""Sampled KL to the reference over the surprise of what the policy wrote at the start; reinforcement alone."""

_OTHERS, _COLLATERAL, _CHOSEN = f"{PREFIX}/others_fall", f"{PREFIX}/collateral", f"{PREFIX}/chosen_fall"
_OFF_DATA, _OFF_PAIR = f"{PREFIX}/off_data_growth", f"{PREFIX}/off_pair_growth"
_DROP_SHARE = "likelihood/bank/drop_share"
_LIFT = "lazy_likelihood/lift"
_REWARD = "objective/rlhf_reward"
"""Logged by runs with rewards from outside, and by no other."""

_QUARTER = 0.25
"""Of the readings so far: they are averaged, and are two at the least, so that a run of 24 steps is judged as one of 2,000 is."""
_BEYOND_CHANCE = 1.64
"""Standard errors that a trend comes above in one of twenty series without any order."""

PROPERTY_NOTICES = (
    AlarmRule(
        property="drastic_drop",
        conditions=(Condition(metric=_OTHERS, window=1, above=0.1), Condition(metric=_COLLATERAL, window=1, above=0.25)),
        says=(
            "Since step {since} other prompts' chosen answers fall with the rejected ones: by {harm/others_fall:.2f} of their "
            "spread, {harm/collateral:.2f} times as far as rejected, per token.",
        ),
    ),
    AlarmRule(
        property="suppression",
        conditions=(Condition(metric=_CHOSEN, window=1, above=0.1), Condition(metric=_DROP_SHARE, window=1, above=1.0)),
        says=(
            "Since step {since} the margin grows while chosen answers fall: by {harm/chosen_fall:.2f} of their spread (drop share "
            "{likelihood/bank/drop_share:.2f}), and both sides of a pair in {harm/both_down:.0%} of them.",
            "Most of it at {where} tokens.",
        ),
    ),
    AlarmRule(
        property="dispersion",
        conditions=(Condition(metric=_OFF_DATA, window=1, above=0.02),),
        says=(
            "Since step {since} probability leaves every answer that the data knows: {harm/off_data_growth:.1%} of what was on "
            "them (off-data mass {dispersion/bank/off_data_mass:.3f} a token).",
        ),
    ),
    AlarmRule(
        property="dispersion",
        conditions=(Condition(metric=_OFF_PAIR, window=1, above=0.1),),
        says=(
            "Since step {since} probability leaves both sides where pairs part: {harm/off_pair_growth:.1%} of what was on them "
            "({dispersion/bank/off_pair_mass:.3f} is on neither).",
        ),
    ),
)
"""The paper's three, read off the probe bank."""

REINFORCEMENT_NOTICES = (
    AlarmRule(
        property="reward_hacking",
        needs=(_REWARD,),
        conditions=(
            Condition(metric=_REWARD, of="change", above=0.0, window=2, share=_QUARTER),
            Condition(metric=_REWARD, of="trend", above=_BEYOND_CHANCE, window=4, share=1.0),
            Condition(metric="task/accuracy", of="change", below=-0.05, window=1),
        ),
        says=(
            "Since step {since} the reward rises ({objective/rlhf_reward:.3g}) while fewer held-out problems are solved: "
            "{task/accuracy:.0%}.",
        ),
    ),
    AlarmRule(
        property="kl_blow_up",
        needs=(_REWARD, KL_RATIO),
        conditions=(
            Condition(metric=KL_RATIO, above=1.0, window=2, share=_QUARTER),
            Condition(metric=KL_RATIO, of="drift", above=0.1, window=2, share=_QUARTER),
        ),
        says=(
            "Since step {since} the policy's own answers are {harm/kl_ratio:.1f} times as far from the reference (sampled KL) as "
            "they were surprising at the start, and the distance grows.",
        ),
    ),
    AlarmRule(
        property="lazy_likelihood",
        needs=(_REWARD, _LIFT),
        conditions=(Condition(metric=_LIFT, window=4, below=0.05),),
        says=(
            "Since step {since} steps push bad answers down and no longer lift good ones: {lazy_likelihood/lift:+.0%} of what "
            "moves is their rise.",
            "The last one: {lazy_likelihood/sample_above/gain_per_token:+.1e} nats per token of good answers, "
            "{lazy_likelihood/sample_below/gain_per_token:+.1e} of bad ones; {lazy_likelihood/sample_above/fell:.0%} of the good "
            "ones fell.",
        ),
    ),
)
"""For runs with rewards from outside. The names are those that TRL's PPO logged."""

NOTICES = (*PROPERTY_NOTICES, *REINFORCEMENT_NOTICES)
