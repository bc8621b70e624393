import json
import math
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from judges.reward_model import RewardModelJudge, fingerprint

WORDS = ["<pad>", "<unk>", "what", "is", "two", "and", "three", "five", "six", "a", "b"]


def save_model(folder: Path, num_labels: int = 1) -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=num_labels,
        pad_token_id=0,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)


def test_batched_scores_are_those_of_single_texts(tmp_path: Path) -> None:
    save_model(tmp_path)
    prompts, responses = ["what is two and three"] * 3, ["five", "six a b a b", "a"]
    verdicts = RewardModelJudge(str(tmp_path), batch_size=2).judge_many(prompts, responses)
    model = LlamaForSequenceClassification.from_pretrained(tmp_path)
    for prompt, response, verdict in zip(prompts, responses, verdicts, strict=True):
        ids = torch.tensor([[WORDS.index(word) for word in f"{prompt} {response}".split()]])
        assert verdict.score == pytest.approx(model(input_ids=ids).logits.item(), abs=1e-5)


def test_without_a_template_the_tokenizer_itself_puts_special_tokens_around(tmp_path: Path) -> None:
    """And none twice, where the prompt begins with them."""
    save_model(tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    tokenizer.add_special_tokens({"bos_token": "b", "sep_token": "is"})
    around = [("b", WORDS.index("b")), ("is", WORDS.index("is"))]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="b $A is", special_tokens=around)
    tokenizer.save_pretrained(tmp_path)
    model, judge = LlamaForSequenceClassification.from_pretrained(tmp_path), RewardModelJudge(str(tmp_path))
    ids = torch.tensor([[WORDS.index(word) for word in ("b", "what", "two", "five", "is")]])
    for prompt in ("what two", "b what two"):
        assert judge.judge(prompt, "five").score == pytest.approx(model(input_ids=ids).logits.item(), abs=1e-5)


def test_long_inputs_lose_their_beginning(tmp_path: Path) -> None:
    save_model(tmp_path)
    judge = RewardModelJudge(str(tmp_path), max_length=3)
    assert judge.judge("what is two and", "three five six").score == judge.judge("a", "three five six").score


def test_provenance_changes_with_the_weights(tmp_path: Path) -> None:
    save_model(tmp_path)
    judge, before = RewardModelJudge(str(tmp_path)), fingerprint(tmp_path)
    assert judge.name == f"reward_model:{tmp_path.name}"
    assert judge.version == f"2-{before}"
    assert judge.scale == (-math.inf, math.inf)
    model = LlamaForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        model.score.weight.add_(1e-3)
    model.save_pretrained(tmp_path)
    assert fingerprint(tmp_path) != before


def test_a_classifier_of_more_classes_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path, num_labels=2)
    with pytest.raises(ValueError, match="one output, got 2"):
        RewardModelJudge(str(tmp_path)).judge("a", "b")


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="got 0 and 5"):
        RewardModelJudge("x", batch_size=0, max_length=5)


def test_what_the_model_cannot_read_is_refused_with_both_numbers(tmp_path: Path) -> None:
    save_model(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(fields | {"max_position_embeddings": 4}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"at most 4 tokens, the positions of .*, got 6\. Lower max_length"):
        RewardModelJudge(str(tmp_path)).judge("what is two and three", "five")
    assert RewardModelJudge(str(tmp_path), max_length=4).judge("what is two and three", "five").score is not None
    (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    tokenizer.add_tokens(["extra"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"token ids below {len(WORDS)}, .*, got {len(WORDS)}\."):
        RewardModelJudge(str(tmp_path)).judge("what is extra", "five")
