"""Tokenizers of one token a character, in the form every Hugging Face tool reads."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"


def character_tokenizer(characters: Sequence[str]) -> PreTrainedTokenizerFast:
    """A token for each of the characters, in their order after padding (0), end of sequence (1) and unknown (2).

    There is no beginning-of-sequence token, and nothing is added to a text.
    """
    vocabulary = {token: number for number, token in enumerate((PAD, EOS, UNKNOWN, *characters))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    # A class of its own, because "." leaves out the line break.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
