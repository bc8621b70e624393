"""Supervised data from files or hub data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from typing_extensions import override

from datamodules.batches import Role
from datamodules.examples import Example, TokenizedCompletion
from datamodules.files import FileDataModule
from datamodules.sources.encoding import PromptEncoder
from datamodules.sources.formats import RowFormat
from datamodules.sources.preparation import Preparation


class SFTDataModule(FileDataModule):
    """Prompts with one completion each; of a pair, the chosen one. See FileDataModule for the options."""

    @property
    @override
    def _row_format(self) -> RowFormat:
        return self._format.for_supervised()

    @override
    def probe_bank(self) -> Sequence[Example]:
        """The rejected completion of a row stands in the bank: what training on chosen does to it is watched, as in other runs."""
        bank = super().probe_bank()
        rejected = self._rejected({example.row_number for example in bank})
        return [_with_rejected(example, rejected.get(example.row_number)) for example in bank]

    def _rejected(self, row_numbers: set[int]) -> dict[int, TokenizedCompletion]:
        split = "train" if "train" in self.splits() else next(iter(self.splits()))
        source = self._sources.get(split) or self._sources["train"]
        if source is None or not row_numbers:
            return {}
        store, _ = Preparation(source, self._format, PromptEncoder(self.tokenizer), self._limits, row_numbers).run()
        sides = ((example.row_number, side) for example in store for side in example.completions)
        return {number: side for number, side in sides if side.role is Role.REJECTED}


def _with_rejected(example: Example, rejected: TokenizedCompletion | None) -> Example:
    if rejected is None or rejected.token_ids in [side.token_ids for side in example.completions]:
        return example
    chosen, *probes = example.completions
    return replace(example, completions=(chosen, rejected, *probes))
