"""The load-balancing loss of mixture-of-experts models, where their configuration asks for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from datamodules.contracts.batches import CompletionBatch


@dataclass(frozen=True)
class BalanceLoss:
    """coefficient * E * sum_e f_e p_e; f_e is the share of tokens sent to expert e, p_e its mean probability.

    arXiv 2101.03961, Eq. 4. Over the tokens of one microbatch, prompts included, as transformers has it.
    """

    coefficient: float
    """`router_aux_loss_coef`."""
    num_experts: int
    """E."""
    top_k: int
    """Experts of a token."""
    balance: Callable[..., Tensor]
    """transformers' own function."""

    def __call__(self, router_logits: tuple[Tensor, ...], weights: Tensor) -> Tensor:
        """`[]` the loss of a batch.

        Args:
            router_logits: `[rows, E]` of each layer.
            weights: how often each row counts: 0 for padding.
        """
        return self.coefficient * self.balance(router_logits, self.num_experts, self.top_k, weights)


def balance_loss_of(model: PreTrainedModel) -> BalanceLoss | None:
    """The loss that the configuration asks for (`output_router_logits` and a coefficient); None where it asks for none.

    Raises:
        ValueError: if it asks for one that the model's code does not show.
    """
    if not asks_for_balance(model):
        return None
    balance = getattr(sys.modules[type(model).__module__], "load_balancing_loss_func", None)
    num_experts, top_k = getattr(model, "num_experts", None), getattr(model, "num_experts_per_tok", None)
    if balance is None or not isinstance(num_experts, int) or not isinstance(top_k, int):
        raise ValueError(
            f"expected a model whose load-balancing loss can be computed as transformers does, got {type(model).__name__}. Its "
            "configuration asks for that loss (output_router_logits: true): set it to false there to train without."
        )
    return BalanceLoss(_coefficient(model), num_experts, top_k, balance)


def asks_for_balance(model: PreTrainedModel) -> bool:
    """Whether the configuration wants a load-balancing loss that is not zero."""
    return bool(getattr(model.config.get_text_config(), "output_router_logits", False)) and _coefficient(model) != 0


def _coefficient(model: PreTrainedModel) -> float:
    config = model.config.get_text_config()
    names = ("router_aux_loss_coef", "aux_loss_coef")
    return float(next((getattr(source, name) for source in (model, config) for name in names if hasattr(source, name)), 0.0))


def row_weights(batch: CompletionBatch) -> Tensor:
    """`[N]` completions that each packed row belongs to: a prompt's rows count once for each of its completions."""
    ones = torch.ones_like(batch.key_index, dtype=torch.float32)
    # A prompt's rows are keys of its own segment as well as of its completions'.
    uses = torch.zeros(batch.num_rows, device=ones.device).index_add(0, batch.key_index, ones)
    return (uses - 1).clamp_min(1)
