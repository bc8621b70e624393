"""A judge that asks a reward model: a sequence classifier with one output, from a hub name or a folder."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.contracts.batches import Role
from datamodules.contracts.records import BadRowError, CompletionRecord, Message, Record, Text, reply_to
from datamodules.tokens.encoding import EncodedRecord, PromptEncoder
from datamodules.tokens.layout import text_layout
from datamodules.tokens.special_tokens import Ids
from judges.base import Judge, JudgeError, Verdict, zip_items

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Item = tuple[str, str, str | None]
"""Prompt, response, gold answer."""
_POOLING = "reward_pooling"
"""Configuration entry of a model whose head this project trained (`lightning_modules.models.scalars.scalar_model`)."""

VERSION = "2"
NUM_SAMPLES = 16  # of each file; training changes weights everywhere, so reading gigabytes would tell no more
SAMPLE_SIZE = 1 << 16  # bytes


class RewardModelJudge(Judge):
    """Scores with the single logit of a Hugging Face sequence-classification model; unbounded, higher is better.

    The token ids are those that the model was trained on. Of a folder that this project saved they come from the very function
    that made them for training. Of another one they are its chat template's, with nothing put before, behind or left out; without
    a template the prompt and the response stand one after the other, with the tokenizer's own special tokens around. Special tokens
    that a response spells are the words they are. Too long inputs lose the beginning of the prompt, never the response's end. The
    model is loaded when first used.

    Args:
        model: Hub name, or a folder written by `save_pretrained`.
        batch_size: Responses scored at once.
        max_length: Tokens kept of prompt and response together.
        device: Where the model runs, e.g. `cpu` or `cuda`.
        trust_remote_code: Run the Python files that come with the model, with all your rights: read them first.

    Raises:
        ValueError: if a size is not positive.
    """

    name = "reward_model"
    version = VERSION
    scale = (-math.inf, math.inf)

    def __init__(
        self, model: str, batch_size: int = 16, max_length: int = 1024, device: str = "cpu", trust_remote_code: bool = False
    ) -> None:
        if batch_size < 1 or max_length < 1:
            raise ValueError(f"expected batch_size and max_length >= 1, got {batch_size} and {max_length}. Give counts.")
        self.name = f"reward_model:{Path(model).name if Path(model).is_dir() else model}"
        self.version = f"{VERSION}-{fingerprint(Path(model))}" if Path(model).is_dir() else VERSION
        self._source = model
        self._trust_remote_code = trust_remote_code
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
            ValueError: if the model has more than one output or no head, or adds up what it gives for each token.
            JudgeError: if the chat template refuses some, or leaves out what they say.
        """
        found = self._ids(zip_items(prompts, responses, answers))
        ids = {i: one for i, one in enumerate(found) if not isinstance(one, Exception)}
        order = sorted(ids, key=lambda i: len(ids[i]))
        scores: dict[int, float] = {}
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            scores.update(zip(batch, self._score([ids[i] for i in batch]), strict=True))
        verdicts = {i: Verdict(score, "logit of the reward model") for i, score in scores.items()}
        if len(verdicts) < len(found):
            failures = {i: str(one) for i, one in enumerate(found) if isinstance(one, Exception)}
            raise JudgeError(
                f"{len(failures)} of {len(found)} responses have no ids: {next(iter(failures.values()))}", verdicts, failures
            )
        return [verdicts[i] for i in range(len(found))]

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        tokenizer: PreTrainedTokenizerBase = self._load(AutoTokenizer)
        return tokenizer

    @cached_property
    def _model(self) -> PreTrainedModel:
        from transformers import AutoModelForSequenceClassification

        self._require_last_token(self._config)
        model, found = self._load(AutoModelForSequenceClassification, output_loading_info=True, ignore_mismatched_sizes=True)
        lost = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
        lost |= {name for name in found["unexpected_keys"] if name.startswith("score.")}
        if lost:
            others = ", ".join(sorted(set(found["unexpected_keys"]) - lost)[:4]) or "nothing else"
            raise ValueError(
                f"expected a reward model with one output, got {self._source}, where {', '.join(sorted(lost)[:4])} cannot be read "
                f"as one linear layer `score` without bias (it has also {others}). It would score at random: name another."
            )
        if model.config.num_labels != 1:
            raise ValueError(
                f"expected a reward model with one output, got {model.config.num_labels} in {self._source}. Name another."
            )
        return model.to(self._device).eval()

    @cached_property
    def _config(self) -> PreTrainedConfig:
        from transformers import AutoConfig

        config: PreTrainedConfig = self._load(AutoConfig)
        return config

    def _load(self, kind: Any, **options: bool) -> Any:  # noqa: ANN401 (one of the Auto classes of transformers, and what it gives)
        try:
            return kind.from_pretrained(self._source, trust_remote_code=self._trust_remote_code, **options)
        except ValueError as error:
            if "trust_remote_code" not in str(error):
                raise
            raise ValueError(
                f"expected a reward model whose code is part of transformers, got {self._source}, which brings its own Python "
                "files (auto_map). They would run with all your rights: read them, and then give the judge trust_remote_code: true."
            ) from error

    def _require_last_token(self, config: PreTrainedConfig) -> None:
        if hasattr(config, "likelihood_scale"):
            raise ValueError(
                f"expected a reward model with one output, got a causal LM whose likelihood is the reward in {self._source}. "
                "Use it as a reward (ModelReward), or name another."
            )
        if getattr(config, _POOLING, "last") != "last":
            raise ValueError(
                f"expected a reward model that is read at the last token, got one that is read at every token in {self._source}. "
                "Use it as a reward (ModelReward), or name another."
            )

    def _ids(self, items: Sequence[Item]) -> list[Ids | BadRowError]:
        """Token ids of each prompt with its response, or why there are none."""
        template = self._tokenizer.chat_template
        is_text = template == text_layout(self._tokenizer)
        found: Iterable[Ids | BadRowError]
        if template is None:
            found = map(self._surrounded, self._encoder.encode([_record(f"{ask}\n", said, is_text=True) for ask, said, _ in items]))
        elif is_text or hasattr(self._config, _POOLING):
            found = map(_whole, self._encoder.encode([_record(ask, said, is_text=is_text) for ask, said, _ in items]))
        else:
            found = self._encoder.rendered([_record(ask, said, is_text=False) for ask, said, _ in items])
        return [one if isinstance(one, BadRowError) else self._encoder.keep_end(one, self._max_length) for one in found]

    def _render(self, prompt: str, response: str) -> str:
        """The text from which the tokenizer makes the scored ids, without the special tokens that it puts before every text."""
        (ids,) = self._ids([(prompt, response, None)])
        if isinstance(ids, BadRowError):
            raise JudgeError(str(ids))
        leading = self._encoder.leading_ids
        return str(self._tokenizer.decode(ids[len(leading) :] if ids[: len(leading)] == leading else ids))

    def _surrounded(self, found: EncodedRecord | BadRowError) -> Ids | BadRowError:
        """The ids with the tokenizer's own last token instead of an end of sequence."""
        ids = _whole(found)
        if isinstance(ids, BadRowError):
            return ids
        return [*(ids[:-1] if ids[-1] == self._tokenizer.eos_token_id else ids), *self._encoder.trailing_ids]

    @cached_property
    def _encoder(self) -> PromptEncoder:
        return PromptEncoder(self._tokenizer)

    def _score(self, rows: list[Ids]) -> list[float]:
        import torch

        self._require_readable(rows)
        padding = self._padding({row[-1] for row in rows})
        # The classifier takes the last token that is not this one for a row's last token.
        self._model.config.get_text_config().pad_token_id = padding
        longest = max(map(len, rows))
        ids = torch.tensor([row + [padding] * (longest - len(row)) for row in rows], device=self._device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self._device)
        # A score does not depend on the precision of the run that asks for it.
        with torch.inference_mode(), torch.autocast(torch.device(self._device).type, enabled=False):
            logits: Tensor = self._model(input_ids=ids, attention_mask=mask).logits
        return [float(logit) for logit in logits[:, 0].float()]

    def _require_readable(self, rows: list[Ids]) -> None:
        largest, num_tokens = max(map(max, rows)), self._model.get_input_embeddings().num_embeddings
        longest, positions = max(map(len, rows)), getattr(self._config.get_text_config(), "max_position_embeddings", None)
        if largest >= num_tokens:
            raise ValueError(
                f"expected token ids below {num_tokens}, the rows of the embedding of {self._source}, got {largest}. The tokenizer "
                "in that folder belongs to another model."
            )
        if positions is not None and longest > positions:
            raise ValueError(
                f"expected at most {positions} tokens, the positions of {self._source}, got {longest}. Lower max_length, which "
                "cuts the beginning of long prompts."
            )

    def _padding(self, last: set[int]) -> int:
        """The tokenizer's padding token, or the first of the vocabulary that no row ends with."""
        own = self._tokenizer.pad_token_id
        return own if own is not None and own not in last else min(set(range(len(last) + 1)) - last)


def _whole(found: EncodedRecord | BadRowError) -> Ids | BadRowError:
    return found if isinstance(found, BadRowError) else [*found.prompt_ids, *found.completion_ids[0]]


def _record(prompt: str, response: str, *, is_text: bool) -> Record:
    asked: Text = prompt if is_text else (Message("user", prompt),)
    return Record(asked, (CompletionRecord(reply_to(asked, response), Role.SAMPLE, "judged"),), 0)


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
