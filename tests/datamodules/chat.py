"""A tokenizer of bytes and words under the chat templates that models really have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from datamodules.contracts.batches import Role
from datamodules.contracts.records import BadRowError, CompletionRecord, Message, Record
from datamodules.formats.messages import parse_message
from datamodules.tokens.encoding import EncodedRecord, PromptEncoder

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
SPECIAL = ("<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>")


@cache
def real_template(name: str) -> str:
    """A template as its model has it; TRL keeps copies."""
    spec = find_spec("trl")
    assert spec is not None, "trl is a development dependency"
    assert spec.origin is not None, "it is a package"
    return (Path(spec.origin).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def build(
    template: str | None,
    *,
    eos: str = "<|im_end|>",
    pad: str | None = None,
    adds_bos: bool = False,
    special: Sequence[str] = SPECIAL,
) -> PreTrainedTokenizerFast:
    """Bytes and special tokens; `<s>` opens a text where the tokenizer `adds_bos`."""
    vocabulary = {token: number for number, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])])
    names = {"bos_token": "<s>", "eos_token": eos, "pad_token": pad or eos, "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.chat_template = template
    return tokenizer


def said(*messages: Mapping[str, object]) -> tuple[Message, ...]:
    """Messages as a row has them."""
    return tuple(parse_message(message, "column") for message in messages)


def answered(prompt: Sequence[Mapping[str, object]], reply: Mapping[str, object], tools: str = "") -> Record:
    """A record of one reply."""
    return Record(said(*prompt), (CompletionRecord(said(reply), Role.CHOSEN, "chosen"),), 0, tools)


def encoded(tokenizer: PreTrainedTokenizerFast, record: Record) -> EncodedRecord:
    """The record's ids.

    Raises:
        BadRowError: if it has none.
    """
    (found,) = PromptEncoder(tokenizer).encode([record])
    if isinstance(found, BadRowError):
        raise found
    return found


def row_ids(tokenizer: PreTrainedTokenizerFast, record: Record) -> list[int]:
    """Prompt and reply in one."""
    found = encoded(tokenizer, record)
    return [*found.prompt_ids, *found.completion_ids[0]]
