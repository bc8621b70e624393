"""The engine that decodes many completions together: rows leave when they are done, prompts start when there is room."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor
from typing_extensions import override

from lightning_modules.models.generation.batching import Batching
from lightning_modules.models.generation.completions import Place, Request, Row, requests, rows_of
from lightning_modules.models.generation.decoder import CohortT, Decoder
from lightning_modules.models.generation.draw import draw
from lightning_modules.models.generation.engine import SamplingEngine
from lightning_modules.models.generation.progress import ProgressMeter
from lightning_modules.models.policy import OnProgress, SampledCompletion, SamplingParameters


class BatchedEngine(SamplingEngine, Generic[CohortT]):
    """Decodes with one of our decoders.

    What the seed promises: every completion has a stream of uniforms of its own, made from the seed, the prompt's tokens and
    the sample's number alone, and token t is the inverse of the policy's distribution at uniform t. So a completion does not
    depend on the other prompts, their order, how they are batched, `num_samples`, or the global random state, and a larger
    `max_new_tokens` prolongs it. What is left is rounding: matrix products of another batch size may differ in the last bits, and
    where a uniform lies within that of a boundary between two tokens, another token is drawn (greedy: where two logits tie
    within it). The same call with the same batching, threads and machine gives the same bits.

    Args:
        decoder: runs the model.
        batching: how much is decoded together.
    """

    def __init__(self, decoder: Decoder[CohortT], batching: Batching | None = None) -> None:
        self._decoder = decoder
        self._batching = batching or Batching()

    @override
    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        parameters: SamplingParameters,
        *,
        num_samples: int,
        ends: frozenset[int],
        seed: int,
        on_progress: OnProgress | None,
    ) -> list[list[SampledCompletion]]:
        call = _Call(self._decoder, self._batching, parameters, ends, seed)
        for request in requests(prompts, num_samples, greedy=parameters.temperature == 0):
            call.waiting.extend(request.pieces(self._batching.max_rows))
        num_completions = sum(len(request.places) for request in call.waiting)
        meter = ProgressMeter(on_progress, num_completions, parameters.max_new_tokens)
        with self._decoder.mode():
            while call.waiting or call.flights:
                meter.step(*call.step())
        return [[call.done[prompt, sample] for sample in range(num_samples)] for prompt in range(len(prompts))]


@dataclass
class _Flight(Generic[CohortT]):
    """A cohort with its rows, in the same order."""

    cohort: CohortT
    rows: list[Row]


class _Call(Generic[CohortT]):
    """One call of `generate`: what waits, what is under way, what is done."""

    def __init__(
        self, decoder: Decoder[CohortT], batching: Batching, parameters: SamplingParameters, ends: frozenset[int], seed: int
    ) -> None:
        self._decoder, self._batching, self._parameters = decoder, batching, parameters
        self._ends, self._seed = ends, seed
        self.waiting: deque[Request] = deque()
        self.flights: list[_Flight[CohortT]] = []
        self.done: dict[Place, SampledCompletion] = {}

    def step(self) -> tuple[int, list[int]]:
        """One token for every row, new ones included; returns how many tokens, and the lengths of the rows done by them."""
        hidden = self._go_on()
        # Its first tokens are drawn together with the others' next.
        hidden += self._start()
        rows = [row for flight in self.flights for row in flight.rows]
        self._draw(torch.cat(hidden), rows)
        lengths = [len(row.token_ids) for row in rows if row.is_done]
        if lengths:
            self._land()
        return len(rows), lengths

    def _go_on(self) -> list[Tensor]:
        if not self.flights:
            return []
        last = torch.tensor([row.token_ids[-1] for flight in self.flights for row in flight.rows])
        return [self._decoder.advance([flight.cohort for flight in self.flights], last)]

    def _start(self) -> list[Tensor]:
        num_active = sum(len(flight.rows) for flight in self.flights)
        count = self._batching.next_bucket(self.waiting, num_active, equal_lengths=self._decoder.equal_lengths)
        if not count:
            return []
        bucket = [self.waiting.popleft() for _ in range(count)]
        copies = [len(request.places) for request in bucket]
        cohort, hidden = self._decoder.start([request.prompt for request in bucket], copies, self._parameters.max_new_tokens)
        rows = [row for request in bucket for row in rows_of(request, self._parameters, self._seed)]
        self.flights.append(_Flight(cohort, rows))
        return [hidden]

    def _draw(self, hidden: Tensor, rows: Sequence[Row]) -> None:
        uniforms = torch.tensor([row.next_uniform() for row in rows], dtype=torch.float64, device=hidden.device)
        token_ids, logps = draw(self._decoder.logits(hidden), uniforms, self._parameters)
        for row, token_id, logp in zip(rows, token_ids.tolist(), logps.tolist(), strict=True):
            row.append(token_id, logp, self._ends)

    def _land(self) -> None:
        """Take rows that are done out of the batch."""
        for flight in self.flights:
            order = _survivors([not row.is_done for row in flight.rows])
            for row in flight.rows:
                if row.is_done:
                    self.done.update(dict.fromkeys(row.places, row.completion()))
            if order and len(order) < len(flight.rows):
                flight.cohort.keep(order)
            flight.rows = [flight.rows[number] for number in order]
        self.flights = [flight for flight in self.flights if flight.rows]


def _survivors(alive: Sequence[bool]) -> list[int]:
    """The numbers of rows that stay: each in its place, the holes filled from the back, so that little is moved."""
    count = sum(alive)
    movers = [number for number in range(count, len(alive)) if alive[number]]
    return [number if alive[number] else movers.pop() for number in range(count)]
