"""Turns records into token ids and finds the cut between prompt and completion, for training, sampling, judging and export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datamodules.contracts.records import BadRowError, CompletionRecord, Fault, Message, Record
from datamodules.tokens.chat_template import ChatTemplate
from datamodules.tokens.long_texts import HEAD, MARGIN, shortened
from datamodules.tokens.special_tokens import Ids, SpecialTokens, is_marked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class EncodedRecord:
    """Token ids of a record, before any cut."""

    prompt_ids: Ids
    completion_ids: list[Ids]
    """Each ends with the end-of-sequence token."""
    num_apart: int = 0
    """Completions tokenised on their own, because their first token would have merged with the prompt's last."""
    spells_special: bool = False
    """Whether a special token that the text spells was encoded as the words it is."""
    is_laid_out: bool = False
    """Whether it is text that a template has laid out already: the special tokens that it spells are special."""
    unread_keys: frozenset[str] = frozenset()
    """Keys of its messages that the chat template does not name."""


class PromptEncoder:
    """Tokenises prompts, and completions after them.

    The prompt is tokenised alone, as it is when the model is asked to go on from it. Plain text: a completion's ids are what
    prompt + completion has beyond the prompt's; where the prompt's are not a prefix of the whole, the completion is tokenised
    on its own. Chat messages: the tokenizer's template renders both, and the prompt must be a prefix. Every completion ends
    with the end-of-sequence token; what a template puts after its last special token (a line break) is dropped. Ids are never
    compared with the padding token, so it may equal the end-of-sequence token.

    Special tokens that a text spells ("</s>") are the words they are, unless the record says otherwise. Plain text whose prompt
    begins with one that opens (`<s>[INST]`, `<|im_start|>user`) was laid out with a template before: there they are special tokens,
    and a text that begins with the tokenizer's leading ones gets no second set. An end of sequence at the end of a text completion
    is one.

    Args:
        tokenizer: with a chat template if messages are to come; training needs an end-of-sequence token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._eos: int | None = tokenizer.eos_token_id
        self._special = SpecialTokens(tokenizer)
        self._template = ChatTemplate(tokenizer, self._special)
        self.leading_ids, self.trailing_ids = self._find_ids_around()
        """Special tokens that the tokenizer itself puts before a text, such as a beginning-of-sequence token, and behind it."""

    def encode(self, records: Sequence[Record], kept: int | None = None) -> list[EncodedRecord | BadRowError]:
        """Token ids of each record, or why it has none.

        Args:
            records: to be encoded.
            kept: tokens of a prompt's end, and of a completion's beginning, that the caller keeps at the most; all by default. Far
                longer texts are then tokenised in part: their ids are fewer, but more than `kept`, and the kept ones are the same.

        Raises:
            ValueError: if there are messages but the tokenizer has no chat template.
        """
        rendered = [self._render(record) for record in records]
        if kept is None:
            return self._encoded(records, rendered)
        short = [None if isinstance(texts, BadRowError) else shortened(texts, kept) for texts in rendered]
        encoded = self._encoded(records, [part or texts for part, texts in zip(short, rendered, strict=True)])
        for number, (part, texts) in enumerate(zip(short, rendered, strict=True)):
            if part and not isinstance(texts, BadRowError) and not self._suffices(encoded[number], texts, part, kept):
                (encoded[number],) = self._encoded([records[number]], [texts])
        return encoded

    def _suffices(self, encoded: EncodedRecord | BadRowError, texts: Sequence[str], short: Sequence[str], kept: int) -> bool:
        """Whether a shortened text has more tokens than are kept wherever it was cut."""
        if isinstance(encoded, BadRowError):
            return False
        (head,) = self._special.tokenize([texts[0][:HEAD]])
        is_prompt_cut, prompt = len(short[0]) < len(texts[0]), len(encoded.prompt_ids)
        if isinstance(head, BadRowError) or (is_prompt_cut and prompt - len(head) < kept + MARGIN):
            return False
        cut = [len(part) - len(short[0]) < len(whole) - len(texts[0]) for part, whole in zip(short, texts, strict=True)][1:]
        return all(len(ids) > kept + MARGIN for ids, is_cut in zip(encoded.completion_ids, cut, strict=True) if is_cut)

    def _encoded(self, records: Sequence[Record], rendered: Sequence[list[str] | BadRowError]) -> list[EncodedRecord | BadRowError]:
        flat = [text for texts in rendered if not isinstance(texts, BadRowError) for text in texts]
        ids = iter(self._special.tokenize(flat))
        return [
            texts if isinstance(texts, BadRowError) else self._cut(record, texts, [next(ids) for _ in texts])
            for record, texts in zip(records, rendered, strict=True)
        ]

    def rendered(self, records: Sequence[Record]) -> list[Ids | BadRowError]:
        """Ids of conversations of one reply as the chat template leaves them, whatever it drops or puts behind the last turn.

        This is what a model reads that was trained elsewhere, by `apply_chat_template`.
        """
        texts: list[str | BadRowError] = []
        for record in records:
            assert not isinstance(record.prompt, str), "a template takes messages"
            try:
                messages = (*record.prompt, *_messages(record.completions[0]))
                texts.append(self._template.render(messages, record.tools, opens_reply=False))
            except BadRowError as error:
                texts.append(error)
        ids = iter(self._special.tokenize([text for text in texts if isinstance(text, str)]))
        return [next(ids) if isinstance(text, str) else text for text in texts]

    def keep_end(self, ids: Ids, limit: int) -> Ids:
        """The last `limit` ids at the most, those among them that a model expects before every text."""
        if len(ids) <= limit:
            return ids
        leading = self.leading_ids
        kept = leading if ids[: len(leading)] == leading and len(leading) < limit else []
        return kept + ids[len(ids) - limit + len(kept) :]

    def _render(self, record: Record) -> list[str] | BadRowError:
        """The prompt, then prompt + completion for each completion; what is to be words is marked."""
        try:
            return self._text(record) if isinstance(record.prompt, str) else self._chat(record, record.prompt)
        except BadRowError as error:
            return error

    def _text(self, record: Record) -> list[str]:
        if record.tools:
            raise BadRowError(Fault.TEMPLATE_DROPS, "'tools' beside plain text: only a chat template can show them to a model")
        prompt, mark = str(record.prompt), self._special.mark_completion
        if self._is_laid_out(record):
            return [prompt, *(prompt + str(completion.text) for completion in record.completions)]
        marked = self._special.mark(prompt)
        replies = [str(c.text) if c.is_drawn else mark(str(c.text)) for c in record.completions]
        return [marked, *(marked + reply for reply in replies)]

    def _chat(self, record: Record, prompt: tuple[Message, ...]) -> list[str]:
        template, tools, as_special = self._template, record.tools, record.has_control_tokens
        wholes = [(*prompt, *_messages(completion)) for completion in record.completions]
        for messages in wholes or [prompt]:
            template.require_roles(messages, tools)
        texts = [template.render(prompt, tools, opens_reply=True, control_tokens=as_special)]
        texts += [template.render(messages, tools, opens_reply=False, control_tokens=as_special) for messages in wholes]
        for messages, text in zip(wholes or [prompt], texts[1:] or texts, strict=True):
            template.require_whole(text, messages, tools)
        return texts

    def _is_laid_out(self, record: Record) -> bool:
        return record.has_control_tokens or self._special.open(str(record.prompt))

    def _cut(self, record: Record, texts: list[str], ids: list[Ids | BadRowError]) -> EncodedRecord | BadRowError:
        found = [one for one in ids if not isinstance(one, BadRowError)]
        if len(found) < len(ids):
            return next(one for one in ids if isinstance(one, BadRowError))
        spells = any(is_marked(text) for text in texts)
        prompt, *wholes = found
        if isinstance(record.prompt, str):
            return self._cut_text(record, texts, prompt, wholes, spells)
        if any(whole[: len(prompt)] != prompt for whole in wholes):
            end = self._tokenizer.decode(prompt)[-60:]
            return BadRowError(Fault.NOT_A_PREFIX, f"the end of the prompt, {end!r}, changes before a reply")
        completions = [self._ended(self._without_tail(whole[len(prompt) :])) for whole in wholes]
        messages = [*record.prompt, *(message for completion in record.completions for message in _messages(completion))]
        return EncodedRecord(prompt, completions, spells_special=spells, unread_keys=self._template.unread(messages))

    def _cut_text(
        self, record: Record, texts: list[str], prompt: Ids, wholes: list[Ids], spells: bool
    ) -> EncodedRecord | BadRowError:
        if not prompt and not self.leading_ids:
            return BadRowError(Fault.EMPTY_PROMPT, f"the tokenizer finds no token in {record.prompt!r}")
        completions, num_apart, is_laid_out = [], 0, self._is_laid_out(record)
        for text, whole in zip(texts[1:], wholes, strict=True):
            merged = whole[: len(prompt)] != prompt
            num_apart += merged
            ids = self._alone(text[len(texts[0]) :]) if merged else whole[len(prompt) :]
            completions.append(self._ended(self._without_tail(ids) if is_laid_out else ids))
        leading = [] if prompt[: len(self.leading_ids)] == self.leading_ids else self.leading_ids
        return EncodedRecord([*leading, *prompt], completions, num_apart, spells, is_laid_out)

    def _alone(self, completion: str) -> Ids:
        (ids,) = self._special.tokenize([completion])
        assert not isinstance(ids, BadRowError), "the whole could be tokenised, and it ends with this"
        return ids

    def _ended(self, ids: Ids) -> Ids:
        return ids if self._eos is None or (ids and ids[-1] == self._eos) else [*ids, self._eos]

    def _without_tail(self, ids: Ids) -> Ids:
        """Drop blank tokens after the last token, if that one is special: they are the template's, not the reply's."""
        end, special = len(ids), self._special.ids
        while end and ids[end - 1] not in special and not self._tokenizer.decode(ids[end - 1]).strip():
            end -= 1
        return ids[:end] if end and ids[end - 1] in special else ids

    def _find_ids_around(self) -> tuple[Ids, Ids]:
        with_special: Ids = self._tokenizer("x")["input_ids"]
        plain: Ids = self._tokenizer("x", add_special_tokens=False)["input_ids"]
        start = with_special.index(plain[0]) if plain else 0
        return (with_special[:start], with_special[start + len(plain) :]) if plain else ([], [])


def _messages(completion: CompletionRecord) -> tuple[Message, ...]:
    assert not isinstance(completion.text, str), "formats give messages after messages"
    return completion.text
