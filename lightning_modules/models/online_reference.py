"""A reference whose log-probs are computed at every step, instead of once before training."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from lightning_modules.models.policy import Policy, PolicySpec


@dataclass(frozen=True)
class OnlineReference(PolicySpec):
    """`reference: online`: the reference stays in memory beside the policy and reads every batch; nothing is scored before.

    For one pass over much data: the first step comes at once. Several passes over the same data are cheaper with log-probs
    that are computed once, which is the default.
    """

    short_name = "online"

    of: PolicySpec | None = None
    """Recipe of the reference; the policy as it starts by default."""

    @override
    def build(self) -> Policy:
        if self.of is None:
            raise ValueError(
                "expected a recipe of the reference, got `online` without one. Leave `online` out: this module evaluates its "
                "reference at every step anyway."
            )
        return self.of.build()


def recipe_of(reference: PolicySpec | None) -> PolicySpec | None:
    """The recipe of a reference, however it is asked; None is the policy as it starts."""
    return reference.of if isinstance(reference, OnlineReference) else reference
