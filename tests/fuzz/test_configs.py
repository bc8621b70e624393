"""Damaged data configs through the command line: parsed and set up, or refused in a sentence before anything is trained."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.cli import LightningCLI

from tests import tiny
from tests.conftest import Run
from tests.fuzz.configs import mutated

FAST, SLOW = 8, 200


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(LightningCLI, "_run_subcommand", lambda self, subcommand: None)
    monkeypatch.chdir(tmp_path)  # where a cache folder of a mutated name goes
    return {
        "seed_everything": 1,
        "trainer": tiny.trainer(tmp_path, [], max_steps=1),
        "model": tiny.module(tmp_path),
        "data": tiny.pair_data(tmp_path),
    }


def check(experiment: dict[str, Any], run: Run, seed: int) -> None:
    config, change = mutated(experiment, ("data",), random.Random(seed))
    Path("damaged.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    try:
        data = run("fit", "--config", "damaged.yaml").datamodule
        data.prepare_data()
        data.setup("fit")
    except SystemExit as left:
        # The parser's own refusal.
        if left.code == 2:
            return
        pytest.fail(f"seed {seed}, {change}: exit code {left.code}")
    except ValueError as error:
        # jsonargparse quotes what a constructor raised.
        if "expected" not in str(error).lower():
            pytest.fail(f"seed {seed}, {change}: {error!r}")
    except BaseException as error:
        pytest.fail(f"seed {seed}, {change}: {type(error).__name__}: {error}")
    else:
        assert len(data.dataset("train").examples) > 0, (seed, change)


@pytest.mark.parametrize("seed", range(FAST))
def test_a_damaged_config_is_set_up_or_refused(experiment: dict[str, Any], run: Run, seed: int) -> None:
    check(experiment, run, seed)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(FAST, FAST + SLOW))
def test_two_hundred_damaged_configs_are_too(experiment: dict[str, Any], run: Run, seed: int) -> None:
    check(experiment, run, seed)
