"""Monitor of the paper's toy (Sec. 3.2): the probability of every class of responses and its gradients, seed by seed.

Two readings of "unseen" stand side by side. `unseen` is the mass on the responses that are in no pair of the seed. What the
paper plots under that name (Fig. 2 and 3) is `papers_unseen`, found from its values (docs/derivations.md 7.2): the mean over ALL
responses outside the prompt's own pair, other prompts' chosen ones included, whose probability is not 0 in float32; as
responses underflow its denominator falls and the curve jumps.

Shapes: S seeds, P prompts of each, V responses, n pairs.
"""

from __future__ import annotations

import math
from types import MappingProxyType

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.diagnostics.probe_bank import BankBatch, ProbeMonitor
from callbacks.readings import Values
from datamodules.contracts.batches import SIDES, CompletionBatch
from lightning_modules.step_output import StepOutput
from lightning_modules.token_stats import softmax_gradient_l2

CLASS_OF_KIND = MappingProxyType(
    {
        "chosen": "own_chosen",
        "rejected": "own_rejected",
        "other_chosen": "other_chosen",
        "other_rejected": "other_rejected",
        "unseen": "unseen",
    }
)
"""Class of the ledger that each kind of response in the probe bank belongs to."""


SEED_ROWS = "toy_seeds"
"""Name of the rows that hold every reading of every seed, as lists."""


def ledger(batch: CompletionBatch, logps: Tensor) -> dict[str, Tensor]:
    """Probability mass of each class of responses, `{class: [prompts]}`; over the classes it sums to 1.

    Args:
        batch: every response of every prompt once, its kind one of CLASS_OF_KIND.
        logps: `[Q]` log-probs of the responses, nats.

    Raises:
        ValueError: if a kind is unknown: the ledger would not sum to 1.
    """
    unknown = sorted(set(batch.kinds) - set(CLASS_OF_KIND))
    if unknown:
        raise ValueError(
            f"expected probes of kinds {sorted(CLASS_OF_KIND)}, got {unknown}. ToyLedger reads datamodules.toy.data only."
        )
    probs = logps.detach().double().exp()
    return {name: _sum_by_prompt(probs * _is_kind(batch, kind), batch) for kind, name in CLASS_OF_KIND.items()}


def papers_unseen(batch: CompletionBatch, logps: Tensor) -> Tensor:
    """The paper's "unseen" curve, `[prompts]`: mean probability of the off-pair responses that have not underflowed.

    Args:
        batch: every response of every prompt once.
        logps: `[Q]` log-probs of the responses, nats.
    """
    probs = logps.detach().float().exp()
    counted = (probs > 0) & ~_is_kind(batch, "chosen") & ~_is_kind(batch, "rejected")
    return _sum_by_prompt(probs.double() * counted, batch) / _sum_by_prompt(counted.double(), batch)


def pair_gradients(output: StepOutput, batch: CompletionBatch) -> dict[str, Tensor] | None:
    """Gradient of each pair's own loss in three coordinates, from its incentives d (docs/derivations.md 7.3).

    Returns:
        `{<coordinate>/<side>: [n]}`, None where the objective has no pairs:
            log10_pi: log10 |dl/dpi| = (log |d| - log pi) / log 10; minus infinity where d is 0
            log_pi: dl/dlog pi, which is -d_w for the chosen and +d_l for the rejected side
            logit: L2 norm of the side's row d (onehot(y) - p)
    """
    pulls, token_gradients = output.pulls(), output.token_gradients()
    if output.pairs is None or pulls is None or token_gradients is None:
        return None
    pull, push = pulls[batch.pairs].unbind(1)
    incentives = pull, -push
    # A response is one token, so that sequences and scored positions are the same.
    logps, norms = output.stats.logps.detach(), softmax_gradient_l2(token_gradients, output.stats)
    gradients: dict[str, Tensor] = {}
    for side, sign, incentive, sequence in zip(SIDES, (-1, 1), incentives, batch.pairs.unbind(1), strict=True):
        gradients[f"log10_pi/{side}"] = (incentive.double().abs().log() - logps[sequence].double()) / math.log(10)
        gradients[f"log_pi/{side}"] = sign * incentive.double()
        gradients[f"logit/{side}"] = norms[sequence].double()
    return gradients


def log10_mean(values: Tensor, seeds: Tensor, num_seeds: int) -> Tensor:
    """`[S]` log10 of each seed's mean of 10^values, without leaving log space: gradients in pi reach 10^46."""
    grouped = torch.stack([values[seeds == number].mul(math.log(10)).logsumexp(0) for number in range(num_seeds)])
    return (grouped - seeds.bincount(minlength=num_seeds).log()) / math.log(10)


