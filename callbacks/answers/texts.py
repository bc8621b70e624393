"""Turns packed batches back into texts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from lightning.pytorch import Trainer

from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.stores import Tokenizer, data_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def decoder_of(trainer: Trainer) -> Tokenizer | None:
    """The data module's tokenizer; None where it has none."""
    decoder: Tokenizer | None = getattr(data_of(trainer), "tokenizer", None)
    return decoder


def hub_tokenizer_of(trainer: Trainer) -> PreTrainedTokenizerBase | None:
    """The data module's tokenizer, where it belongs beside the weights: one of transformers. The toy has none."""
    tokenizer: object = decoder_of(trainer)
    if tokenizer is None:
        return None
    from transformers import PreTrainedTokenizerBase

    return tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else None


def text_of(decoder: Tokenizer | None, token_ids: Sequence[int]) -> str:
    """The text, or the numbers where there is no tokenizer."""
    return " ".join(map(str, token_ids)) if decoder is None else decoder.decode(list(token_ids))


def token_texts(decoder: Tokenizer | None, token_ids: Sequence[int]) -> list[str]:
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
