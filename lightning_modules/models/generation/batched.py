"""The engine that decodes many completions together: finished rows leave, and new prompts start when there is room."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from datamodules.contracts.prompts import Sampling
from lightning_modules.models.generation.batching import Batching
from lightning_modules.models.generation.completions import Place, Request, Row, requests, rows_of, uniforms_of
from lightning_modules.models.generation.decoders.decoder import CohortT, Decoder
from lightning_modules.models.generation.draw import draw
from lightning_modules.models.generation.engine import SamplingEngine
from lightning_modules.models.generation.progress import ProgressMeter
from lightning_modules.models.policy import OnProgress, SampledCompletion


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
        batching: how much is decoded together; what suits the model's device by default.
    """

    def __init__(self, decoder: Decoder[CohortT], batching: Batching | None = None) -> None:
        self._decoder = decoder
        self._batching = batching

    @override
    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        parameters: Sampling,
        *,
        num_samples: int,
        ends: frozenset[int],
        seed: int,
        on_progress: OnProgress | None,
    ) -> list[list[SampledCompletion]]:
        wanted = requests(prompts, num_samples, greedy=parameters.temperature == 0)
        meter = ProgressMeter(on_progress, sum(len(request.places) for request in wanted), parameters.max_new_tokens)
        with self._decoder.mode():
            longest = max((len(request.prompt) for request in wanted), default=0)
            batching = self._batching or self._decoder.batching(longest + parameters.max_new_tokens)
            call = _Call(self._decoder, batching, parameters, ends, seed)
            for request in wanted:
                call.waiting.extend(request.pieces(batching.max_rows))
            while call.waiting or call.flights:
                meter.step(*call.step())
        return [[call.done[prompt, sample] for sample in range(num_samples)] for prompt in range(len(prompts))]


@dataclass
class _Flight(Generic[CohortT]):
    """A cohort with its rows, in the same order."""

    cohort: CohortT
    rows: list[Row]
    uniforms: Tensor
    """`[R, max_new_tokens]` float64, on the model's device."""
    hidden: Tensor | None
    """`[R, H]`, what predicts the first tokens; None once they are drawn."""
    last: Tensor
    """`[R]` int64, the tokens drawn last, on the model's device; empty before the first."""
    num_drawn: int = 0

    def keep(self, order: list[int]) -> None:
        """Row i becomes what row `order[i]` was."""
        self.rows = [self.rows[number] for number in order]
        self.cohort.keep(order)
        index = torch.tensor(order, device=self.last.device)
        self.uniforms, self.last = self.uniforms[index], self.last[index]


class _Call(Generic[CohortT]):
    """One call of `generate`: what waits, what is under way, what is done."""

    def __init__(
        self, decoder: Decoder[CohortT], batching: Batching, parameters: Sampling, ends: frozenset[int], seed: int
    ) -> None:
        self._decoder, self._batching, self._parameters = decoder, batching, parameters
        self._ends, self._seed = ends, seed
        self.waiting: deque[Request] = deque()
        self.flights: list[_Flight[CohortT]] = []
        self.done: dict[Place, SampledCompletion] = {}

    def step(self) -> tuple[int, list[int]]:
        """A few tokens for every row, new ones included; returns how many tokens, and the lengths of the rows done by them."""
        self._start()
        left = min(self._parameters.max_new_tokens - flight.num_drawn for flight in self.flights)
        drawn = [self._draw() for _ in range(min(left, self._batching.tokens_per_read))]
        num_tokens = self._read(drawn)
        lengths = [len(row.token_ids) for flight in self.flights for row in flight.rows if row.is_done]
        if lengths:
            self._land()
        return num_tokens, lengths

    def _start(self) -> None:
        num_active = sum(len(flight.rows) for flight in self.flights)
        count = self._batching.next_bucket(self.waiting, num_active, equal_lengths=self._decoder.equal_lengths)
        if not count:
            return
        bucket = [self.waiting.popleft() for _ in range(count)]
        copies = [len(request.places) for request in bucket]
        max_new_tokens = self._parameters.max_new_tokens
        cohort, hidden = self._decoder.start([request.prompt for request in bucket], copies, max_new_tokens)
        rows = [row for request in bucket for row in rows_of(request, max_new_tokens)]
        streams = np.stack([stream for request in bucket for stream in uniforms_of(request, max_new_tokens, self._seed)])
        uniforms = torch.from_numpy(streams).to(hidden.device)
        self.flights.append(_Flight(cohort, rows, uniforms, hidden, torch.empty(0, dtype=torch.int64, device=hidden.device)))

    def _draw(self) -> tuple[Tensor, Tensor]:
        """`[B]` next tokens and their log-probs; the device goes on with them before the host has seen them."""
        uniforms = _joined([flight.uniforms[:, flight.num_drawn] for flight in self.flights])
        token_ids, logps = draw(self._decoder.logits(self._hidden()), uniforms, self._parameters)
        for flight, last in zip(self.flights, torch.split(token_ids, [len(flight.rows) for flight in self.flights]), strict=True):
            flight.last, flight.hidden = last, None
            flight.num_drawn += 1
        return token_ids, logps

    def _hidden(self) -> Tensor:
        """`[B, H]`. New rows' first tokens are drawn together with the others' next."""
        going = [flight for flight in self.flights if flight.hidden is None]
        parts = [flight.hidden for flight in self.flights if flight.hidden is not None]
        if going:
            last = _joined([flight.last for flight in going])
            parts.insert(0, self._decoder.advance([flight.cohort for flight in going], last))
        return _joined(parts)

    def _read(self, drawn: Sequence[tuple[Tensor, Tensor]]) -> int:
        """Give the rows what was drawn for them; returns how many tokens they took. The one wait for the device."""
        token_ids, logps = (torch.stack(tensors) for tensors in zip(*drawn, strict=True))
        # float64 holds every token id, so that both come in one copy.
        columns = torch.stack([token_ids.double(), logps.double()]).cpu().transpose(1, 2)
        rows = [row for flight in self.flights for row in flight.rows]
        each = zip(rows, columns[0].long().tolist(), columns[1].tolist(), strict=True)
        return sum(row.take(ids, values, self._ends) for row, ids, values in each)

    def _land(self) -> None:
        """Take rows that are done out of the batch."""
        for flight in self.flights:
            order = _survivors([not row.is_done for row in flight.rows])
            for row in flight.rows:
                if row.is_done:
                    self.done.update(dict.fromkeys(row.places, row.completion()))
            if order and len(order) < len(flight.rows):
                flight.keep(order)
            elif not order:
                flight.rows = []
        self.flights = [flight for flight in self.flights if flight.rows]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _survivors(alive: Sequence[bool]) -> list[int]:
    """The numbers of rows that stay: each in its place, the holes filled from the back, so that little is moved."""
    count = sum(alive)
    movers = [number for number in range(count, len(alive)) if alive[number]]
    return [number if alive[number] else movers.pop() for number in range(count)]