def mean_by_seed(values: Tensor, seeds: Tensor, num_seeds: int) -> Tensor:
    """`[S]` mean of each seed's values."""
    return values.new_zeros(num_seeds).index_add(0, seeds, values) / seeds.bincount(minlength=num_seeds)


class ToyLedger(ProbeMonitor):
    """Five-class ledger, the paper's "unseen" curve and gradients in pi, log pi and logits, for any objective on the toy.

    `toy/<reading>` is the mean over seeds, `toy/spread/<reading>` the standard deviation over them; every seed's own value is in
    `<run>/diagnostics/toy_seeds.jsonl`. The ledger at step n is that of the policy after step n, from step 0 on. Gradients at step
    n are those step n took, so they belong to the policy after step n - 1; an objective without pairs (SFT) has none.

    Args:
        every_n_steps: cadence in optimizer steps. Step 1 is always measured.
    """

    name = "toy"

    def __init__(self, every_n_steps: int = 20) -> None:
        super().__init__(every_n_steps=every_n_steps, probe_every_n_steps=every_n_steps)
        self.schedule = self.batch_schedule
        self._seen: list[tuple[Tensor, dict[str, Tensor]]] = []
        self._by_seed: dict[str, Tensor] = {}

    @override
    def measure(self, output: StepOutput, batch: CompletionBatch) -> Values:
        gradients = pair_gradients(output, batch)
        if gradients is not None:
            # Which seed a prompt belongs to shows only beside the whole bank: wait for it.
            self._seen.append((batch.input_ids[batch.target_index[batch.pairs[:, 0]]], gradients))
        return {}

    @override
    def measure_bank(self, bank: BankBatch) -> Values:
        logps, tokens = bank.stats.sum_by_sequence(), _prompt_tokens(bank.batch)
        num_prompts = int(bank.batch.row_numbers.max()) + 1
        num_seeds = len(tokens) // num_prompts
        seeds = tokens // num_prompts
        masses = ledger(bank.batch, logps)
        self._by_seed = {name: mean_by_seed(values, seeds, num_seeds) for name, values in masses.items()}
        self._by_seed["own_chosen_min"] = masses["own_chosen"].reshape(num_seeds, -1).amin(1)
        self._by_seed["papers_unseen"] = mean_by_seed(papers_unseen(bank.batch, logps), seeds, num_seeds)
        self._by_seed |= self._gradients(num_prompts, num_seeds)
        return _mean_and_spread(self._by_seed)

    @override
    def flush(self, trainer: Trainer) -> dict[str, float]:
        self.write_row(trainer, SEED_ROWS, {"step": trainer.global_step, **_finite_lists(self._by_seed)})
        return super().flush(trainer)

    def _gradients(self, num_prompts: int, num_seeds: int) -> dict[str, Tensor]:
        """`{gradient/<coordinate>/<side>: [S]}` of the step's pairs."""
        if not self._seen:
            return {}
        seeds = torch.cat([tokens for tokens, _ in self._seen]) // num_prompts
        pairs = {name: torch.cat([gradients[name] for _, gradients in self._seen]) for name in self._seen[0][1]}
        self._seen = []
        return {
            f"gradient/{name}": (log10_mean if name.startswith("log10") else mean_by_seed)(values, seeds, num_seeds)
            for name, values in pairs.items()
        }


def _mean_and_spread(by_seed: dict[str, Tensor]) -> Values:
    values = {f"toy/{name}": seeds[seeds.isfinite()] for name, seeds in by_seed.items()}
    spreads = {f"toy/spread/{name}": seeds.std().reshape(1) for name, seeds in by_seed.items() if len(seeds) > 1}
    return values | {name: spread[spread.isfinite()] for name, spread in spreads.items()}


def _finite_lists(by_seed: dict[str, Tensor]) -> dict[str, list[float | None]]:
    """A list of S numbers for each reading; null where a gradient is 0 and its logarithm is no number."""
    return {name: [value if math.isfinite(value) else None for value in seeds.tolist()] for name, seeds in by_seed.items()}


def _prompt_tokens(batch: CompletionBatch) -> Tensor:
    """`[prompts]` the token each prompt is: the row that predicts its responses."""
    return batch.input_ids.new_zeros(batch.num_prompts).scatter(0, batch.prompt_number, batch.input_ids[batch.target_index])


def _is_kind(batch: CompletionBatch, kind: str) -> Tensor:
    return torch.tensor([own == kind for own in batch.kinds], device=batch.prompt_number.device)


def _sum_by_prompt(values: Tensor, batch: CompletionBatch) -> Tensor:
    return values.new_zeros(batch.num_prompts).index_add(0, batch.prompt_number, values)
