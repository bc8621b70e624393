"""A character tokenizer for the arithmetic task, in the form every Hugging Face tool reads."""

from __future__ import annotations

import string
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
CHARACTERS = string.ascii_letters + string.digits + " \n.,?#+-*/="


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character: letters, digits and the signs the problems use; any other character is unknown.

    There is no beginning-of-sequence token, and nothing is added to a text.
    """
    vocabulary = {token: number for number, token in enumerate((PAD, EOS, UNKNOWN, *CHARACTERS))}
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


def main(folder: str) -> None:
    """Write the tokenizer to a folder: `python -m datamodules.tasks.arithmetic_tokenizer FOLDER`."""
    build_tokenizer().save_pretrained(Path(folder))


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])
