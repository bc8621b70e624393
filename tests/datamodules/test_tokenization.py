from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from gguf import GGUFWriter
from transformers import PreTrainedTokenizerFast

from datamodules.tokens.tokenization import load_tokenizer, tokenizer_fingerprint
from tests.datamodules.conftest import END, TEMPLATE, build_tokenizer


def write_gguf(path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """A file with a llama header and no tensors."""
    writer = GGUFWriter(path, "llama")
    for name in ("context_length", "embedding_length", "block_count", "feed_forward_length", "head_count"):
        getattr(writer, f"add_{name}")(8)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(TEMPLATE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def test_a_folder_and_a_gguf_file_give_the_same_ids(tokenizer_folder: Path, tmp_path: Path) -> None:
    from_folder = load_tokenizer(str(tokenizer_folder))
    write_gguf(tmp_path / "model.gguf", from_folder)
    from_gguf = load_tokenizer(str(tmp_path / "model.gguf"))
    text = f"x ab{END}"
    assert from_gguf(text)["input_ids"] == from_folder(text)["input_ids"]
    assert from_gguf.eos_token == from_folder.eos_token == END
    assert from_gguf.chat_template == TEMPLATE


def test_a_name_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a tokenizer at"):
        load_tokenizer(str(tmp_path / "missing"))


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    endless = build_tokenizer()
    endless.eos_token = None
    endless.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="end-of-sequence token"):
        load_tokenizer(str(tmp_path))


def test_the_fingerprint_follows_what_ids_depend_on(tokenizer_folder: Path) -> None:
    original, grown, templated = build_tokenizer(), build_tokenizer(), build_tokenizer(TEMPLATE + " ")
    grown.add_tokens(["<extra>"])
    prints = [tokenizer_fingerprint(tokenizer) for tokenizer in (original, grown, templated)]
    assert len(set(prints)) == 3
    assert tokenizer_fingerprint(load_tokenizer(str(tokenizer_folder))) == tokenizer_fingerprint(
        load_tokenizer(str(tokenizer_folder))
    )


@pytest.mark.parametrize("damage", ["{", "[]", "{}", "\0"])
def test_a_damaged_tokenizer_and_a_home_of_nobody_are_named(tokenizer_folder: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(tokenizer_folder, tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "tokenizer.json").write_text(damage)
    for name in (str(tmp_path / "tokenizer"), "~nobody_here/tokenizer"):
        with pytest.raises(ValueError, match=f"expected a tokenizer at '{name}'"):
            load_tokenizer(name)
