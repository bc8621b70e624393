"""Samples, the exported policy, the summary and the dashboard of a run."""

from __future__ import annotations

import io
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch.optim import SGD

from callbacks.answers.samples import SampleLogger, as_markdown
from callbacks.diagnostics.degradation import DegradationMonitor
from callbacks.diagnostics.dispersion import DispersionMonitor
from callbacks.diagnostics.likelihood import LikelihoodMonitor
from callbacks.output.run_summary import RunSummary, next_steps, summary_lines
from callbacks.saving.checkpoint import RunCheckpoint
from callbacks.saving.policy_export import PolicyExport, free_folder
from datamodules.contracts.prompts import Sampling
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.preference import PreferenceModule
from run_folder.rows import read_rows, tracks_of
from tests.callbacks.rig import PAIRS, BigramPolicy, BigramSpec, InterruptAt, Interrupted, ProbedPairs, events, fit

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


def dpo(folder: Path) -> PreferenceModule:
    return PreferenceModule(BigramSpec(), DPOLoss(beta=0.5), partial(SGD, lr=0.3), cache_dir=str(folder / "cache"))


def test_samples_stand_beside_the_chosen_completion(tmp_path: Path) -> None:
    logger = SampleLogger(every_n_steps=3, num_prompts=2, sampling=Sampling(max_new_tokens=2, temperature=1.0))
    trainer = fit(dpo(tmp_path), [logger], tmp_path)
    rows = read_rows(Path(trainer.log_dir or ""), "samples")
    assert [(row["step"], row["example"]) for row in rows] == [(step, number) for step in (0, 3, 4) for number in (0, 1)]
    # The rig's policy writes 1 + twice the temperature, and as many tokens as it may.
    assert rows[0] == {"step": 0, "example": 0, "prompt": "ab", "chosen": "cde.", "greedy": "aa.", "sampled": "cc."}
    assert rows[1]["prompt"] == "b"
    texts = events(trainer).Tensors("samples/1/text_summary")
    assert [event.step for event in texts] == [0, 3, 4]
    assert "**chosen**\n\n    g." in texts[0].tensor_proto.string_val[0].decode()


def test_nothing_in_a_sample_is_read_as_markup() -> None:
    text = as_markdown({"greedy": "# no heading\n```\n<b>bold</b>"})
    assert text == "**greedy**\n\n    # no heading\n    ```\n    <b>bold</b>"


def test_a_policy_without_an_end_is_sampled(tmp_path: Path) -> None:
    class Endless(ProbedPairs):
        tokenizer = None  # type: ignore[assignment]

    data = Endless(PAIRS, [[0]], 1)
    trainer = fit(dpo(tmp_path), [SampleLogger(num_prompts=1)], tmp_path, data=data)
    assert read_rows(Path(trainer.log_dir or ""), "samples")[0]["greedy"] == "1 1 1"


def test_the_policy_is_saved_as_it_ended(tmp_path: Path) -> None:
    module = dpo(tmp_path)
    trainer = fit(module, [PolicyExport()], tmp_path)
    saved = torch.load(Path(trainer.log_dir or "") / "policy" / "bigram.pt", weights_only=True)
    assert saved.keys() == module.policy.state_dict().keys()
    assert all(torch.equal(saved[name], value) for name, value in module.policy.state_dict().items())
    assert not torch.equal(saved["table"], BigramPolicy().table), "it was trained"


def test_an_earlier_export_stays(tmp_path: Path) -> None:
    names = []
    for _ in range(4):
        folder = free_folder(tmp_path, 7)
        folder.mkdir()
        names.append(folder.name)
    assert names == ["policy", "policy_step_7", "policy_step_7_2", "policy_step_7_3"]


