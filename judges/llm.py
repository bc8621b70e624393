"""The LLM judge: any OpenAI-compatible server, a rubric, and a cache on disk."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from judges.base import Judge, JudgeError, Verdict, zip_items
from judges.chat.batch import Batch, ChatLimits, Item, Prices, Usage
from judges.chat.cache import VerdictCache
from judges.chat.rubrics import MathsRubric, Rubric
from judges.chat.server import ChatServer

_LOG = logging.getLogger(__name__)


class LLMJudge(Judge):
    """Scores by asking a language model, on the whole points of a rubric.

    Verdicts are stored the moment they arrive, under a hash of the model, the rubric, the settings and the texts. So neither a
    killed program nor a dying server loses one, and nothing is judged twice: not in a later run, not in the same call (equal
    items are asked once). Only a reply that never arrived, or that holds no verdict, is asked for again. The server's address is
    not part of the hash: a server restarted elsewhere is the same judge. Two calls at the same moment do not know of each other.

    Args:
        server: The server and the model.
        rubric: The criteria; default the paper's five points for maths.
        limits: Concurrency, rate limits and retries.
        prices: What tokens cost, to fill the verdicts' `cost`.
        cache: The file of verdicts, shared by all judges and processes that name it; None remembers within one call only.
    """

    name = "llm"
    version = "1"
    scale = (1.0, 5.0)

    def __init__(
        self,
        server: ChatServer,
        rubric: Rubric | None = None,
        limits: ChatLimits | None = None,
        prices: Prices | None = None,
        cache: str | None = ".cache/judges/llm.sqlite",
    ) -> None:
        self._server = server
        self._rubric = rubric or MathsRubric()
        self._limits = limits or ChatLimits()
        self._prices = prices or Prices()
        self._cache = Path(cache) if cache is not None else None
        self._usage = Usage()
        self.name = f"llm:{server.model}"
        self.version = f"1-{self._rubric.name}-{self._rubric.version}"
        self.scale = (float(self._rubric.scale[0]), float(self._rubric.scale[1]))

    @property
    def usage(self) -> Usage:
        """Requests, tokens and cost since this judge was made."""
        return replace(self._usage)

    def judge(self, prompt: str, response: str, answer: str | None = None) -> Verdict:
        """Score one response; `answer`, a reference solution, is shown to the model."""
        return self.judge_many([prompt], [response], [answer])[0]

    def judge_many(
        self, prompts: Sequence[str], responses: Sequence[str], answers: Sequence[str | None] | None = None
    ) -> list[Verdict]:
        """Score many responses, several at a time.

        Raises:
            ValueError: if the API key is not in the environment.
            JudgeError: if some got no verdict; it carries the verdicts of the others, which are stored as well, so that calling
                again asks only for the missing ones.
        """
        items = zip_items(prompts, responses, answers)
        keys = [self._key(item) for item in items]
        with VerdictCache(self._cache) as cache:
            known = {key: verdict for key in dict.fromkeys(keys) if (verdict := cache.get(key)) is not None}
            batch = self._batch(cache)
            missing = {key: item for key, item in zip(keys, items, strict=True) if key not in known}
            if missing:
                _run(batch.run(missing))
        self._usage.from_cache += len(keys) - len(batch.verdicts) - sum(key in batch.failures for key in keys)
        _LOG.info("%s: %d verdicts, %d of them asked for now; so far %s", self.name, len(keys), len(batch.verdicts), self._usage)
        return self._collect(keys, known, batch)

    def _batch(self, cache: VerdictCache) -> Batch:
        def keep(key: str, verdict: Verdict) -> None:
            cache.put(key, verdict, self.name, self.version)

        return Batch(self._server, self._rubric, self._limits, self._prices, self._usage, keep)

    def _collect(self, keys: Sequence[str], known: dict[str, Verdict], batch: Batch) -> list[Verdict]:
        """Verdicts by position; the first of equal items bears the cost."""
        found: dict[int, Verdict] = {}
        bought = dict(batch.verdicts)
        for position, key in enumerate(keys):
            if key in bought:
                found[position] = bought.pop(key)
                known[key] = replace(found[position], cost=0.0)
            elif key in known:
                found[position] = known[key]
        if len(found) < len(keys):
            raise _failure(self.name, keys, found, batch.failures, self._cache)
        return [found[position] for position in range(len(keys))]

    def _key(self, item: Item) -> str:
        told = [self.name, self.version, self._server.temperature, self._server.max_tokens, *item]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _failure(name: str, keys: Sequence[str], found: dict[int, Verdict], failures: dict[str, str], cache: Path | None) -> JudgeError:
    lost = {position: failures[key] for position, key in enumerate(keys) if position not in found}
    first = min(lost.values(), key=lambda reason: reason.startswith("not tried"))
    kept = (
        f"The other {len(found)} verdicts are kept in {cache}; run again for the rest."
        if cache
        else "Set a cache to keep the others."
    )
    return JudgeError(
        f"{name} gave no verdict on {len(lost)} of {len(keys)} responses; the first reason: {first}. {kept}", found, lost
    )


def _run(coroutine: Coroutine[object, object, None]) -> None:
    """Run to the end; under a running event loop (a notebook), in a thread with a loop of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(coroutine)
    else:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, coroutine).result()
