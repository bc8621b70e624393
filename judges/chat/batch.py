"""Sends many questions to one server: concurrency, retries with back-off, a time limit; stores every verdict when it arrives."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from judges.base import Verdict
from judges.chat.pace import Pace
from judges.chat.rubrics import GarbledReplyError, Rubric
from judges.chat.server import ChatServer, Reply, RequestRefusedError, ServerRefusedError, TryAgainError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Item = tuple[str, str, str | None]
"""Prompt, response, reference answer."""


@dataclass(frozen=True)
class ChatLimits:
    """Limits on the load of a server, and on retries when it fails.

    Raises:
        ValueError: if a count is not positive.
    """

    concurrency: int = 8
    """Requests under way at once."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_attempts: int = 6
    """Requests for one response before it counts as failed."""
    first_delay: float = 1.0
    """Seconds before the second attempt; doubles with each further one, and is shortened at random by up to a half."""
    max_delay: float = 60.0
    """Longest wait between two attempts, in seconds, also when the server asks for more."""
    give_up_after: int = 8
    """Responses that fail in a row, with all their attempts, before the rest is not tried: the server is gone."""

    def __post_init__(self) -> None:
        counts = (self.concurrency, self.max_attempts, self.give_up_after)
        rates = [rate for rate in (self.requests_per_minute, self.tokens_per_minute) if rate is not None]
        delays = (self.first_delay, self.max_delay)
        if min(counts) < 1 or not all(rate > 0 for rate in rates) or not all(0 <= delay < math.inf for delay in delays):
            raise ValueError(f"expected positive counts and rates and finite delays >= 0, got {self}. Use null for no rate.")


@dataclass(frozen=True)
class Prices:
    """What tokens cost, per million, in any one currency.

    Raises:
        ValueError: if a price is negative or not finite.
    """

    prompt: float = 0.0
    completion: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.prompt < math.inf and 0 <= self.completion < math.inf):
            raise ValueError(f"expected finite prices >= 0, got prompt {self.prompt} and completion {self.completion}.")

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Price of a request."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass
class Usage:
    """What was spent so far."""

    requests: int = 0
    """Requests that got a reply, readable or not."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    from_cache: int = 0
    """Verdicts from the cache, at no cost."""


@dataclass
class Batch:
    """One round of questions. `run` fills `verdicts` and `failures`; together they name every key."""

    server: ChatServer
    rubric: Rubric
    limits: ChatLimits
    prices: Prices
    usage: Usage
    keep: Callable[[str, Verdict], None]
    """Called with each verdict the moment it is there."""
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._pace = Pace(self.limits.requests_per_minute, self.limits.tokens_per_minute)
        self._failed_in_row = 0
        self._stopped: str | None = None

    async def run(self, items: Mapping[str, Item]) -> None:
        """Ask for a verdict on every item, by key."""
        queue = iter(items.items())
        async with self.server.connect() as client:
            workers = [self._work(client, queue) for _ in range(min(self.limits.concurrency, len(items)))]
            await asyncio.gather(*workers)
        for key in items.keys() - self.verdicts.keys() - self.failures.keys():
            self.failures[key] = f"not tried: {self._stopped}"

    async def _work(self, client: AsyncOpenAI, queue: Iterator[tuple[str, Item]]) -> None:
        for key, item in queue:
            if self._stopped is not None:
                return
            try:
                verdict = await self._judge(client, item)
            except ServerRefusedError as error:
                self.failures[key] = self._stopped = str(error)
            except RequestRefusedError as error:
                self.failures[key] = str(error)
            except (TryAgainError, GarbledReplyError) as error:
                self._note_failure(key, str(error))
            else:
                self._failed_in_row = 0
                self.verdicts[key] = verdict
                self.keep(key, verdict)

    def _note_failure(self, key: str, reason: str) -> None:
        self.failures[key] = f"{reason} (after {self.limits.max_attempts} attempts)"
        self._failed_in_row += 1
        if self._failed_in_row >= self.limits.give_up_after and self._stopped is None:
            self._stopped = f"{self._failed_in_row} responses in a row failed, the last with: {reason}"

    async def _judge(self, client: AsyncOpenAI, item: Item) -> Verdict:
        """A verdict, with the cost of every attempt it took."""
        spent = 0.0
        question = messages = self.rubric.messages(*item)
        for attempt in range(self.limits.max_attempts):
            await self._pace.wait()
            reply: Reply | None = None
            try:
                reply = await self.server.ask(client, messages, self.rubric.schema())
                spent += self._account(reply)
                return Verdict(*self.rubric.read(reply.text), spent)
            except (TryAgainError, GarbledReplyError) as error:
                if attempt + 1 == self.limits.max_attempts or self._stopped is not None:
                    raise _with_hint(error, reply) from None
                messages = self.rubric.messages_again(question, reply.text) if reply else question
                await self._back_off(attempt, error)
        raise AssertionError("the last attempt returns or raises")

    def _account(self, reply: Reply) -> float:
        cost = self.prices.cost(reply.prompt_tokens, reply.completion_tokens)
        self.usage.requests += 1
        self.usage.prompt_tokens += reply.prompt_tokens
        self.usage.completion_tokens += reply.completion_tokens
        self.usage.cost += cost
        self._pace.count(reply.prompt_tokens + reply.completion_tokens)
        return cost

    async def _back_off(self, attempt: int, error: Exception) -> None:
        asked = getattr(error, "retry_after", None)
        if asked is not None:
            self._pace.pause(min(asked, self.limits.max_delay))  # it holds for everybody; `wait` sees to it
            return
        # Random, so that requests which failed together do not come back together.
        delay = self.limits.first_delay * 2.0**attempt * random.uniform(0.5, 1.0)
        await asyncio.sleep(min(delay, self.limits.max_delay))


def _with_hint(error: Exception, reply: Reply | None) -> Exception:
    return GarbledReplyError(f"{error}; it was cut at max_tokens, allow more") if reply is not None and reply.was_cut else error
