"""Completions in progress: their prompt, their tokens so far, and their place in the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from lightning_modules.models.generation.streams import uniforms
from lightning_modules.models.policy import SampledCompletion

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
    max_new_tokens: int
    token_ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    finished: bool = False
    """Whether it has drawn an end of sequence."""

    @property
    def is_done(self) -> bool:
        """Finished, or cut."""
        return self.finished or len(self.token_ids) == self.max_new_tokens

    def take(self, token_ids: Sequence[int], logps: Sequence[float], ends: frozenset[int]) -> int:
        """Take tokens that were drawn, up to an end of sequence; returns how many.

        Raises:
            ValueError: if the logits that one was drawn from were not finite.
        """
        end = next((number for number, token_id in enumerate(token_ids) if token_id in ends), None)
        self.finished = end is not None
        count = len(token_ids) if end is None else end + 1
        if not all(map(math.isfinite, logps[:count])):
            raise ValueError("expected finite logits to sample from, got NaN or infinity. The policy's weights have diverged.")
        self.token_ids.extend(token_ids[:count])
        self.logps.extend(logps[:count])
        return count

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


def rows_of(request: Request, max_new_tokens: int) -> list[Row]:
    """A row for each completion of the request."""
    return [Row(places, max_new_tokens) for places in request.places]


def uniforms_of(request: Request, max_new_tokens: int, seed: int) -> list[npt.NDArray[np.float64]]:
    """The stream of each completion of the request, a number for every token."""
    samples = range(request.first_sample, request.first_sample + len(request.places))
    return [uniforms(seed, request.prompt, sample, max_new_tokens) for sample in samples]
