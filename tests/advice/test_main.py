"""The command as it is typed."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import pytest

import advise
from advice.settings import Config


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


@pytest.mark.parametrize(
    ("devices", "printed", "code", "said"),
    [
        (1, "usage: train.py\nerror: data.train.path: expected a file", 2, "data.train.path: expected a file All"),
        (2, "[process 1] error: expected pairs, got none.\nGive some.", 1, "expected pairs, got none. Give some. All"),
        (2, "", 1, "expected the fork to train, got no word of why it did not. All"),
    ],
)
def test_a_fork_that_fails_is_told_by_its_own_words(
    devices: int, printed: str, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process is trained here, several in their own; arguments that cannot be read leave with 2, and say why on the way."""

    def here(_: object) -> None:
        print(printed)
        raise SystemExit(code)

    def apart(command: list[str], stdout: TextIO, **_: object) -> SimpleNamespace:
        assert command[2:] == ["fit", "--config", str(tmp_path / "to_step_1.yaml")]
        stdout.write(printed)
        return SimpleNamespace(returncode=code)

    monkeypatch.setattr("train.main", here)
    monkeypatch.setattr("subprocess.run", apart)
    config: Config = {"trainer": {"devices": devices}}
    with pytest.raises(ValueError, match=f"^{re.escape(said)} that was printed: .*to_step_1.log$"):
        advise.quiet_fit(tmp_path / "to_step_1.yaml", config)
    code = 130
    with pytest.raises(SystemExit) as stopped:
        advise.quiet_fit(tmp_path / "to_step_1.yaml", config)
    assert stopped.value.code == 130
