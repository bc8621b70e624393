"""docs/diagnose.ipynb: its cells run in order, as a notebook runs them (no Jupyter is needed)."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

import prefscope

NOTEBOOK = Path(__file__).parents[1] / "docs" / "diagnose.ipynb"


def cells() -> list[str]:
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert document["nbformat"] == 4
    return ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code"]


def run_cell(source: str, names: dict[str, Any]) -> object:
    """Run a cell; returns the value of its last expression, which a notebook shows."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), str(NOTEBOOK), "exec"), names)
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names) if isinstance(last, ast.Expr) else None


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    shown = [run_cell(source, names) for source in cells()]
    # The callback's verdict and that of the function are of the same checkpoints.
    assert "2 checkpoints, step 4 to 8" in capsys.readouterr().out
    found = names["found"]
    assert shown[3] is found
    assert isinstance(found, prefscope.Diagnosis)
    assert found.verdict.startswith("2 checkpoints, step 4 to 8")
    assert list(found.table.index) == [4, 8]
    # At this rate the policy has moved, by the trainer's own account too.
    logged = json.loads((tmp_path / "notebook" / "checkpoint-8" / "trainer_state.json").read_text())
    assert logged["global_step"] == 8
    assert abs(found.table["pairs/rejected/change"].iloc[-1]) > 0.1
    assert found.page.is_file()
