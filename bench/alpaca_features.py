"""Features of a fold's answers for a scalar head over a frozen body: the whole body, or cut at several depths.

Behind the layers that are kept and the body's norm: the hidden state of an answer's last token, as `LastTokenReward` reads it, and
those of all its tokens added up, as `TokenSumReward` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import AutoConfig
from typing_extensions import override

from bench.alpaca_held_out import Answers, Floats, answers, kept
from bench.alpaca_pairs import Fold
from datamodules.batches import CompletionBatch
from lightning_modules.models.reward_model import Pooling, TokenSumReward, completion_rows
from lightning_modules.models.scalar import load_scalar

POOLINGS: tuple[Pooling, ...] = ("last", "sum")
"""In the order of the features' second dimension."""
CUTS = (0.4, 0.5, 0.6, 0.7, 0.8)
"""Shares of the layers that a cut body keeps."""


@dataclass(frozen=True)
class Featured:
    """Answers with what heads see of them."""

    answers: Answers
    features: Mapping[int, Floats]
    """Layers of the body -> `[answers, d]`."""


def featured(model: str, pooling: Pooling, cut: bool, fold: Fold) -> Featured:
    """The answers to a fold's held-out prompts, of a body that is cut at each depth or of the whole one.

    `[answers, 2, depths, d]` stay beside the fold's data: getting them takes minutes.
    """
    depths = depths_of(AutoConfig.from_pretrained(model).num_hidden_layers, cut)
    file = fold.folder / ("cut.npy" if cut else "whole.npy")
    values = kept(file, partial(HiddenStates, model, depths), model, fold)[:, POOLINGS.index(pooling)]
    return Featured(answers(model, fold), {depth: values[:, place] for place, depth in enumerate(depths)})


def depths_of(num_layers: int, cut: bool) -> list[int]:
    """Numbers of layers that are kept."""
    return sorted({max(1, round(share * num_layers)) for share in CUTS}) if cut else [num_layers]


class HiddenStates(nn.Module):
    """What heads see, at all depths from one pass.

    Args:
        model: the folder; its architecture keeps `layers` and `norm` in its body, as Llama does.
        depths: numbers of layers, ascending.
    """

    def __init__(self, model: str, depths: Sequence[int]) -> None:
        super().__init__()
        self.reward = TokenSumReward(load_scalar(model, depths[-1]).model).eval()
        self._body = self.reward.model.base_model
        self._after: dict[int, Tensor] = {}
        self._depths = depths
        for depth in depths:
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
