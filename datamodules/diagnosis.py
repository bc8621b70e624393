"""Pairs for a diagnosis: all of them are held out."""

from __future__ import annotations

from typing_extensions import override

from datamodules.preference import PreferenceDataModule
from datamodules.sources.store import ExampleStore


class DiagnosisDataModule(PreferenceDataModule):
    """Validates on the pairs of `train`: all of them where `val_fraction` is 0, else those that a training would have trained on.

    With the settings of a run, the frozen probe bank is that run's. See FileDataModule.
    """

    @override
    def examples(self, split: str) -> ExampleStore | None:
        return super().examples("train" if split == "val" else split)
