"""What a step and a token cost the host in operations: the time of both on a GPU, which waits for the next launch."""

from __future__ import annotations

import pytest

from bench.parts.operations import step_counts, token_counts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_step_of_24_layers_stays_below_3200_operations_and_reads_nothing() -> None:
    counts = step_counts()
    assert counts["step"] < 3200, counts["most called"]
    assert counts["reads"] == 0


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:dynamo_pgo force disabled:UserWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_step_of_24_layers_stays_below_1900_operations() -> None:
    counts = step_counts(compile=True)
    assert counts["most called"]["fused"] > 0
    assert counts["step"] < 1900, counts["most called"]
    assert counts["reads"] == 0


def test_a_token_of_24_layers_stays_below_900_operations_and_is_read_with_seven_others() -> None:
    counts = token_counts()
    assert counts["token"] < 900, counts["most called"]
    assert counts["reads"] <= 1 / 8
