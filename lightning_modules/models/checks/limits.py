"""The limits of a model: its token ids, and the longest sequence in the layout that it runs in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from datamodules.contracts.batches import Demand
from lightning_modules.models.checks.rotary import steady_length


@dataclass(frozen=True)
class LengthLimit:
    """Tokens of a sequence (prompt plus completion) that a part of the model can take."""

    tokens: int
    """At the most."""
    part: str
    """The limited thing, in words."""
    remedy: str
    """Another remedy than shortening the data."""


@dataclass(frozen=True)
class ModelLimits:
    """Limits of one model in one layout."""

    model: str
    """Its class."""
    vocab_size: int
    """Rows of the embedding: token ids are below."""
    lengths: tuple[LengthLimit, ...]
    """Beyond one of these the model fails, or computes something else than for one sequence at a time."""
    trained_length: int | None = None
    """Positions its configuration names, where it stretches none. Beyond, rotary embeddings go on, but were never trained."""

    def require(self, demands: Iterable[Demand]) -> None:
        """Refuse what the model cannot read or write, warn of positions in the data that it was not trained at.

        Raises:
            ValueError: if a token id or a sequence is too large.
        """
        for demand in demands:
            if demand.largest_token >= self.vocab_size:
                raise ValueError(
                    f"expected token ids below {self.vocab_size}, the rows of the embedding of {self.model}, got "
                    f"{demand.largest_token} in the {demand.source}. Take the model's own tokenizer, or give the model "
                    "more rows (`resize_token_embeddings` of transformers) and save it anew."
                )
            self.require_length(demand.longest, f"the {demand.source}", demand.remedy)
            if self.trained_length is not None and demand.longest > self.trained_length:
                self._beyond_training(demand, self.trained_length)

    def warn_of_tokenizer(self, num_tokens: int) -> None:
        """Say that a tokenizer knows tokens that the model has no row for; data that hold none of them can be read."""
        if num_tokens > self.vocab_size:
            rank_zero_warn(
                f"The tokenizer has {num_tokens} tokens and the embedding of {self.model} {self.vocab_size} rows. "
                "The data hold no token without a row; a text that held one would be refused."
            )

    def _beyond_training(self, demand: Demand, positions: int) -> None:
        if demand.is_drawn:
            raise ValueError(
                f"expected the {demand.source} within the {positions} positions of {self.model} (max_position_embeddings), got up "
                f"to {demand.longest} tokens. {demand.remedy}"
            )
        rank_zero_warn(
            f"The {demand.source} has sequences of up to {demand.longest} tokens, more than the {positions} positions that "
            f"{self.model} was made for (max_position_embeddings). {demand.remedy}"
        )

    def require_length(self, tokens: int, where: str = "a batch", remedy: str = "Shorten the sequences.") -> None:
        """Refuse a sequence that is too long.

        Raises:
            ValueError: if there is one.
        """
        for limit in self.lengths:
            if tokens > limit.tokens:
                raise ValueError(
                    f"expected at most {limit.tokens} tokens (prompt plus completion), the {limit.part} of {self.model}, got "
                    f"{tokens} in {where}. {remedy}{limit.remedy}"
                )


def limits_of(model: PreTrainedModel, *, window_remedy: str | None) -> ModelLimits:
    """What the model can read.

    Args:
        model: as transformers built it.
        window_remedy: what to do where a sequence is longer than a sliding window; None if the layout has windows.
    """
    config = model.config.get_text_config()
    lengths = [*_position_tables(model), *_rotations(model)]
    if window_remedy is not None:
        lengths += _windows(config, window_remedy)
    return ModelLimits(
        model=type(model).__name__,
        vocab_size=model.get_input_embeddings().num_embeddings,
        lengths=tuple(sorted(lengths, key=lambda limit: limit.tokens)),
        trained_length=None if _is_stretched(config) else getattr(config, "max_position_embeddings", None),
    )


def _is_stretched(config: PreTrainedConfig) -> bool:
    """Whether the rotation is scaled, so that max_position_embeddings may name the length before or after that."""
    return '"factor"' in json.dumps(getattr(config, "rope_parameters", None), default=str)


def _position_tables(model: PreTrainedModel) -> Iterator[LengthLimit]:
    """Positions that are looked up, in a parameter (GPT-2, OPT) or in a table of sines (GPT-J, CTRL)."""
    rows = [
        module.num_embeddings - int(getattr(module, "offset", 0) or 0)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and _is_of_positions(name)
    ]
    rows += [
        buffer.shape[0]
        for name, buffer in model.named_buffers()
        if buffer.ndim == 2 and buffer.is_floating_point() and _is_of_positions(name)
    ]
    longest = getattr(model.config, "max_seq_len", None)  # MPT's table of slopes
    if isinstance(longest, int):
        rows.append(longest)
    if rows:
        yield LengthLimit(min(rows), "positions", "")


def _is_of_positions(name: str) -> bool:
    own = name.rpartition(".")[2]
    return "pos" in own or own == "wpe"


def _rotations(model: PreTrainedModel) -> Iterator[LengthLimit]:
    steady = steady_length(model)
    if steady is not None:
        yield LengthLimit(
            steady,
            "length up to which a token's rotary embedding does not depend on how long its batch is,",
            " Beyond it, log-probs would follow the other rows of a batch; a rope_type such as yarn or linear does not do that.",
        )


def _windows(config: PreTrainedConfig, remedy: str) -> Iterator[LengthLimit]:
    window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    if isinstance(window, int) and (not kinds or "sliding_attention" in kinds):
        yield LengthLimit(window, "sliding window", remedy)
