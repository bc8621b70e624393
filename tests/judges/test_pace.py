import asyncio

import pytest

from judges.chat.pace import Pace


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_requests_are_spread_evenly() -> None:
    clock = Clock()
    pace = Pace(60, None, clock)
    assert [pace.reserve() for _ in range(3)] == [0.0, 1.0, 2.0]
    clock.now += 2.5
    assert pace.reserve() == pytest.approx(0.5)
    clock.now += 10
    assert pace.reserve() == 0.0


def test_tokens_are_paid_for_with_time() -> None:
    clock = Clock()
    pace = Pace(None, 600, clock)
    assert [pace.reserve(), pace.reserve()] == [0.0, 0.0]
    pace.count(20)
    pace.count(10)
    assert pace.reserve() == pytest.approx(3.0)  # 30 tokens at 10 a second


def test_a_pause_holds_for_everybody() -> None:
    clock = Clock()
    pace = Pace(None, None, clock)
    pace.pause(5.0)
    pace.pause(2.0)
    assert [pace.reserve(), pace.reserve()] == [5.0, 5.0]


def test_waiting_respects_a_pause_that_comes_while_waiting() -> None:
    async def scenario() -> float:
        loop = asyncio.get_running_loop()
        pace = Pace(60 / 0.05, None)
        pace.reserve()
        start = loop.time()
        waiting = asyncio.create_task(pace.wait())
        await asyncio.sleep(0.01)
        pace.pause(0.2)
        await waiting
        return loop.time() - start

    assert asyncio.run(scenario()) >= 0.2
