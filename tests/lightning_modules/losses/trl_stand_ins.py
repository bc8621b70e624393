"""TRL 1.16's own loss code, called on given log-probs: unbound trainer methods with a light stand-in for the trainer.

TRL computes its losses inside trainers, from a model's outputs. The stand-ins hand it one pair at a time, with sequence log-probs
spread evenly over the completion's tokens, so that its batch mean is that pair's loss and autograd reaches the sequence log-probs.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from dataclasses import dataclass
from types import MappingProxyType, MethodType, SimpleNamespace

import torch
from torch import Tensor

from lightning_modules.losses.base import SequenceLogps

with warnings.catch_warnings():
    # TRL warns on import that its experimental trainers may change; the version is pinned for these tests.
    warnings.filterwarnings("ignore", message="You are importing from 'trl.experimental'", category=UserWarning)
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer
    from trl.trainer.dpo_trainer import DPOTrainer as DPOTrainer
    from trl.trainer.grpo_trainer import GRPOTrainer as GRPOTrainer
    from trl.trainer.kto_trainer import KTOTrainer as KTOTrainer

PROMPT_TOKENS = 3
ACCELERATOR = SimpleNamespace(device=torch.device("cpu"), gather=lambda tensor: tensor, gather_for_metrics=lambda tensor: tensor)


def dpo_trainer_losses(logps: SequenceLogps, *loss_types: str, weights: tuple[float, ...] = (1.0,), **settings: object) -> Tensor:
    """`[pairs]` from `DPOTrainer._compute_loss`, differentiable."""
    trainer = SimpleNamespace(
        **DPO_DEFAULTS | settings,
        model=SimpleNamespace(training=False),
        accelerator=ACCELERATOR,
        loss_types=list(loss_types),
        loss_weights=list(weights),
        args=SimpleNamespace(discopop_tau=settings.get("discopop_tau", 0.05)),
        _metrics={"eval": defaultdict(list)},
    )
    return torch.stack([_dpo_pair_loss(trainer, pair) for pair in pairs_of(logps)])


def kto_trainer_losses(logps: SequenceLogps, beta: float, kl: Tensor, chosen_weight: float, rejected_weight: float) -> Tensor:
    """`[pairs]` weighted sum of both sides' losses from `KTOTrainer._compute_loss`, given its KL estimate `[]`, differentiable."""
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        accelerator=ACCELERATOR,
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        calculate_KL=True,
        beta=beta,
        desirable_weight=chosen_weight,
        undesirable_weight=rejected_weight,
        loss_type="kto",
        _total_train_tokens=0,
        _compute_kl_logps=lambda model, batch: kl.reshape(1),
        _metrics={"eval": defaultdict(list)},
    )
    # Its mean runs over the two completions of the pair, ours is their sum.
    return torch.stack([2 * _kto_pair_loss(trainer, pair) for pair in pairs_of(logps)])


def cpo_trainer_losses(chosen: Tensor, rejected: Tensor, loss_type: str, **settings: float) -> Tensor:
    """`[pairs]` from `CPOTrainer.cpo_loss`, without its likelihood term, differentiable."""
    losses: Tensor
    losses, _, _ = CPOTrainer.cpo_loss(_cpo_trainer(loss_type, **settings), chosen, rejected)
    return losses


def cpo_trainer_total(logps: SequenceLogps, beta: float, cpo_alpha: float) -> Tensor:
    """`[pairs]` from `CPOTrainer.get_batch_loss_metrics`: the contrast plus the per-token likelihood term, differentiable."""
    return torch.stack([_cpo_pair_total(pair, beta, cpo_alpha) for pair in pairs_of(logps)])


def orpo_trainer_odds_ratio_term(mean_chosen: Tensor, mean_rejected: Tensor, weight: float) -> Tensor:
    """`[pairs]` from `ORPOTrainer.odds_ratio_loss` in float32, to be subtracted from the likelihood term, differentiable."""
    trainer = SimpleNamespace(beta=weight, accelerator=ACCELERATOR)
    term: Tensor = ORPOTrainer.odds_ratio_loss(trainer, mean_chosen, mean_rejected)[0]
    return term


