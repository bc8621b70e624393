"""A judge that is a reward model: a sequence classifier with one output, from a hub name or a folder."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from judges.base import Judge, Verdict, zip_items

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NUM_SAMPLES = 16  # of each file; training changes weights everywhere, so reading gigabytes would tell no more
SAMPLE_SIZE = 1 << 16  # bytes


class RewardModelJudge(Judge):
    """Scores with the single logit of a Hugging Face sequence-classification model; unbounded, higher is better.

    The prompt and the response are laid out by the tokenizer's chat template if it has one, else one after the other. Too long
    inputs lose the beginning of the prompt, never the response's end. The model is loaded when first used.

    Args:
        model: Hub name, or a folder written by `save_pretrained`.
        batch_size: Responses scored at once.
        max_length: Tokens kept of prompt and response together.
        device: Where the model runs, e.g. `cpu` or `cuda`.

    Raises:
        ValueError: if a size is not positive.
    """

    name = "reward_model"
    version = "1"
    scale = (-math.inf, math.inf)

    def __init__(self, model: str, batch_size: int = 16, max_length: int = 1024, device: str = "cpu") -> None:
        if batch_size < 1 or max_length < 1:
            raise ValueError(f"expected batch_size and max_length >= 1, got {batch_size} and {max_length}. Give counts.")
        self.name = f"reward_model:{Path(model).name if Path(model).is_dir() else model}"
        self.version = f"1-{fingerprint(Path(model))}" if Path(model).is_dir() else "1"
        self._source = model
        self._batch_size = batch_size
        self._max_length = max_length
        self._device = device

    def judge(self, prompt: str, response: str, answer: str | None = None) -> Verdict:
        """Score one response; `answer` is not used."""
        return self.judge_many([prompt], [response])[0]

    def judge_many(
        self, prompts: Sequence[str], responses: Sequence[str], answers: Sequence[str | None] | None = None
    ) -> list[Verdict]:
        """Score many responses in batches of similar length.

        Raises:
            ValueError: if the model has more than one output, or adds up what it gives for each token.
        """
        texts = [self._render(prompt, response) for prompt, response, _ in zip_items(prompts, responses, answers)]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        scores: dict[int, float] = {}
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            scores.update(zip(batch, self._score([texts[i] for i in batch]), strict=True))
        return [Verdict(scores[i], "logit of the reward model") for i in range(len(texts))]

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self._source)
        tokenizer.truncation_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    @cached_property
    def _model(self) -> PreTrainedModel:
        from transformers import AutoModelForSequenceClassification

        model = AutoModelForSequenceClassification.from_pretrained(self._source).to(self._device).eval()
        if model.config.num_labels != 1:
            raise ValueError(
                f"expected a reward model with one output, got {model.config.num_labels} in {self._source}. Name another."
            )
        if getattr(model.config, "reward_pooling", "last") != "last":
            raise ValueError(
                f"expected a reward model that is read at the last token, got one that is read at every token in {self._source}. "
                "Use it as a reward (ModelReward), or name another."
            )
        if model.config.pad_token_id is None:
            model.config.pad_token_id = self._tokenizer.pad_token_id  # it finds the last token by it
        return model

    def _render(self, prompt: str, response: str) -> str:
        if self._tokenizer.chat_template is None:
            return f"{prompt}\n{response}"
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False))

    def _score(self, texts: list[str]) -> list[float]:
        import torch

        with torch.inference_mode():
            encoded = self._tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=self._max_length)
            logits: Tensor = self._model(**encoded.to(self._device)).logits
        return [float(logit) for logit in logits[:, 0].float()]


def fingerprint(folder: Path) -> str:
    """Eight hex digits that change when a file of a model folder does (by name, size and evenly spaced samples of its content)."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as content:
            for sample in range(NUM_SAMPLES):
                content.seek(size * sample // NUM_SAMPLES)
                digest.update(content.read(SAMPLE_SIZE))
    return digest.hexdigest()[:8]
