"""Rows a thousand times longer than what is kept of them: the same ids as when everything is tokenised, from a part of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from datamodules.contracts.batches import Role
from datamodules.contracts.records import BadRowError, CompletionRecord, Message, Record
from datamodules.tokens import long_texts
from datamodules.tokens.encoding import EncodedRecord, PromptEncoder
from datamodules.tokens.long_texts import shortened
from tests.datamodules.conftest import build_tokenizer

KEPT = 40
TEXT = "the cat sat on a mat, und 42 Größe naïve 春眠不觉晓 it's (well) x_y -- 3.14 ﷺ \t end.\n"


def corpus(seed: int, words: int) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(TEXT.split(" ")) for _ in range(words))


def bpe() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    tokenizer.train_from_iterator([corpus(0, 400)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def unigram() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator([corpus(0, 400)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", unk_token="<unk>")


def seen(encoder: PromptEncoder, encoded: object) -> tuple[list[int], list[list[int]]]:
    assert isinstance(encoded, EncodedRecord)
    return encoder.keep_end(encoded.prompt_ids, KEPT), [ids[:KEPT] for ids in encoded.completion_ids]


def record(prompt: str, chosen: str, rejected: str, *, is_chat: bool) -> Record:
    def reply(text: str) -> str | tuple[Message, ...]:
        return (Message("assistant", text),) if is_chat else text

    sides = ((chosen, Role.CHOSEN, "chosen"), (rejected, Role.REJECTED, "rejected"))
    completions = tuple(CompletionRecord(reply(text), role, kind) for text, role, kind in sides)
    return Record((Message("user", prompt),) if is_chat else prompt, completions, 0)


@pytest.mark.parametrize("is_chat", [False, True])
@pytest.mark.parametrize("build", [bpe, unigram, build_tokenizer])
def test_the_kept_ids_are_those_of_the_whole(
    build: Callable[[], PreTrainedTokenizerFast], is_chat: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_texts, "_SPARE", 200)
    tokenizer = build()
    if is_chat:
        tokenizer.chat_template = build_tokenizer().chat_template
    encoder = PromptEncoder(tokenizer)
    told: list[int] = []
    tokenize = encoder._special.tokenize

    def counted(texts: Sequence[str]) -> list[list[int] | BadRowError]:
        told.append(sum(map(len, texts)))
        return tokenize(texts)

    monkeypatch.setattr(encoder._special, "tokenize", counted)
    for seed in range(3):
        prompt, chosen = corpus(seed, 2000), corpus(seed + 100, 2000)
        for case in ((prompt, chosen, "no"), ("Why? ", chosen, corpus(seed + 200, 1500)), (prompt, "yes", "no")):
            one = record(*case, is_chat=is_chat)
            (whole,) = encoder.encode([one])
            spent = sum(told)
            told.clear()
            (part,) = encoder.encode([one], KEPT)
            assert seen(encoder, part) == seen(encoder, whole), (seed, len(case[0]))
            assert sum(told) < spent / 2


def test_what_has_too_few_tokens_is_tokenised_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer of runs of blanks makes one token of what was to be enough for many."""
    monkeypatch.setattr(long_texts, "_SPARE", 200)
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    encoder = PromptEncoder(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", unk_token="<unk>"))
    one = record("a" + " " * 20_000 + "b a", "b" + " " * 20_000 + "ab" * 60, "a", is_chat=False)
    (part,), (whole,) = encoder.encode([one], KEPT), encoder.encode([one])
    assert part == whole


def test_texts_of_usual_length_and_marked_ones_stay_as_they_are() -> None:
    assert shortened(["x " * 1000, "x " * 1000 + "yes"], KEPT) is None
    assert shortened(["x", "x\ufdd0</s>\ufdd1" + "y " * 90_000], KEPT) is None
    # There is no place between two words.
    assert shortened(["x" * 200_000, "x" * 200_000 + "yes"], KEPT) is None
    prompt, whole = shortened(["x", "x" + "y" * 200_000], KEPT) or ["", ""]
    assert (prompt, len(whole)) == ("x", 1 + 16 * KEPT + 16_384)
