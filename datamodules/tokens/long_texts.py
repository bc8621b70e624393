"""Shortens very long texts before tokenisation to somewhat more than is kept: tokenising 10 MB takes a minute."""

from __future__ import annotations

import re
from collections.abc import Sequence

from datamodules.tokens.special_tokens import is_marked

# Characters of a kept token: generous, and what has fewer tokens than are kept is tokenised whole after all.
_CHARACTERS = 16
_SPARE = 16_384
HEAD = 256
"""Characters of a shortened prompt's beginning, where a template puts its first special token."""
MARGIN = 64
"""Tokens next to a cut that may differ from those of the whole text."""

# Between two words, where every pre-tokeniser cuts: what comes before has no say in the tokens after it.
_WORD = re.compile(r"(?<=\w) (?=[^\W\d_])|(?<=\n)(?=[^\W\d_])")


def shortened(texts: Sequence[str], tokens: int) -> list[str] | None:
    """A prompt and prompt + completion for each completion, with the middle of the prompt and the ends of completions left out.

    Args:
        texts: the prompt, then each whole text.
        tokens: of a prompt's end, and of a completion's beginning, that are kept at the most.

    Returns:
        Shorter texts; None where none is far too long, or it has no place to be cut at without changing what is kept.
    """
    prompt, *wholes = texts
    size = _CHARACTERS * tokens + _SPARE
    replies = [whole[len(prompt) :] for whole in wholes]
    if max(len(part) for part in (prompt, *replies)) <= 2 * size:
        return None
    if any(map(is_marked, texts)) or not all(whole.startswith(prompt) for whole in wholes):
        return None
    if len(prompt) > 2 * size:
        cut = _WORD.search(prompt, len(prompt) - 2 * size, len(prompt) - size)
        if cut is None:
            return None
        prompt = prompt[:HEAD] + prompt[cut.start() :]
    return [prompt, *(prompt + (reply[:size] if len(reply) > 2 * size else reply) for reply in replies)]
