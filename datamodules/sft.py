"""Supervised data from files or hub data sets."""

from __future__ import annotations

from typing_extensions import override

from datamodules.files import FileDataModule
from datamodules.sources.formats import ChosenOnly, RowFormat


class SFTDataModule(FileDataModule):
    """Prompts with one completion each; of a pair, the chosen one. See FileDataModule for the options."""

    @property
    @override
    def _row_format(self) -> RowFormat:
        return ChosenOnly(self._format)
