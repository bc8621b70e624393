"""All scored responses of a pool to each prompt, for objectives that compare more than two."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from typing_extensions import override

from datamodules.batches import Role
from datamodules.pool.data import PoolDataModule, reply_record
from datamodules.pool.scenarios import ScenarioPair
from datamodules.sources.records import Record
from datamodules.sources.scored import RANKED
from datamodules.sources.store import ExampleStore


class RankedPoolDataModule(PoolDataModule):
    """The pairs of a scenario, and with each prompt the pool's other scored responses, which a reward model compares by score.

    The pair comes first, so that whatever knows pairs alone sees those of `PoolDataModule`.

    Args:
        num_ranked: other responses of each prompt at the most.
        **pool: arguments of `PoolDataModule`.
    """

    # jsonargparse reads the arguments of the base class through **pool.
    def __init__(self, num_ranked: int = 16, **pool: Any) -> None:  # noqa: ANN401
        super().__init__(**pool)
        if num_ranked < 0:
            raise ValueError(f"expected num_ranked >= 0, got {num_ranked}. Use 0 for the pairs alone.")
        self.num_ranked = num_ranked

    @cached_property
    @override
    def _store(self) -> ExampleStore:
        return self.prepared("ranked responses", [self._ranked_record(pair) for pair in self.view.pairs])

    def _ranked_record(self, pair: ScenarioPair) -> Record:
        row = self._rows[pair.row_number]
        scored = [response for response in pair.leftovers if response.score is not None][: self.num_ranked]
        sides = [(pair.chosen, Role.CHOSEN, "chosen"), (pair.rejected, Role.REJECTED, "rejected")]
        sides += [(response, Role.SAMPLE, RANKED) for response in scored]
        return Record(row.prompt, tuple(reply_record(row, *side) for side in sides), pair.row_number)
