"""What a scalar head sees of the answers of a fold while the body stays as it is, at every depth that is asked about.

After each third layer, counted from the last, and the body's norm: the hidden state of an answer's last token, as `LastTokenReward`
reads it, and those of all its tokens added up, as `TokenSumReward` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from typing_extensions import override

from bench.alpaca_held_out import Answers, Floats, answers, kept
from bench.alpaca_pairs import of_fold
from datamodules.batches import CompletionBatch
from lightning_modules.models.reward_model import Pooling, TokenSumReward, completion_rows
from lightning_modules.models.scalar import load_scalar

FILE = "features.npy"
"""`[answers, 2, depths, d]`, beside the fold's data."""
POOLINGS: tuple[Pooling, ...] = ("last", "sum")
"""In the order of the second dimension."""
EVERY = 3
"""Layers from one depth to the next."""


@dataclass(frozen=True)
class Featured:
    """Answers with what heads see of them."""

    answers: Answers
    features: Mapping[int, Floats]
    """Layers of the body -> `[answers, d]`."""


def featured(model: str, pooling: Pooling, cut: bool, fold: int) -> Featured:
    """The answers to a fold's held-out prompts, at every depth or with the whole body alone."""
    values = kept(of_fold(fold) / FILE, partial(HiddenStates, model), model, fold)[:, POOLINGS.index(pooling)]
    depths = list(enumerate(depths_of(len(load_scalar(model).model.base_model.layers))))
    return Featured(answers(model, fold), {depth: values[:, place] for place, depth in (depths if cut else depths[-1:])})


def depths_of(num_layers: int) -> list[int]:
    """Numbers of layers that are looked at; the last is all."""
    return list(range(num_layers, 0, -EVERY))[::-1]


class HiddenStates(nn.Module):
    """What heads see, at all depths from one pass.

    Args:
        model: the folder; its architecture keeps `layers` and `norm` in its body, as Llama does.
    """

    def __init__(self, model: str) -> None:
        super().__init__()
        self.reward = TokenSumReward(load_scalar(model).model).eval()
        self._body = self.reward.model.base_model
        self._after: dict[int, Tensor] = {}
        self._depths = depths_of(len(self._body.layers))
        for depth in self._depths:
            self._body.layers[depth - 1].register_forward_hook(partial(self._keep, depth))

    @override
    def forward(self, batch: CompletionBatch) -> Tensor:
        """`[Q, 2, depths, d]`."""
        self.reward(batch)
        hidden = torch.stack([self._body.norm(self._after[depth]).squeeze(0) for depth in self._depths], 1)
        summed = hidden.new_zeros(batch.num_sequences, *hidden.shape[1:])
        summed.index_add_(0, batch.target_sequence, hidden[completion_rows(batch)])
        return torch.stack([hidden[batch.last_row], summed], 1)

    def _keep(self, depth: int, layer: nn.Module, given: object, output: Tensor) -> None:
        self._after[depth] = output
