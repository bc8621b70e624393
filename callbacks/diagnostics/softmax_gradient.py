"""Monitor of the loss's exact gradient at the logits, token by token, and at the likelihoods (docs/derivations.md 3.3, 3.5)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.base import BatchDiagnostic
from callbacks.mathematics.pair_tokens import PairTokens, TokenClass, pair_tokens, sums_by_class
from callbacks.mathematics.selection import sequences_by_kind, tokens_by_kind
from callbacks.readings import Counted, Values
from datamodules.contracts.batches import SIDES, CompletionBatch, sum_by_sequence
from lightning_modules.losses.base import Reads
from lightning_modules.step_output import StepOutput
from lightning_modules.token_stats import TokenStats, softmax_gradient_l1, softmax_gradient_l2
from run_folder.shown import show_values

RANKED = "ranked"
"""Kind of a scored completion between the best and the worst of its prompt."""


def by_class(l2: Tensor, pairs: PairTokens) -> dict[str, Tensor | Counted]:
    """The L2 norms of a batch's pair tokens, split by side and TokenClass.

    Args:
        l2: `[K]` L2 norm of dL/dlogits at each scored position.
        pairs: side and class of the same positions.

    Returns:
        For every side and class: `<side>/<class>/l2` (mean over the class), `<side>/<class>/tokens` (share of the side's
        tokens, in [0, 1]), and `<side>/<class>/l2_squared` (sum over the class by the side's number of tokens).
    """
    wide = l2.double()
    sums, numbers = sums_by_class(pairs, torch.stack([wide, wide.square()]))
    on_side = numbers.sum(1)
    values: dict[str, Tensor | Counted] = {}
    for side, name in enumerate(SIDES):
        for token_class in TokenClass:
            norms, squares = sums[side, token_class]
            number = numbers[side, token_class]
            values[f"{name}/{token_class.label}/l2"] = Counted(norms, number)
            values[f"{name}/{token_class.label}/tokens"] = Counted(number, on_side[side])
            values[f"{name}/{token_class.label}/l2_squared"] = Counted(squares, on_side[side])
    return values


def sequence_norms(l2: Tensor, batch: CompletionBatch) -> dict[str, Tensor]:
    """L2 norm of dL/dlogits over a whole completion: G = sqrt(sum_t l2_t^2), `{<kind>/norm: [n]}` (docs/derivations.md 4.4)."""
    norms = sum_by_sequence(l2.square(), batch.target_sequence, batch.num_sequences).sqrt()
    return {f"{kind}/norm": norms[index] for kind, index in sequences_by_kind(batch).items()}


def likelihood_gradients(
    incentives: tuple[Tensor, Tensor], logps: Tensor, reference: Tensor | None, batch: CompletionBatch
) -> dict[str, Counted]:
    """Gradients of each pair's loss in the likelihood coordinates, in natural logs (docs/derivations.md 4.3).

    With incentives d_w = -dl/dlog pi+, d_l = dl/dlog pi-, log-likelihoods L and lengths T:
        <side>/log_pi_gradient           log|dl/dpi| = log|d| - L
        <side>/log_pi_gradient_per_token log|d| - L/T: the length taken out
        corollary1                       log|(dl/dpi-)/(dl/dpi+)| = (L+ - L-) + log|d_l/d_w|  (Corollary 1; DPO: log pi+/pi-)
        corollary1_per_token             (L+/T+ - L-/T-) + log|d_l/d_w|
        ..._from_reference               with h = L - L0 in place of L (coordinate pi/pi0): what the reference had is taken out
        ..._per_token_from_reference     with h/T: both taken out

    Args:
        incentives: `([pairs], [pairs])` d_w and d_l.
        logps: `[Q]` log-likelihoods of the completions, nats.
        reference: `[Q]` the same under the reference, if it is cached.
        batch: the pairs.

    Returns:
        Sums and counts over the pairs whose incentives are not 0 (a satisfied hinge pushes nobody).
    """
    pairs, lengths = batch.pairs, batch.lengths[batch.pairs]
    incentive = torch.stack(incentives, 1)
    pushed, logs, sides = incentive != 0, incentive.abs().log(), logps.detach()[pairs]
    levels = {"": sides, "_per_token": sides / lengths}
    if reference is not None:
        changes = sides - reference[pairs]
        levels |= {"_from_reference": changes, "_per_token_from_reference": changes / lengths}
    gradients, both = logs - torch.stack(list(levels.values())), pushed.all(1)
    # `[levels, 2]` and `[levels]`, over the pairs that are pushed. Rejected minus chosen of log|d| - L is the log of the ratio
    # of the two gradients.
    by_side, numbers = torch.where(pushed, gradients, 0).sum(1), pushed.sum(0)
    ratios, number = torch.where(both, gradients.diff(dim=2).squeeze(2), 0).sum(1), both.sum()
    values: dict[str, Counted] = {}
    for name, of_sides, ratio in zip(levels, by_side, ratios, strict=True):
        values |= {f"{side}/log_pi_gradient{name}": Counted(of_sides[i], numbers[i]) for i, side in enumerate(SIDES)}
        values[f"corollary1{name}"] = Counted(ratio, number)
    return values


def completion_incentives(output: StepOutput, batch: CompletionBatch) -> dict[str, Tensor | Counted]:
    """`<kind>/incentive` of every kind that a loss weighs, where it reads more than the two log-probs of a pair, or less.

    How hard a completion is pulled up, of rejected ones pushed down (`StepOutput.pulls`). Of groups, whose loss has a derivative
    by each completion's likelihood, the gradients in the likelihood coordinates too.
    """
    pulls = output.pulls()
    assert pulls is not None, "diagnostics are read after backward"
    signs = {"chosen": 1, "rejected": -1, RANKED: 1}
    members = sequences_by_kind(batch)
    values: dict[str, Tensor | Counted] = {
        f"{kind}/incentive": sign * pulls[members[kind]] for kind, sign in signs.items() if kind in members
    }
    if output.pairs is not None and output.pairs.reads is Reads.GROUPS:
        pull, push = pulls[batch.pairs].unbind(1)
        values |= likelihood_gradients((pull, -push), output.stats.sum_by_sequence(), batch.reference_logps, batch)
    return values


def token_norms(
    token_gradients: Tensor, stats: TokenStats, batch: CompletionBatch, divergence_gradients: Tensor | None = None
) -> dict[str, Tensor]:
    """`{<kind>/l2, <kind>/l1: [n]}` norms of dL/dlogits at every token, for every kind of completion.

    The second is left out where the loss reads a KL too: statistics do not say it.
    """
    measured = {"l2": softmax_gradient_l2(token_gradients, stats, divergence_gradients)}
    if divergence_gradients is None:
        measured["l1"] = softmax_gradient_l1(token_gradients, stats)
    members = tokens_by_kind(batch)
    return {f"{kind}/{name}": values[index] for kind, index in members.items() for name, values in measured.items()}


def class_shares(means: Mapping[str, float]) -> dict[str, float]:
    """`{<side>/<class>/share}`: share of a side's squared gradient norm that lies on tokens of a class, in [0, 1]; sums to 1."""
    shares: dict[str, float] = {}
    for side in SIDES:
        squares = {label: means.get(f"{side}/{label}/l2_squared", 0.0) for label in (c.label for c in TokenClass)}
        total = sum(squares.values())
        shares |= {f"{side}/{label}/share": square / total for label, square in squares.items() if total > 0}
    return shares


def asymmetry(means: Mapping[str, float]) -> dict[str, float]:
    """Ratios rejected / chosen of mean norms: `asymmetry` of whole completions, `asymmetry_per_token` of tokens.

    1: both sides are pushed alike. Left out where the chosen side is not pushed at all.
    """
    sources = {"asymmetry": "norm", "asymmetry_per_token": "l2"}
    found = {name: [means.get(f"{side}/{source}", 0.0) for side in SIDES] for name, source in sources.items()}
    return {name: rejected / chosen for name, (chosen, rejected) in found.items() if chosen > 0}


class SoftmaxGradientMonitor(BatchDiagnostic[StepOutput]):
    """Exact gradient of each unit's loss at the logits, per token, and at the likelihoods, per pair, for any loss.

    dL/dlogits at position t is g_t (onehot(y_t) - p_t) with g_t = dL/dlogp_t as autograd delivered it, so that nothing is
    computed twice and no logits are kept (docs/derivations.md 3.3). Gradients are those of a unit's own loss (a pair's; a token's
    for SFT), free of batch size, ranks and accumulation. Every metric: docs/metrics.md.

    Args:
        every_n_steps: cadence in optimizer steps.
        histogram_every_n_steps: cadence of the TensorBoard histograms of token norms, a multiple of `every_n_steps`.
    """

    name = "softmax_grad"

    def __init__(self, every_n_steps: int = 10, histogram_every_n_steps: int = 50) -> None:
        super().__init__(every_n_steps)
        if histogram_every_n_steps < 1 or histogram_every_n_steps % every_n_steps:
            raise ValueError(
                f"expected histogram_every_n_steps to be a multiple of every_n_steps = {every_n_steps}, "
                f"got {histogram_every_n_steps}. Histograms are drawn on steps that are measured anyway."
            )
        self.histogram_every_n_steps = histogram_every_n_steps

    @override
    def keeps(self, name: str) -> bool:
        return name.endswith(("/l1", "/l2"))

    @override
    def measure(self, output: StepOutput, batch: CompletionBatch) -> Values:
        gradients, stats = output.token_gradients(), output.stats
        assert gradients is not None, "diagnostics are read after backward"
        apart = output.divergence_gradients()
        l2 = softmax_gradient_l2(gradients, stats, apart)
        values: dict[str, Tensor | Counted] = {**token_norms(gradients, stats, batch, apart), **sequence_norms(l2, batch)}
        if output.pairs is not None:
            values |= by_class(l2, pair_tokens(batch))
        incentives = output.incentives()
        if incentives is not None:
            values |= dict(zip((f"{side}/incentive" for side in SIDES), incentives, strict=True))
            values |= likelihood_gradients(incentives, stats.sum_by_sequence(), batch.reference_logps, batch)
        elif output.pairs is not None or output.labelled is not None:
            values |= completion_incentives(output, batch)
        return {f"softmax_grad/{name}": value for name, value in values.items()}

    @override
    def finish(self, means: dict[str, float]) -> dict[str, float]:
        values = {name.removeprefix("softmax_grad/"): value for name, value in means.items()}
        derived = class_shares(values) | asymmetry(values)
        kept = {name: value for name, value in values.items() if not name.endswith("/l2_squared")}
        return {f"softmax_grad/{name}": value for name, value in (kept | derived).items()}

    @override
    def draw(self, trainer: Trainer, kept: Mapping[str, Tensor]) -> None:
        step = trainer.global_step
        if step == 1 or step % self.histogram_every_n_steps == 0:
            for name, values in kept.items():
                show_values(trainer, name, values.numpy(), step)
