"""Writes the layout that a model was trained on as a chat template, so that other tools make the same token ids."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain, takewhile
from typing import TYPE_CHECKING

from datamodules.contracts.batches import Role
from datamodules.contracts.records import BadRowError, CompletionRecord, Message, Record
from datamodules.tokens.encoding import PromptEncoder
from datamodules.tokens.special_tokens import Ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def trained_tokenizer(tokenizer: PreTrainedTokenizerBase, *, is_chat: bool) -> PreTrainedTokenizerBase:
    """A copy whose chat template lays a conversation out as training did, and whose padding is no end of sequence.

    `apply_chat_template([user, assistant])` then gives the ids that were trained on; the last one is the end of sequence.
    Classifiers of transformers look for the last token that is not padding: with padding equal to the end of sequence they would
    read the one before.

    Args:
        tokenizer: of the training.
        is_chat: whether the prompts were laid out with its template; else prompt and response are text with nothing between.

    Raises:
        ValueError: if the template does not take a question and an answer.
    """
    known = copy.deepcopy(tokenizer)
    if not is_chat:
        known.chat_template = text_layout(tokenizer)
    elif _encoded(tokenizer, "a", "b") != tokenizer.apply_chat_template(_asked("a", "b"), return_dict=False):
        known.chat_template = _ended(tokenizer)
    if known.pad_token_id in (None, known.eos_token_id):
        known.pad_token = _other_than_end(known)
    return known


def text_layout(tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template of plain text: leading special tokens, the contents as they are, the end of sequence."""
    leading = "".join(tokenizer.convert_ids_to_tokens(PromptEncoder(tokenizer).leading_ids))
    opening = f"{{{{ {leading!r} }}}}" if leading else ""
    contents = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return opening + contents + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"


def share_laid_out(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]]) -> float:
    """The share of prompts that end as the tokenizer's chat template ends a prompt, whatever was asked; 0 without a template."""
    if tokenizer.chat_template is None or not prompts:
        return 0.0
    try:
        first, second = (_encoded(tokenizer, text, None)[::-1] for text in ("a", _another_than("a", tokenizer)))
    except ValueError:
        return 0.0
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    tail = [token for token, _ in shared][::-1]
    return sum(list(prompt[len(prompt) - len(tail) :]) == tail for prompt in prompts) / len(prompts)


def _ended(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's template, with nothing behind a reply but the end of sequence."""
    template = str(tokenizer.get_chat_template()).removesuffix("\n")
    closing = tokenizer.convert_ids_to_tokens(_encoded(tokenizer, "a", "b")[-2:])
    # Training drops the white space behind the last special token; behind words it belongs to the reply.
    ends = [token for token in closing if token in tokenizer.all_special_tokens]
    is_closed = " or ".join(f"stripped.endswith({token!r})" for token in ends)
    return (
        f"{{% set conversation %}}{template}{{% endset %}}{{% set stripped = conversation.rstrip() %}}"
        "{% if add_generation_prompt %}{{ conversation }}{% else %}"
        f"{{% set ended = stripped if {is_closed} else conversation %}}"
        "{{ ended }}{% if not ended.endswith(eos_token) %}{{ eos_token }}{% endif %}{% endif %}"
    )


def _other_than_end(tokenizer: PreTrainedTokenizerBase) -> str:
    """A token that no conversation ends with: a special one, or the vocabulary's first."""
    special = [tokenizer.unk_token, tokenizer.bos_token, *tokenizer.all_special_tokens]
    vocabulary = tokenizer.convert_ids_to_tokens([0, 1])
    token: str = next(token for token in (*special, *vocabulary) if token is not None and token != tokenizer.eos_token)
    return token


def _another_than(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """A text of other ids: a small vocabulary may know few words."""
    own: Ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    known = (
        tokenizer.decode([number]).strip() for number in reversed(range(len(tokenizer))) if number not in tokenizer.all_special_ids
    )
    others = (word for word in chain(("b",), known) if word and tokenizer(word, add_special_tokens=False)["input_ids"] != own)
    return next(others, "b")


def _encoded(tokenizer: PreTrainedTokenizerBase, prompt: str, reply: str | None) -> Ids:
    """Ids of a question and an answer as training has them.

    Raises:
        ValueError: if the template does not take them.
    """
    replies = () if reply is None else (CompletionRecord((Message("assistant", reply),), Role.SAMPLE, "sample"),)
    (found,) = PromptEncoder(tokenizer).encode([Record((Message("user", prompt),), replies, 0)])
    if isinstance(found, BadRowError):
        raise ValueError(f"expected a chat template that takes a user's and an assistant's message, got: {found}")
    return [*found.prompt_ids, *(token for ids in found.completion_ids for token in ids)]


def _asked(prompt: str, reply: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
