"""The position of a PPO run between rollouts and updates, which a checkpoint needs to resume within a rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.contracts.batches import CompletionBatch, StepShare
from lightning_modules.ppo.aggregation import UpdateTotals
from lightning_modules.ppo.kl_penalty import KLPenalty
from lightning_modules.ppo.rollout import Rollout
from lightning_modules.processes.ranks import Part, Place, parts_of, place


class Progress:
    """The rollout in use, the updates planned over it, and how many have been taken.

    Args:
        kl: the penalty as it is configured.
    """

    def __init__(self, kl: KLPenalty) -> None:
        self.number = 0
        """Rollouts that have been used up: the number of the one in use, or of the next."""
        self.rollout: Rollout | None = None
        """None where the next one is yet to be made."""
        self.coefficient = kl.coefficient
        """Coefficient of the KL penalty, for the next rollout."""
        self._kl = kl
        self._plan: Sequence[Sequence[int]] = ()
        self._position = 0

    def begin(self, rollout: Rollout, plan: Sequence[Sequence[int]], coefficient: float) -> None:
        """Use a new rollout; `coefficient` is that of the one after it."""
        self.rollout, self._plan, self._position, self.coefficient = rollout, plan, 0, coefficient

    def current(self) -> Rollout:
        """The rollout in use."""
        assert self.rollout is not None, "a rollout is begun before it is used"
        return self.rollout

    def parts(self, budget: int, own: Place) -> list[Part]:
        """A rank's microbatches, as prompts of the rollout, in the update that is due.

        Args:
            budget: tokens of a microbatch.
            own: place of the rank.
        """
        numbers = self._plan[self._position]
        sizes = [self.current().num_rows(number) for number in numbers]
        return [part._replace(numbers=[numbers[i] for i in part.numbers]) for part in parts_of(sizes, budget, own)]

    def packed(self, parts: Sequence[Part]) -> CompletionBatch:
        """The parts of a rank that count in one batch, or an idle one where none does.

        Its share is the whole update, to which each rank adds one sum over all that it has of it.
        """
        counted = [part for part in parts if not part.idle] or list(parts[:1])
        numbers, targets = self._plan[self._position], self.current().num_targets()
        share = StepShare(len(numbers), sum(targets[number] for number in numbers), place().size, counted[0].idle)
        return self.current().pack([number for part in counted for number in part.numbers], share)

    def totals(self) -> UpdateTotals:
        """What the update that is due holds, over all ranks."""
        numbers, targets = self._plan[self._position], self.current().num_targets()
        completions = self.current().completions
        return UpdateTotals(sum(len(completions[number]) for number in numbers), sum(targets[number] for number in numbers))

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
            "configured": self._kl.coefficient,
            "plan": [list(numbers) for numbers in self._plan],
            "position": self._position,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; a coefficient that the config has changed since holds from the next rollout on."""
        self.number, self.coefficient = state["number"], state["coefficient"]
        # Checkpoints of earlier versions do not say what it was set to; without a target it is still that.
        then = state.get("configured", self.coefficient if self._kl.target is None else self._kl.coefficient)
        if then != self._kl.coefficient:
            rank_zero_warn(
                f"The config differs from the checkpoint's, and wins: from the next rollout on a nat of KL costs "
                f"{self._kl.coefficient:g} instead of {self.coefficient:g}."
            )
            self.coefficient = self._kl.coefficient
        self.rollout = None if state["rollout"] is None else Rollout.from_state(state["rollout"])
        self._plan, self._position = state["plan"], state["position"]
