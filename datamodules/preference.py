"""Preference pairs from files or hub data sets."""

from __future__ import annotations

from typing_extensions import override

from datamodules.files import FileDataModule
from datamodules.formats.columns import RowFormat


class PreferenceDataModule(FileDataModule):
    """Pairs: every example has a chosen and a rejected completion. See FileDataModule for the options."""

    holds_rejected = True

    @override
    def as_read(self, format: RowFormat) -> RowFormat:
        return format.for_pairs()
