"""One tiny run for all tests of advice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.advice.rig import dpo_config, make_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DPO run of 12 steps with checkpoints at 4, 8 and 12; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("advised")
    return make_run(folder, dpo_config(folder))
