"""The frozen probe bank: completions outside the pairs, on which dispersion is measured.

After the probes of Ren & Sutherland (arXiv 2407.10490): another prompt's chosen completion (fluent, off topic) and the
chosen completion's own tokens in random order (same tokens, no sense).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from datamodules.contracts.batches import Role
from datamodules.contracts.examples import Example, TokenizedCompletion


def probe_examples(examples: Sequence[Example], indices: Sequence[int], seed: int) -> list[Example]:
    """The examples at `indices`, each with probes appended that differ from all its own completions.

    Args:
        examples: of one without a chosen completion (a bad answer alone) nothing is permuted, and no other gets it as a probe.
        indices: of the examples to watch, at least one.
        seed: of the permutations.
    """
    watched = [examples[index] for index in indices]
    chosen = [_chosen(example) for example in watched]
    # No probe is longer than what is known to fit the model.
    longest = max(len(example.prompt_ids) + len(c.token_ids) for example in watched for c in example.completions)
    bank = []
    for number, (index, example) in enumerate(zip(indices, watched, strict=True)):
        others = [*chosen[number + 1 :], *chosen[:number]]
        candidates = {
            "other_chosen": [other[: longest - len(example.prompt_ids)] for other in others if other],
            "permuted": [_permuted(own, np.random.default_rng([seed, index])) for own in chosen[number : number + 1] if own],
        }
        bank.append(_with_probes(example, candidates))
    return bank


def with_more_probes(bank: Sequence[Example], kind: str, groups: Sequence[Sequence[Sequence[int]]]) -> list[Example]:
    """The bank with further completions of a kind, a group for each of its prompts; those a prompt has already are left out.

    Raises:
        ValueError: if there is not one group for each prompt.
    """
    if len(groups) != len(bank):
        raise ValueError(f"expected {len(bank)} groups of probes, one for each prompt of the bank, got {len(groups)}.")
    extended = []
    for example, group in zip(bank, groups, strict=True):
        known = {completion.token_ids for completion in example.completions}
        fresh = [ids for ids in dict.fromkeys(map(tuple, group)) if ids and ids not in known]
        probes = (TokenizedCompletion(ids, Role.PROBE, kind) for ids in fresh)
        extended.append(replace(example, completions=(*example.completions, *probes)))
    return extended


def _with_probes(example: Example, candidates: dict[str, list[tuple[int, ...]]]) -> Example:
    """Append the first candidate of each kind that is not yet among the completions; a kind without one is left out."""
    completions = list(example.completions)
    for kind, token_ids in candidates.items():
        known = {completion.token_ids for completion in completions}
        fresh = next((ids for ids in token_ids if ids and ids not in known), None)
        if fresh is not None:
            completions.append(TokenizedCompletion(fresh, Role.PROBE, kind))
    return replace(example, completions=tuple(completions))


def _chosen(example: Example) -> tuple[int, ...]:
    return next((completion.token_ids for completion in example.completions if completion.role is Role.CHOSEN), ())


def _permuted(token_ids: tuple[int, ...], generator: np.random.Generator) -> tuple[int, ...]:
    """All but the last token (the end of the sequence) in random order."""
    return (*generator.permutation(token_ids[:-1]).tolist(), token_ids[-1])
