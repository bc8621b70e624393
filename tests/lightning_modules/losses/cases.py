"""Every preference loss there is, found by walking the package, and log-probs to feed them."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import MISSING, fields
from inspect import isabstract
from typing import get_type_hints

import torch

import lightning_modules.losses
from lightning_modules.losses.base import Loss, PreferenceLoss, SequenceLogps


def _concrete_subclasses(base: type) -> list[type]:
    found: list[type] = []
    child: type
    for child in base.__subclasses__():
        found += [child, *_concrete_subclasses(child)]
    return [cls for cls in found if not isabstract(cls) and cls.__module__.startswith("lightning_modules.losses.")]


HELD = {"DPOLoss", "HingeLoss", "SimPOLoss", "KTOLoss", "SFTDPOLoss"}


def loss_classes() -> list[type[PreferenceLoss]]:
    """Losses of the sums of pairs, in any module below `lightning_modules.losses`, by name."""
    return [cls for cls in all_loss_classes() if issubclass(cls, PreferenceLoss)]


def all_loss_classes() -> list[type[Loss]]:
    """All losses, whatever they read."""
    for module in pkgutil.walk_packages(lightning_modules.losses.__path__, "lightning_modules.losses."):
        importlib.import_module(module.name)
    return sorted(set(_concrete_subclasses(Loss)), key=lambda cls: cls.__name__)


def _held(base: type) -> list[type]:
    """What a field of this type is tried with: every strategy there is; of losses one that is bounded, one without a reference, one
    that reads the whole step, and one with a likelihood term."""
    found = _concrete_subclasses(base)
    return [cls for cls in found if not issubclass(cls, Loss) or cls.__name__ in HELD]


def variants(cls: type[PreferenceLoss]) -> dict[str, PreferenceLoss]:
    """The loss with its defaults, with each flag turned on, and with each strategy a field may hold."""
    made = {cls.__name__: cls()}
    hints = get_type_hints(cls)
    for f in fields(cls):  # type: ignore[arg-type]
        if hints[f.name] is bool:
            made[f"{cls.__name__}-{f.name}"] = cls(**{f.name: True})
        elif f.default_factory is not MISSING:
            choices = _held(hints[f.name])
            assert choices, f"{cls.__name__}.{f.name} is of type {hints[f.name]}, for which no concrete class is found"
            made |= {f"{cls.__name__}-{choice.__name__}": cls(**{f.name: choice()}) for choice in choices}
    return made


def all_losses() -> dict[str, PreferenceLoss]:
    """Every variant of every loss class, by name."""
    return {name: loss for cls in loss_classes() for name, loss in variants(cls).items()}


def random_logps(pairs: int = 16, dtype: torch.dtype = torch.float64, seed: int = 0) -> SequenceLogps:
    """Log-probs of some -1.5 nats per token with log-ratios of some 2 nats, lengths 5 to 60, and scores with a gap above 0."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, 60, (2, pairs), generator=generator)
    noise = torch.randn(2, 2, pairs, generator=generator, dtype=torch.float64)
    policy = -lengths * (1.5 + 0.2 * noise[0]).clamp_min(0.1)
    reference = policy - 2 * noise[1]
    gaps = 0.1 + torch.rand(pairs, generator=generator, dtype=torch.float64)
    return SequenceLogps(
        policy_chosen=policy[0].to(dtype),
        policy_rejected=policy[1].to(dtype),
        chosen_lengths=lengths[0],
        rejected_lengths=lengths[1],
        reference_chosen=reference[0].to(dtype),
        reference_rejected=reference[1].to(dtype),
        chosen_scores=1 + gaps,
        rejected_scores=torch.ones(pairs, dtype=torch.float64),
    )


def extreme_logps(dtype: torch.dtype) -> SequenceLogps:
    """All combinations of likelihoods from 1 down to exp(-1e4) for policy and reference, short and long completions."""
    values = torch.tensor([0.0, -1e-6, -1.0, -300.0, -1e4], dtype=dtype)
    policy_chosen, policy_rejected, reference_chosen, reference_rejected = torch.cartesian_prod(*[values] * 4).T
    pairs = policy_chosen.shape[0]
    return SequenceLogps(
        policy_chosen=policy_chosen,
        policy_rejected=policy_rejected,
        chosen_lengths=torch.tensor([1, 1000]).repeat(pairs)[:pairs],
        rejected_lengths=torch.tensor([1, 1, 1000]).repeat(pairs)[:pairs],
        reference_chosen=reference_chosen,
        reference_rejected=reference_rejected,
        chosen_scores=torch.full((pairs,), 2.0, dtype=dtype),
        rejected_scores=torch.ones(pairs, dtype=dtype),
    )
