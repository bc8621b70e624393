"""Supervised data from files or hub data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from typing_extensions import override

from datamodules.contracts.batches import Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.files import FileDataModule
from datamodules.formats.columns import RowFormat


class SFTDataModule(FileDataModule):
    """Prompts with one completion each; of a pair, the chosen one. See FileDataModule for the options."""

    @override
    def as_read(self, format: RowFormat) -> RowFormat:
        return format.for_supervised()

    @override
    def probe_bank(self) -> Sequence[Example]:
        """The rejected completion of a row stands in the bank: what training on chosen does to it is watched, as in other runs."""
        bank = super().probe_bank()
        rejected = self._rejected({example.row_number for example in bank})
        return [_with_rejected(example, rejected.get(example.row_number)) for example in bank]

    def _rejected(self, row_numbers: set[int]) -> dict[int, TokenizedCompletion]:
        if not row_numbers:
            return {}
        split = "train" if "train" in self.splits() else next(iter(self.splits()))
        rows = self.files.some(split, row_numbers, self.format)
        sides = ((example.row_number, side) for example in rows for side in example.completions)
        return {number: side for number, side in sides if side.role is Role.REJECTED}


def _with_rejected(example: Example, rejected: TokenizedCompletion | None) -> Example:
    if rejected is None or rejected.token_ids in [side.token_ids for side in example.completions]:
        return example
    chosen, *probes = example.completions
    return replace(example, completions=(chosen, rejected, *probes))
