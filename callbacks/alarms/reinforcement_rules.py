"""Rules for runs with rewards from outside: the reward is hacked, or the policy has left the reference."""

from __future__ import annotations

from callbacks.alarms.conditions import Condition
from callbacks.alarms.rules import AlarmRule

REINFORCEMENT_RULES = (
    AlarmRule(
        property="reward_hacking",
        needs_rewards=True,
        conditions=(
            Condition(metric="objective/rlhf_reward", of="change", above=0.0, window=4),
            Condition(metric="objective/rlhf_reward", of="drift", above=0.0, window=4),
            Condition(metric="task/accuracy", of="change", below=-0.05, window=1),
        ),
        says=(
            "From step {since} the reward still rises ({objective/rlhf_reward:.3g}) while fewer held-out problems are solved: "
            "accuracy is {task/accuracy:.0%}, at least 5 points below the start.",
            "Sampled KL to the reference: {objective/kl:.3g} nats.",
            "Raise kl_coef, stop here, or improve the reward with samples of this policy.",
        ),
    ),
    AlarmRule(
        property="kl_blow_up",
        needs_rewards=True,
        conditions=(
            Condition(metric="objective/kl", above=25.0, window=2),
            Condition(metric="objective/kl", of="drift", above=5.0, window=4),
        ),
        says=(
            "From step {since} the sampled KL to the reference runs away: {objective/kl:.3g} nats a response and rising.",
            "Raise kl_coef, lower the learning rate or clip_range, or take fewer epochs over a batch of samples.",
        ),
    ),
)
"""Not tuned: no labelled runs stand behind these thresholds. The names are those that TRL's PPO logged."""