def test_an_export_without_a_folder_is_refused_before_the_work_is_done(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a logger with a folder to save the policy in, got none"):
        fit(dpo(tmp_path), [PolicyExport()], tmp_path, logger=False)


def test_an_error_exports_nothing(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        fit(dpo(tmp_path), [PolicyExport(), InterruptAt(2)], tmp_path)
    assert list(tmp_path.rglob("policy*")) == []


def test_a_run_resumed_after_its_last_step_exports_once(tmp_path: Path) -> None:
    first = fit(dpo(tmp_path), [RunCheckpoint(1)], tmp_path)
    checkpoint = Path(first.log_dir or "") / "checkpoints" / "last.ckpt"
    second = fit(dpo(tmp_path), [RunCheckpoint(1), PolicyExport()], tmp_path, ckpt_path=checkpoint)
    assert [path.name for path in Path(second.log_dir or "").glob("policy*")] == ["policy"]


def test_the_summary_tells_start_end_and_change() -> None:
    bank = "likelihood/bank"
    tracks = {
        f"{bank}/chosen/logp": [(0, -10.0), (40, -12.5)],
        f"{bank}/chosen/change": [(0, 0.0), (40, -2.5)],
        f"{bank}/chosen/change_per_token": [(0, 0.0), (40, -0.25)],
        # A resumed run: the first row is not step 0, the change counts from it all the same.
        f"{bank}/rejected/logp": [(20, -15.0), (40, -18.0)],
        f"{bank}/rejected/change": [(20, -5.0), (40, -8.0)],
        f"{bank}/rejected/change_per_token": [(20, -0.5), (40, -0.75)],
        f"{bank}/drop_share": [(20, 1.25), (40, 1.5)],
        "arithmetic/accuracy": [(0, 0.5), (40, 0.375)],
        "arithmetic/accuracy_of_something": [(0, 1.0)],
    }
    lines = {line.name: line for line in summary_lines(tracks)}
    assert list(lines) == [
        "log-likelihood, chosen",
        "log-likelihood, rejected",
        "growth of log pi+ - log pi-",
        "drop share (> 1: chosen fell too)",
        "arithmetic/accuracy",
    ]
    rejected = lines["log-likelihood, rejected"]
    assert (rejected.start, rejected.end, rejected.change, rejected.per_token) == (-10.0, -18.0, -8.0, -0.75)
    assert lines["growth of log pi+ - log pi-"].end == 5.5
    accuracy = lines["arithmetic/accuracy"]
    assert (accuracy.start, accuracy.end, accuracy.change) == (0.5, 0.375, -0.125)


def test_the_summary_of_a_run_is_printed_with_commands_to_go_on(tmp_path: Path) -> None:
    summary, printed = RunSummary(), io.StringIO()
    summary._console = Console(file=printed, width=100)
    monitors = [LikelihoodMonitor(1, 2), DegradationMonitor(1), DispersionMonitor(1, 2)]
    trainer = fit(dpo(tmp_path), [summary, *monitors, RunCheckpoint()], tmp_path)
    text, folder = printed.getvalue(), Path(trainer.log_dir or "")
    end = tracks_of(folder)["likelihood/bank/rejected/logp"][-1]
    assert end[0] == 4
    row = re.search(r"log-likelihood, rejected\s+│\s+(\S+)\s+│\s+(\S+)\s+│\s+(\S+)", text)
    assert row is not None
    assert row.group(2) == f"{end[1]:.2f}"
    assert f"tensorboard --logdir {folder.parent}" in text
    (folder / "config.yaml").touch()
    [checkpoint] = folder.rglob("last.ckpt")
    assert next_steps(folder, str(checkpoint))[-1] == (
        f"Resume:  python train.py fit --config {folder / 'config.yaml'} --ckpt_path {checkpoint}"
    )


def test_nothing_measured_is_no_table(tmp_path: Path) -> None:
    summary, printed = RunSummary(), io.StringIO()
    summary._console = Console(file=printed)
    fit(dpo(tmp_path), [summary], tmp_path)
    assert "What the run did" not in printed.getvalue()
    assert summary_lines({}) == []


def test_a_resumed_run_tells_its_change_from_where_the_run_began(tmp_path: Path) -> None:
    """The summary, the report and the rows begin with the reading at step 0, which is in another folder's rows."""
    runs = []
    for _ in range(2):
        monitors = [DegradationMonitor(1), DispersionMonitor(1, 2), RunSummary(), RunCheckpoint(4)]
        # None at first. Whole epochs: a fixed batch order stands in for the resumable loader.
        checkpoint = next(map(str, tmp_path.rglob("*step=4.ckpt")), None)
        runs.append(Path(fit(dpo(tmp_path), monitors, tmp_path, max_epochs=2, ckpt_path=checkpoint).log_dir or ""))
    whole, resumed = runs
    assert read_rows(resumed, "dispersion")[0]["step"] > 4
    name = "dispersion/bank/off_data_mass"
    points = tracks_of(whole)[name]
    expected = {step: value for step, value in points if step == 0 or step > 4}
    assert dict(tracks_of(resumed)[name]) == pytest.approx(expected)
    assert {0, 6, 8} <= expected.keys()
