"""Preference pairs from files or hub data sets."""

from __future__ import annotations

from datamodules.files import FileDataModule


class PreferenceDataModule(FileDataModule):
    """Pairs: every example has a chosen and a rejected completion. See FileDataModule for the options."""
