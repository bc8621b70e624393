"""Tells special tokens that a text spells out, such as "</s>", from those that the template or the tokenizer adds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from datamodules.contracts.records import BadRowError, Fault

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = list[int]
T = TypeVar("T")

# Noncharacters of Unicode: no text holds them, and a chat template passes them on like any other character.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"


class SpecialTokens:
    """The special tokens of a tokenizer, as words and as control tokens.

    A text that is to be words is marked before it goes through a chat template; `tokenize` then encodes the marked places as the
    characters they are, and everything else, special tokens of the template among it, as the tokenizer does.

    Args:
        tokenizer: one that can encode its special tokens as words (`split_special_tokens`).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self.ids = set(tokenizer.all_special_ids) | set(added)
        spelled = {token.content for token in added.values() if token.special} | set(tokenizer.all_special_tokens)
        longest_first = sorted((token for token in spelled if token.strip()), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._closing = {tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token} - {tokenizer.bos_token}

    def open(self, text: str) -> bool:
        """Whether the text begins with one that opens: it was laid out with a template, by hand or by another tool.

        A text that begins with the end of sequence, padding or the unknown token speaks of it, unless that is the beginning, too.
        """
        found = self._pattern.match(text.lstrip())
        return found is not None and found.group() not in self._closing

    def mark(self, text: str) -> str:
        """The text with every spelled special token marked as words."""
        return self._pattern.sub(f"{_OPEN}\\g<0>{_CLOSE}", text)

    def mark_all(self, value: T) -> T:
        """Every text in a JSON value marked."""
        marked: Any = value
        if isinstance(value, str):
            marked = self.mark(value)
        elif isinstance(value, dict):
            marked = {key: self.mark_all(item) for key, item in value.items()}
        elif isinstance(value, list):
            marked = [self.mark_all(item) for item in value]
        same_kind: T = marked
        return same_kind

    def mark_completion(self, text: str) -> str:
        """Likewise, but an end of sequence at the very end is one: no second comes after it."""
        end, stripped = self._tokenizer.eos_token, text.rstrip()
        return self.mark(stripped.removesuffix(end)) + end if end and stripped.endswith(end) else self.mark(text)

    def tokenize(self, texts: Sequence[str]) -> list[Ids | BadRowError]:
        """Token ids of marked texts, without the tokens that the tokenizer puts around a text; or why there are none."""
        plain = iter(self._encode([text for text in texts if not is_marked(text)]))
        return [self._pieces(text) if is_marked(text) else next(plain) for text in texts]

    def _pieces(self, text: str) -> Ids | BadRowError:
        ids: Ids = []
        for piece in re.split(f"({_OPEN}.*?{_CLOSE})", text):
            words = piece.strip(_OPEN + _CLOSE) if piece.startswith(_OPEN) else None
            found = self._encode_further(words or piece, as_words=words is not None, is_first=not ids) if piece else []
            if words and self.ids.intersection(found):
                return BadRowError(Fault.UNSPEAKABLE, f"{words!r} in {unmarked(text)[:80]!r}")
            ids += found
        return ids

    def _encode_further(self, piece: str, *, as_words: bool, is_first: bool) -> Ids:
        """Ids of a piece in the middle of a text: behind a line break, so that nothing is put before it as before a whole text."""
        if not is_first:
            (break_ids,) = self._encode(["\n"])
            (ids,) = self._encode(["\n" + piece], as_words=as_words)
            if ids[: len(break_ids)] == break_ids:
                return ids[len(break_ids) :]
        (ids,) = self._encode([piece], as_words=as_words)
        return ids

    def _encode(self, texts: list[str], *, as_words: bool = False) -> list[Ids]:
        if not texts:
            return []
        # Not named where it is not wanted: some tokenizers of transformers do not know it.
        option = {"split_special_tokens": True} if as_words else {}
        ids: list[Ids] = self._tokenizer(texts, add_special_tokens=False, **option)["input_ids"]
        return ids


def is_marked(text: str) -> bool:
    """Whether a special token is marked in the text."""
    return _OPEN in text


def unmarked(text: str) -> str:
    """The text as it was before it was marked."""
    return text.replace(_OPEN, "").replace(_CLOSE, "")
