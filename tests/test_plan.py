"""The plan of a run against numbers counted by hand, and what each option does to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import AutoConfig

from bench import plan
from bench.plan import Run, Shape, memory, operations
from tests import tiny

CONFIG = AutoConfig.for_model(**tiny.POLICY["init_args"]["config"])
RUN = Run(pairs=10, prompt=10, response=20, gpus=1, max_tokens=100, precision="32-true")


def test_a_tiny_model_is_counted_by_hand() -> None:
    shape = Shape.of(CONFIG)
    # Of a layer: queries and outputs 16 x 16, keys and values 16 x 8, three of 16 x 24, two norms; then the last norm.
    layers = 2 * (2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 24 + 2 * 16) + 16
    assert (shape.in_layers, shape.parameters, shape.keys) == (layers, layers + 2 * 31 * 16, 8)
    parts = memory(shape, RUN)
    assert parts["weights"] == parts["gradients"] == 4 * shape.parameters
    assert parts["optimizer (two moments, float32)"] == 8 * shape.parameters
    # 50 rows of a pair with 70 key rows: 10 of the prompt and 30 of each completion.
    assert parts["activations"] == pytest.approx(100 * 2 * (36 * 16 + 16 * 24 + 8 * 8 * 70 / 50))
    assert operations(shape, RUN) == 10 * ((6 + 2) * layers * 50 + (8 + 2) * 31 * 16 * 40)


def test_options_move_memory_as_they_should() -> None:
    shape = Shape.of(CONFIG)
    plain = memory(shape, RUN)
    sharded = memory(shape, replace(RUN, gpus=4, is_sharded=True))
    assert sharded["weights"] == plain["weights"] / 4
    assert sharded["gathered weights"] > 0 == plain["gathered weights"]
    assert memory(shape, replace(RUN, gpus=4)) == plain, "replicas hold it all"
    assert memory(shape, replace(RUN, checkpoints=True))["activations"] < plain["activations"]
    assert memory(shape, replace(RUN, precision="bf16-true"))["weights"] == plain["weights"] / 2
    assert operations(shape, replace(RUN, checkpoints=True)) > operations(shape, RUN)


def test_the_command_says_whether_it_fits(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    CONFIG.save_pretrained(str(tmp_path))
    for tokens, words in (("1000", "of 80 GiB: fits"), ("1000000000", "does NOT fit")):
        plan.main(["--model", str(tmp_path), "--pairs", "1000", "--gpus", "2", "--sharded", "--max_tokens", tokens])
        said = capsys.readouterr().out
        assert words in said
        assert "2 x H100" in said
        assert "tokens/s at an MFU of 0.15" in said
