"""From a packed batch back to texts a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

from lightning.pytorch import Trainer

from datamodules.batches import CompletionBatch


class Decoder(Protocol):
    """What callbacks need of a tokenizer."""

    @property
    def eos_token_id(self) -> int | None:
        """Id of the token that ends a completion; None where nothing does."""

    def decode(self, token_ids: list[int]) -> str:
        """Text of the ids."""


def decoder_of(trainer: Trainer) -> Decoder | None:
    """The data module's tokenizer; None where it has none."""
    decoder: Decoder | None = getattr(getattr(trainer, "datamodule", None), "tokenizer", None)
    return decoder


def text_of(decoder: Decoder | None, token_ids: Sequence[int]) -> str:
    """The text, or the numbers where there is no tokenizer."""
    return " ".join(map(str, token_ids)) if decoder is None else decoder.decode(list(token_ids))


def token_texts(decoder: Decoder | None, token_ids: Sequence[int]) -> list[str]:
    """The text of each token alone, with spaces and line breaks made visible; a piece of a character becomes its number."""
    texts = [text_of(decoder, [token]) for token in token_ids]
    return [f"<{token}>" if not text or "\ufffd" in text else visible(text) for token, text in zip(token_ids, texts, strict=True)]


def visible(text: str) -> str:
    """Spaces, tabs and line breaks as signs."""
    return text.translate({ord(" "): "·", ord("\n"): "⏎", ord("\r"): "⏎", ord("\t"): "⇥"})


def prompts_and_completions(batch: CompletionBatch) -> list[tuple[list[int], list[list[int]]]]:
    """Token ids of every prompt with those of its completions, in the order of the sequences (waits for the device)."""
    ids, ends = batch.input_ids.tolist(), list(accumulate(batch.query_lengths))
    prompts: list[tuple[list[int], list[list[int]]]] = []
    for end, query, key in zip(ends, batch.query_lengths, batch.key_lengths, strict=True):
        segment = ids[end - query : end]
        if query == key:
            prompts.append((segment, []))
        else:
            prompts[-1][1].append(segment)
    return prompts
