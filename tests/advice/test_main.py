"""The command as it is typed."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

import advise


def test_the_command_prints_a_table_a_sentence_and_what_is_next(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(run_folder, tmp_path / "experiment" / "version_0", symlinks=True))
    monkeypatch.setattr("sys.argv", ["advise.py", "--steps", "1"])
    # Lightning's own handlers are there where no test captures them, and are shared by its loggers.
    handler = logging.StreamHandler()
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "handlers", [handler])
    monkeypatch.setattr(logging.getLogger("lightning"), "handlers", [handler])
    stream = handler.stream
    advise.main([str(run), "--from", "8", "--steps", "1", "--remedies", "dpop,stop_here"])
    printed = capsys.readouterr()
    assert "From step 8, beside going on unchanged" in printed.out
    assert "Next: " in printed.out.splitlines()[-1]
    assert "forked at step 8, which gave no warning" in printed.err
    assert "Restoring states" not in printed.err, "what forks print goes to files beside their configs"
    assert "Restoring states" in (tmp_path / "experiment/advice_version_0/from_8_steps_1/dpop/to_step_9.log").read_text()
    assert handler.stream is stream


def test_what_goes_wrong_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["advise.py"])
    with pytest.raises(SystemExit, match=r"^advise\.py: expected the folder of a run \(it has a config\.yaml\), got "):
        advise.main([str(tmp_path)])
