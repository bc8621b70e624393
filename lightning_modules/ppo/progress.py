"""The position of a run of PPO between rollouts and updates: a checkpoint needs it to go on in the middle of a rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_modules.ppo.rollout import Rollout


class Progress:
    """The rollout in use, the updates planned over it, and how many have been taken.

    Args:
        coefficient: of the KL penalty in the first rollout.
    """

    def __init__(self, coefficient: float) -> None:
        self.number = 0
        """Rollouts that have been used up: the number of the one in use, or of the next."""
        self.rollout: Rollout | None = None
        """None where the next one is yet to be made."""
        self.coefficient = coefficient
        """Coefficient of the KL penalty, for the next rollout."""
        self._plan: Sequence[Sequence[int]] = ()
        self._position = 0

    def begin(self, rollout: Rollout, plan: Sequence[Sequence[int]], coefficient: float) -> None:
        """Use a new rollout; `coefficient` is that of the one after it."""
        self.rollout, self._plan, self._position, self.coefficient = rollout, plan, 0, coefficient

    def current(self) -> tuple[Rollout, list[int]]:
        """The rollout in use and the prompts of the update that is due."""
        assert self.rollout is not None, "a rollout is begun before it is used"
        return self.rollout, list(self._plan[self._position])

    def advance(self) -> None:
        """An update has been taken; after the last one of its plan the rollout goes."""
        self._position += 1
        if self._position == len(self._plan):
            self.rollout, self._plan, self._position = None, (), 0
            self.number += 1

    def state_dict(self) -> dict[str, Any]:
        """Lists, numbers and tensors alone."""
        return {
            "number": self.number,
            "rollout": None if self.rollout is None else self.rollout.state_dict(),
            "coefficient": self.coefficient,
            "plan": [list(numbers) for numbers in self._plan],
            "position": self._position,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.number, self.coefficient = state["number"], state["coefficient"]
        self.rollout = None if state["rollout"] is None else Rollout.from_state(state["rollout"])
        self._plan, self._position = state["plan"], state["position"]
