"""The second family's tokenizer: words and their parts, numbers digit by digit. Learnt from the problems themselves."""

from __future__ import annotations

import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from datamodules.tasks.characters import EOS, PAD, UNKNOWN
from studies.verdict.chores import ChoresTask

VOCABULARY, PROBLEMS = 320, 2000
_PIECES = Regex(r"\d|\n| ?[A-Za-z]+| ?[^\sA-Za-z\d]+| ")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-pair encoding within words; a blank belongs to the word that follows."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(_PIECES, behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[PAD, EOS, UNKNOWN], show_progress=False)
    items = ChoresTask(num_train=PROBLEMS).items("train")
    tokenizer.train_from_iterator((f"{item.prompt}{item.solution}" for item in items), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


if __name__ == "__main__":
    build_tokenizer().save_pretrained(Path(sys.argv[1]))
