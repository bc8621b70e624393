"""The page that a run leaves in its own folder, and what is said where it cannot be made."""

from __future__ import annotations

import io
import logging
import warnings
from functools import partial
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from torch.optim import SGD
from tqdm import tqdm
from transformers.utils.logging import set_tqdm_hook
from transformers.utils.logging import tqdm as hf_tqdm

from callbacks.diagnostics.likelihood import LikelihoodMonitor
from callbacks.output import run_report
from callbacks.output.console import say, silence_libraries
from callbacks.output.run_report import REPORT, RunReport, write_report
from callbacks.output.run_summary import next_steps
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.preference import PreferenceModule
from tests.callbacks.rig import BigramSpec, fit
from tests.reports.made_up import write_run

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "trainer").glob("*.yaml"))


def test_the_page_lies_in_the_folder_and_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "made_up" / "version_0", {})
    write_report(folder)
    assert (folder / REPORT).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert next_steps(folder, "")[0] == f"Report:  {folder / REPORT}"


def test_a_report_that_fails_leaves_the_run_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Path) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr(run_report, "write_report", broken)
    callback, printed = RunReport(), io.StringIO()
    callback._console = Console(file=printed, width=300)
    module = PreferenceModule(BigramSpec(), DPOLoss(beta=0.5), partial(SGD, lr=0.3), cache_dir=str(tmp_path / "cache"))
    trainer = fit(module, [LikelihoodMonitor(1, 2), callback], tmp_path)
    assert trainer.global_step == 4
    folder = trainer.log_dir
    assert printed.getvalue() == (f"No report was written (RuntimeError: no font). To try again: python report.py {folder}\n")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_trainer_that_fits_reports_before_it_sums_up(path: Path) -> None:
    classes = [callback["class_path"].rsplit(".", 1)[1] for callback in yaml.safe_load(path.read_text())["callbacks"]]
    if "RunCheckpoint" in classes:
        assert classes[-2:] == ["RunReport", "RunSummary"]


def test_what_is_said_clears_the_bar_first() -> None:
    out = io.StringIO()
    with tqdm(total=2, file=out, ascii=True, mininterval=0) as bar:
        bar.update()
        say(Console(file=out, width=40), "alarm [not markup]")
    before, after = out.getvalue().split("alarm [not markup]\n")
    # The line that holds the bar is emptied, and the bar is drawn again below.
    assert before.endswith("\r")
    assert before.split("\r")[-2].strip() == ""
    assert "1/2" in after


def test_libraries_advertise_nothing_and_short_work_has_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    kept = list(log.filters)
    previous = set_tqdm_hook(None)
    try:
        silence_libraries()
        told = ("💡 Tip: For seamless cloud uploads, try installing [litmodels]", "epoch ends")
        advert, news = (log.makeRecord(log.name, logging.INFO, "", 0, said, (), None) for said in told)
        assert not log.filter(advert)
        assert log.filter(news)
        for _ in hf_tqdm(range(3), desc="Loading weights", mininterval=0):
            pass
        with warnings.catch_warnings(record=True) as caught:
            warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated, use another", FutureWarning, stacklevel=1)
        assert caught == []
    finally:
        log.filters[:] = kept
        set_tqdm_hook(previous)
    assert "Loading weights" not in capsys.readouterr().err