@dataclass(frozen=True, eq=False)
class Pair:
    """One pair as `[1]` tensors."""

    policy: tuple[Tensor, Tensor]
    reference: tuple[Tensor, Tensor]
    lengths: tuple[int, int]

    def token_logps(self) -> Tensor:
        """`[2, T]`: the policy's log-probs spread evenly over each completion, zero elsewhere."""
        mask = self.completion_mask()[:, 1:]
        means = torch.stack([side[0] / length for side, length in zip(self.policy, self.lengths, strict=True)])
        return mask * means[:, None]

    def completion_mask(self) -> Tensor:
        """`[2, PROMPT_TOKENS + longer completion]`: 1 at completion tokens."""
        columns = torch.arange(PROMPT_TOKENS + max(self.lengths))
        ends = PROMPT_TOKENS + torch.tensor(self.lengths)
        return ((columns >= PROMPT_TOKENS) & (columns < ends[:, None])).long()


def pairs_of(logps: SequenceLogps) -> list[Pair]:
    """The pairs one by one, still part of the autograd graph."""
    reference_chosen, reference_rejected = logps.reference()
    return [
        Pair(
            policy=(logps.policy_chosen[i : i + 1], logps.policy_rejected[i : i + 1]),
            reference=(reference_chosen[i : i + 1], reference_rejected[i : i + 1]),
            lengths=(int(logps.chosen_lengths[i]), int(logps.rejected_lengths[i])),
        )
        for i in range(logps.policy_chosen.shape[0])
    ]


DPO_DEFAULTS = MappingProxyType(
    {
        "beta": 0.1,
        "label_smoothing": 0.0,
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "aux_loss_enabled": False,
        "ld_alpha": None,
        "precompute_ref_logps": True,
        "use_weighting": False,
        "_total_train_tokens": 0,
    }
)


def _dpo_pair_loss(trainer: SimpleNamespace, pair: Pair) -> Tensor:
    inputs = _inputs(pair) | {"ref_chosen_logps": pair.reference[0], "ref_rejected_logps": pair.reference[1]}
    loss: Tensor = DPOTrainer._compute_loss(trainer, model_returning(pair.token_logps()), inputs, return_outputs=False)
    return loss


def _kto_pair_loss(trainer: SimpleNamespace, pair: Pair) -> Tensor:
    inputs = _inputs(pair) | {
        "label": torch.tensor([True, False]),
        "ref_logps": torch.cat(pair.reference),
        "ref_KL_logps": torch.zeros(1, dtype=pair.policy[0].dtype),
    }
    loss: Tensor = KTOTrainer._compute_loss(trainer, model_returning(pair.token_logps()), inputs, return_outputs=False)
    return loss


def _cpo_pair_total(pair: Pair, beta: float, cpo_alpha: float) -> Tensor:
    trainer = _cpo_trainer("sigmoid", beta=beta)
    mean_nll = -pair.policy[0].squeeze(0) / pair.lengths[0]
    trainer.concatenated_forward = lambda model, batch: (*pair.policy, torch.zeros(1), torch.zeros(1), mean_nll)
    trainer.cpo_loss = MethodType(CPOTrainer.cpo_loss, trainer)
    trainer.cpo_alpha, trainer.aux_loss_enabled = cpo_alpha, False
    loss: Tensor = CPOTrainer.get_batch_loss_metrics(trainer, model=None, batch={})[0]
    return loss


def _cpo_trainer(loss_type: str, **settings: float) -> SimpleNamespace:
    defaults = {"beta": 0.1, "label_smoothing": 0.0, "simpo_gamma": 0.0, "alpha": 0.0}
    return SimpleNamespace(**defaults | settings, loss_type=loss_type, accelerator=ACCELERATOR)


def _inputs(pair: Pair) -> dict[str, Tensor]:
    mask = pair.completion_mask()
    return {"input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask}


def model_returning(token_logps: Tensor) -> object:
    blank = torch.zeros_like(token_logps)
    outputs = SimpleNamespace(log_probs=token_logps, entropy=blank, mean_logits=blank, is_top1=blank.bool())
    return lambda **inputs: outputs
