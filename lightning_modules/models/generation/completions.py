"""Completions in progress: whose they are, their tokens so far, and where they go when they are done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from lightning_modules.models.generation.streams import uniforms
from lightning_modules.models.policy import SampledCompletion, SamplingParameters

Place = tuple[int, int]
"""(prompt of the call, sample of the prompt)."""


@dataclass(frozen=True)
class Request:
    """A prompt and the completions wanted of it; a prompt that the call names twice is one request."""

    prompt: tuple[int, ...]
    places: list[tuple[Place, ...]] = field(default_factory=list)
    """For each completion to draw, where it goes."""
    first_sample: int = 0
    """Number of the first of them among the prompt's samples."""

    def pieces(self, max_rows: int) -> list[Request]:
        """The same in requests of at most `max_rows` completions."""
        starts = range(0, len(self.places), max_rows)
        return [Request(self.prompt, self.places[start : start + max_rows], start) for start in starts]


@dataclass
class Row:
    """A completion in progress."""

    places: tuple[Place, ...]
    uniforms: npt.NDArray[np.float64]
    token_ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    finished: bool = False
    """Whether it has drawn an end of sequence."""

    @property
    def is_done(self) -> bool:
        """Finished, or cut."""
        return self.finished or len(self.token_ids) == len(self.uniforms)

    def next_uniform(self) -> float:
        """The number that decides the next token."""
        return float(self.uniforms[len(self.token_ids)])

    def append(self, token_id: int, logp: float, ends: frozenset[int]) -> None:
        """Take the token that was drawn."""
        self.token_ids.append(token_id)
        self.logps.append(logp)
        self.finished = token_id in ends

    def completion(self) -> SampledCompletion:
        """What the caller gets."""
        return SampledCompletion(tuple(self.token_ids), torch.tensor(self.logps, dtype=torch.float32), self.finished)


def requests(prompts: Sequence[Sequence[int]], num_samples: int, *, greedy: bool) -> list[Request]:
    """The prompts of a call, each once, longest first: a batch holds like lengths, and the largest comes first.

    The k-th mention of a prompt asks for its samples k * num_samples and on. Greedy completions of a prompt are all the same
    and drawn once.

    Raises:
        ValueError: if a prompt is empty or no completion is asked for.
    """
    if num_samples < 1 or not all(map(len, prompts)):
        empty = [number for number, prompt in enumerate(prompts) if not len(prompt)]
        raise ValueError(
            f"expected num_samples >= 1 and prompts of at least one token, got {num_samples} and no token in prompts {empty}. "
            "Start an empty prompt with the tokenizer's beginning or end of sequence."
        )
    merged: dict[tuple[int, ...], Request] = {}
    for number, prompt in enumerate(map(tuple, prompts)):
        request = merged.setdefault(prompt, Request(prompt))
        places = [(number, sample) for sample in range(num_samples)]
        if not greedy:
            request.places.extend((place,) for place in places)
        elif request.places:
            request.places[0] += tuple(places)
        else:
            request.places.append(tuple(places))
    return sorted(merged.values(), key=lambda request: len(request.prompt), reverse=True)


def rows_of(request: Request, parameters: SamplingParameters, seed: int) -> list[Row]:
    """A row for each completion of the request, with its stream."""
    count = parameters.max_new_tokens
    numbered = enumerate(request.places, start=request.first_sample)
    return [Row(places, uniforms(seed, request.prompt, sample, count)) for sample, places in numbered]
