"""What a step and a token cost the host in operations: the time of both on a GPU, which waits for the next launch."""

from __future__ import annotations

import pytest

from bench.operations import step_counts, token_counts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_step_of_24_layers_stays_below_4000_operations_and_reads_nothing() -> None:
    counts = step_counts()
    assert counts["step"] < 4000, counts["most called"]
    assert counts["reads"] == 0


def test_a_token_reads_one_number_off_the_device() -> None:
    assert token_counts()["reads"] <= 1
