"""The base of data modules that read text: the tokenizer and the limits; also encodes prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from datamodules.base import BaseDataModule
from datamodules.contracts.prompts import TaskPrompt
from datamodules.contracts.records import Record
from datamodules.sources.preparation import LengthLimits
from datamodules.sources.text_reading import OnBadRow, TextReading
from datamodules.tasks.base import TaskItem
from datamodules.tokens.encoding import PromptEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextDataModule(BaseDataModule):
    """A data module whose examples are made of text.

    Args:
        tokenizer: folder, hub name, or `.gguf` file; null takes the policy's, which the command line fills in.
        max_length: tokens of a prompt and one completion; the tail of a longer completion is cut.
        max_prompt_length: tokens of a prompt; the beginning of a longer one is cut. Uncut by default.
        on_bad_row: "error" or "skip".
        trust_remote_code: run the Python files that come with the tokenizer, with all your rights: read them first.
        **steps: arguments of `BaseDataModule`.
    """

    # jsonargparse reads the arguments of the base class through **steps, here and in the classes below.
    def __init__(
        self,
        tokenizer: str | None,
        max_length: int = 1024,
        max_prompt_length: int | None = None,
        on_bad_row: OnBadRow = "error",
        trust_remote_code: bool = False,
        **steps: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**steps)
        if tokenizer is None:
            raise ValueError(
                "expected a tokenizer, got null, and the policy has no path to take one from. Set data.init_args.tokenizer."
            )
        self.text = TextReading(tokenizer, LengthLimits(max_length, max_prompt_length), on_bad_row, trust_remote_code)

    @property
    @override
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.text.tokenizer


def encode_prompts(items: Sequence[TaskItem], tokenizer: PreTrainedTokenizerBase) -> list[TaskPrompt]:
    """The problems with the ids that their prompts have in training, too."""
    encoded = PromptEncoder(tokenizer).encode([Record(item.text, (), number) for number, item in enumerate(items)])
    prompts = []
    for item, record in zip(items, encoded, strict=True):
        if isinstance(record, Exception):
            raise ValueError(f"expected prompts that the tokenizer can encode, got {item.prompt!r}: {record}")
        prompts.append(TaskPrompt(item, tuple(record.prompt_ids)))
    return prompts
