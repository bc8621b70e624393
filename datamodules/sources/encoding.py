"""Records to token ids, and the cut between a prompt and its completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from datamodules.sources.records import BadRowError, Fault, Message, Record, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = list[int]


@dataclass(frozen=True, slots=True)
class EncodedRecord:
    """Token ids of a record, before any cut."""

    prompt_ids: Ids
    completion_ids: list[Ids]
    """Each ends with the end-of-sequence token."""
    num_apart: int = 0
    """Completions tokenised on their own, because their first token would have merged with the prompt's last."""


class PromptEncoder:
    """Tokenises prompts, and completions after them.

    The prompt is tokenised alone, as it is when the model is asked to go on from it. Plain text: a completion's ids are what
    prompt + completion has beyond the prompt's; where the prompt's are not a prefix of the whole, the completion is tokenised
    on its own. Chat messages: the tokenizer's template renders both, and the prompt must be a prefix. Every completion ends
    with the end-of-sequence token; what a template puts after its last special token (a line break) is dropped. Ids are never
    compared with the padding token, so it may equal the end-of-sequence token.

    Args:
        tokenizer: with an end-of-sequence token, and a chat template if messages are to come.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._eos: int = tokenizer.eos_token_id
        self._special_ids = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        self.leading_ids = self._find_leading_ids()
        """Special tokens that the tokenizer itself puts before a text, such as a beginning-of-sequence token."""

    def encode(self, records: Sequence[Record]) -> list[EncodedRecord | BadRowError]:
        """Token ids of each record, or why it has none.

        Raises:
            ValueError: if there are messages but the tokenizer has no chat template.
        """
        rendered = [self._render(record) for record in records]
        flat = [text for texts in rendered if not isinstance(texts, BadRowError) for text in texts]
        ids = iter(self._tokenize(flat))
        return [
            texts if isinstance(texts, BadRowError) else self._cut(record, [next(ids) for _ in texts])
            for record, texts in zip(records, rendered, strict=True)
        ]

    def _render(self, record: Record) -> list[str] | BadRowError:
        """The prompt, then prompt + completion for each completion."""
        texts = [completion.text for completion in record.completions]
        if isinstance(record.prompt, str):
            return [record.prompt, *(record.prompt + str(text) for text in texts)]
        try:
            return [self._template(record.prompt, ()), *(self._template(record.prompt, text) for text in texts)]
        except BadRowError as error:
            return error

    def _template(self, prompt: tuple[Message, ...], reply: Text) -> str:
        from jinja2 import TemplateError

        if self._tokenizer.chat_template is None:
            raise ValueError(
                "expected a tokenizer with a chat template for chat messages, got one without. "
                "Use the tokenizer of an instruct model, or plain text (as_chat: false)."
            )
        assert not isinstance(reply, str), "formats give messages after messages"
        messages = [asdict(message) for message in (*prompt, *reply)]
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=not reply)
        except TemplateError as error:
            raise BadRowError(Fault.TEMPLATE_REFUSES, str(error)) from error
        return str(text)

    def _cut(self, record: Record, ids: list[Ids]) -> EncodedRecord | BadRowError:
        prompt, *wholes = ids
        if isinstance(record.prompt, str):
            return self._cut_text(record, prompt, wholes)
        if any(whole[: len(prompt)] != prompt for whole in wholes):
            end = self._tokenizer.decode(prompt)[-60:]
            return BadRowError(Fault.NOT_A_PREFIX, f"the end of the prompt, {end!r}, changes before a reply")
        return EncodedRecord(prompt, [self._ended(self._without_tail(whole[len(prompt) :])) for whole in wholes])

    def _cut_text(self, record: Record, prompt: Ids, wholes: list[Ids]) -> EncodedRecord | BadRowError:
        if not prompt and not self.leading_ids:
            return BadRowError(Fault.EMPTY_PROMPT, f"the tokenizer finds no token in {record.prompt!r}")
        completions, num_apart = [], 0
        for completion, whole in zip(record.completions, wholes, strict=True):
            merged = whole[: len(prompt)] != prompt
            num_apart += merged
            completions.append(self._ended(self._tokenize([str(completion.text)])[0] if merged else whole[len(prompt) :]))
        return EncodedRecord([*self.leading_ids, *prompt], completions, num_apart)

    def _ended(self, ids: Ids) -> Ids:
        return ids if ids and ids[-1] == self._eos else [*ids, self._eos]

    def _without_tail(self, ids: Ids) -> Ids:
        """Drop blank tokens after the last token, if that one is special: they are the template's, not the reply's."""
        end = len(ids)
        while end and ids[end - 1] not in self._special_ids and not self._tokenizer.decode(ids[end - 1]).strip():
            end -= 1
        return ids[:end] if end and ids[end - 1] in self._special_ids else ids

    def _tokenize(self, texts: list[str]) -> list[Ids]:
        ids: list[Ids] = self._tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        return ids

    def _find_leading_ids(self) -> Ids:
        with_special: Ids = self._tokenizer("x")["input_ids"]
        (plain,) = self._tokenize(["x"])
        return with_special[: with_special.index(plain[0])] if plain else []
