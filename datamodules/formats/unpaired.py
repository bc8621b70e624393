"""One answer a row, labelled good or bad, as KTO's data has it (Ethayarajh et al. 2024, arXiv 2402.01306)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NoReturn

from typing_extensions import override

from datamodules.contracts.batches import Role
from datamodules.contracts.records import BadRowError, Fault, Record
from datamodules.formats.columns import ChosenOnly, PromptCompletionColumns, Row, RowFormat
from datamodules.formats.messages import shorten
from datamodules.formats.openai_messages import MessageRows

_LABELS = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}
_MESSAGES = "messages"


@dataclass(frozen=True, kw_only=True)
class LabelledRows(RowFormat):
    """`prompt`, `completion` and `label`, or `messages` and `label`: a good answer is chosen, a bad one rejected, alone.

    For `UnpairedDataModule`; no loss of pairs can be trained on such rows. Supervised training takes the good ones, if asked to.
    """

    short_name = "kto"

    label: str = "label"
    """Column that says whether the answer is good: true or false, 1 or 0."""
    answers: RowFormat | None = None
    """How prompt and answer are laid out; by default `messages` where a row has them, else `prompt` and `completion`."""
    good_only: bool = False
    """Whether supervised training takes the good answers and leaves the bad ones out; else it refuses the rows."""

    @override
    def parse(self, row: Row, row_number: int) -> Record:
        record = self._answers(row).read(row, row_number)
        if len(record.completions) != 1:
            raise BadRowError(Fault.WRONG_TYPE, f"{len(record.completions)} completions; expected one, with a label")
        if not self._is_good(row):
            bad = replace(record.completions[0], role=Role.REJECTED, kind="rejected")
            return replace(record, completions=(bad,))
        return record

    @override
    def for_pairs(self) -> NoReturn:
        raise ValueError(
            "expected pairs, got rows of one labelled answer (format kto). Train on them with UnpairedDataModule and a loss of "
            "single completions (unpaired_kto, unpaired_bco), or on the good answers alone: SFTDataModule (experiment *_sft) with "
            "data.format.good_only true."
        )

    @override
    def for_unpaired(self) -> RowFormat:
        return self

    @override
    def for_supervised(self) -> RowFormat:
        if not self.good_only:
            raise ValueError(
                "expected answers to imitate, got rows that are labelled good or bad (format kto): supervised training would "
                "imitate the bad ones too. Set data.format.good_only true to train on the good ones alone."
            )
        return ChosenOnly(self)

    def _answers(self, row: Row) -> RowFormat:
        return self.answers or (MessageRows() if row.get(_MESSAGES) is not None else PromptCompletionColumns())

    def _is_good(self, row: Row) -> bool:
        cell = row.get(self.label)
        if cell is None:
            raise BadRowError(Fault.MISSING_FIELD, f"no {self.label!r} among {sorted(row)}")
        label = _LABELS.get(cell.strip().lower() if isinstance(cell, str) else cell) if isinstance(cell, bool | int | str) else None
        if label is None:
            raise BadRowError(Fault.WRONG_TYPE, f"{self.label!r} is {shorten(cell)}; expected true or false")
        return label
