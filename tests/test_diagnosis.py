"""A run diagnosed from its checkpoints alone gives what its live callbacks gave."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from callbacks.control.adaptive_beta import AdaptiveBeta
from callbacks.diagnostics.checkpoints.static_diagnosis import StaticDiagnosis
from callbacks.diagnostics.reward_monitor import RewardMonitor
from callbacks.mathematics.leaf_gradients import with_gradients
from callbacks.output.run_summary import RunSummary
from callbacks.saving.checkpoint import RunCheckpoint
from callbacks.saving.policy_export import PolicyExport
from datamodules.contracts.batches import CompletionBatch
from lightning_modules.diagnosis import DiagnosisModule
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.models.files.checkpoint_folders import checkpoints_in, step_numbers
from lightning_modules.models.specs import RandomPolicy
from reports.runs import event_tracks, load_run
from reports.sections.details import alarms_html, command_of
from run_folder.rows import read_rows, tracks_of
from run_folder.verdict import alarm_sentence, method_of, verdict_of
from tests import tiny
from tests.conftest import Run

# The bank is read at the start and at the end alone: what squeezes is told from one reading to the next.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "diagnostics.likelihood.LikelihoodMonitor": {"probe_every_n_steps": 10},
    "diagnostics.softmax_gradient.SoftmaxGradientMonitor": {"histogram_every_n_steps": 1},
    "diagnostics.degradation.DegradationMonitor": {"probe_every_n_steps": 10},
    "diagnostics.disentanglement.DisentanglementMonitor": {},
    "diagnostics.dispersion.DispersionMonitor": {"probe_every_n_steps": 10},
    "diagnostics.mass_gains.MassMonitor": {},
    "output.token_heatmap.TokenHeatmap": {},
    "diagnostics.pair_accuracy.PairAccuracy": {"sets": {"own": {"split": "val"}, "some": {"split": "val", "num_pairs": 3}}},
}
MONITORS: list[dict[str, Any]] = [
    {"class_path": f"callbacks.{name}", "init_args": {"every_n_steps": 1, **more}} for name, more in _ARGUMENTS.items()
]

Write = Callable[..., Path]


def live(folder: Path, run: Run, write_config: Write) -> Path:
    """A run of three steps that leaves its policy and its rows."""
    callbacks = [*MONITORS, {"class_path": "callbacks.saving.policy_export.PolicyExport"}]
    config = {
        "seed_everything": 1,
        "trainer": tiny.trainer(folder, callbacks, max_steps=3),
        "model": tiny.module(folder),
        "data": tiny.pair_data(folder),
    }
    return Path(run("fit", "--config", write_config(config, "live")).trainer.log_dir or "")


def diagnosis(folder: Path, policy: Path, **options: Any) -> dict[str, Any]:
    """Config that looks at a checkpoint of that run, with its pairs."""
    pretrained = {"class_path": "lightning_modules.models.specs.PretrainedPolicy", "init_args": {"path": str(policy)}}
    model = {"policy": pretrained, "reference": tiny.POLICY, "cache_dir": str(folder / "cache")} | options
    doctor = {"class_path": "callbacks.output.data_doctor.DataDoctor"}
    static = {
        "class_path": "callbacks.diagnostics.checkpoints.static_diagnosis.StaticDiagnosis",
        "init_args": {"monitors": [doctor, *MONITORS]},
    }
    return {
        "trainer": tiny.trainer(folder, [static], inference_mode=False),
        "model": {
            "class_path": "lightning_modules.diagnosis.DiagnosisModule",
            "init_args": model | {"loss": {"class_path": "lightning_modules.losses.dpo.DPOLoss"}},
        },
        "data": tiny.pair_data(folder) | {"class_path": "datamodules.diagnosis.DiagnosisDataModule"},
    }


def look(folder: Path, run: Run, write_config: Write, policy: Path, **options: Any) -> Path:
    return Path(run("validate", "--config", write_config(diagnosis(folder, policy, **options), "looked")).trainer.log_dir or "")


@pytest.fixture
def lived(tmp_path: Path, run: Run, write_config: Write) -> Path:
    return live(tmp_path, run, write_config)


def test_the_two_folders_tell_what_the_live_callbacks_told(tmp_path: Path, lived: Path, run: Run, write_config: Write) -> None:
    looked = tracks_of(look(tmp_path, run, write_config, lived / "policy"))
    lived_tracks = tracks_of(lived)
    bank = [name for name in lived_tracks if "/bank/" in name or name.startswith("mass/")]
    assert len(bank) > 60
    assert {name for name in looked if "/bank/" in name or name.startswith("mass/")} == set(bank)
    for name in bank:
        # The first reading and the last: the reference, and the policy as it was saved.
        starts = [dict(tracks[name]).get(0) for tracks in (looked, lived_tracks)]
        assert starts[0] == (starts[1] if starts[1] is None else pytest.approx(starts[1], rel=1e-5, abs=1e-6)), name
        assert looked[name][-1][1] == pytest.approx(lived_tracks[name][-1][1], rel=1e-4, abs=1e-6), name


def check_gradients(module: Any, batch: CompletionBatch) -> None:
    """Against autograd through the loss written out, from log-probs that have no graph."""
    with torch.no_grad():
        stats = module.policy(batch)
    found = with_gradients(module, batch, stats).token_gradients()
    offsets = torch.zeros_like(stats.logps, requires_grad=True)
    sums = torch.zeros(batch.num_sequences).index_add(0, batch.target_sequence, stats.logps + offsets)
    assert batch.reference_logps is not None
    chosen, rejected = (sums - batch.reference_logps)[batch.pairs].unbind(1)
    (expected,) = torch.autograd.grad(-torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).sum(), offsets)
    assert found is not None
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-8)


def test_every_pair_is_measured_with_its_gradient(tmp_path: Path, lived: Path, run: Run, write_config: Write) -> None:
    cli = run("validate", "--config", write_config(diagnosis(tmp_path, lived / "policy"), "looked"))
    tracks = tracks_of(Path(cli.trainer.log_dir or ""))
    module, losses, margins = cli.model, [], []
    with torch.no_grad():
        for batch in cli.datamodule.val_dataloader():
            pairs = module.objective(batch, module.policy(batch)).pairs
            losses.append(pairs.losses)
            margins.append(pairs.chosen_rewards - pairs.rejected_rewards)
    number = len(cli.datamodule.dataset("val").examples)
    assert len(torch.cat(losses)) == number
    assert cli.trainer.callback_metrics["val/loss"] == pytest.approx(torch.cat(losses).mean().item())
    # DPO: d_w = beta sigmoid(-m).
    incentive = 0.1 * (-torch.cat(margins)).sigmoid().mean().item()
    ((step, value),) = tracks["softmax_grad/chosen/incentive"]
    assert step == 1
    assert value == pytest.approx(incentive, rel=1e-5)
    check_gradients(module, next(iter(cli.datamodule.val_dataloader())))
    start, end = tracks["pair_accuracy/own/margin"]
    assert (start, end[0]) == ((0, 0.0), 1)
    assert end[1] == pytest.approx(torch.cat(margins).mean().item(), rel=1e-4)
    assert len(tracks["pair_accuracy/some/ranking"]) == 2
    assert tracks["head/cosine"][-1][0] == 1
    assert [row["step"] for row in read_rows(Path(cli.trainer.log_dir or ""), "token_heatmap")] == [0, 0, 1, 1]
    assert (Path(cli.trainer.log_dir or "") / "data_doctor.json").is_file()


def test_a_series_of_checkpoints_is_a_curve(tmp_path: Path, lived: Path, run: Run, write_config: Write) -> None:
    series = tmp_path / "trained_elsewhere"
    for step, seed in ((20, 3), (100, 4)):
        RandomPolicy(**(tiny.POLICY["init_args"] | {"seed": seed})).build().save(series / f"checkpoint-{step}")
    (lived / "policy").rename(series / "checkpoint-200")
    tracks = tracks_of(look(tmp_path, run, write_config, series))
    assert [step for step, _ in tracks["likelihood/bank/chosen/change"]] == [0, 20, 100, 200]
    # Checkpoint 20 is the reference itself.
    changes = dict(tracks["likelihood/bank/chosen/change"])
    assert changes[0] == 0
    assert changes[20] == pytest.approx(0, abs=1e-4)
    assert abs(changes[100]) > 0.01
    assert [step for step, _ in tracks["softmax_grad/chosen/norm"]] == [20, 100, 200]
    assert changes[200] == pytest.approx(dict(tracks_of(lived)["likelihood/bank/chosen/change"])[3], rel=1e-4)


RULE = {
    "property": "drastic_drop",
    "conditions": [{"metric": "likelihood/bank/rejected/change", "window": 1, "below": -0.05}],
    "says": ["From step {since}."],
    "patience": 1,
}
ALARM = {"class_path": "callbacks.alarms.property_alarm.PropertyAlarm"}


@pytest.mark.parametrize("is_monitor", [True, False], ids=["a monitor", "a callback of the trainer"])
def test_alarms_judge_checkpoints(tmp_path: Path, run: Run, write_config: Write, is_monitor: bool) -> None:
    series = tmp_path / "trained_elsewhere"
    for step, seed in ((20, 3), (100, 4)):
        RandomPolicy(**(tiny.POLICY["init_args"] | {"seed": seed})).build().save(series / f"checkpoint-{step}")
    config = diagnosis(tmp_path, series)
    callbacks = config["trainer"]["callbacks"]
    (callbacks[0]["init_args"]["monitors"] if is_monitor else callbacks).append(ALARM | {"init_args": {"rules": [RULE]}})
    folder = Path(run("validate", "--config", write_config(config, "looked")).trainer.log_dir or "")
    changes = dict(tracks_of(folder)["likelihood/bank/rejected/change"])
    # Checkpoint 20 is the reference itself.
    assert abs(changes[20]) < 0.05
    fired = [row["step"] for row in read_rows(folder, "alarms")]
    assert fired == ([100] if changes[100] < -0.05 else [])
    assert read_rows(folder, "judged")[-1]["verdicts"]["drastic_drop"] == ("shows from step 100" if fired else "no sign")


def test_a_diagnosis_tells_the_step_of_its_loss_and_how_to_run_it_again(
    tmp_path: Path, lived: Path, run: Run, write_config: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    config = diagnosis(tmp_path, lived / "policy")
    config["trainer"]["callbacks"][0]["init_args"]["monitors"].append(ALARM)
    del config["trainer"]["logger"][0]  # The event files beside the rows.
    cli = run("validate", "--config", write_config(config, "looked"))
    looked = load_run(Path(cli.trainer.log_dir or ""))
    assert [step for step, _ in event_tracks(looked.folder)["val/loss"]] == [1]
    assert dict(looked.tracks["val/loss"])[1] == pytest.approx(float(cli.trainer.callback_metrics["val/loss"]))
    low, mean, high = (dict(looked.tracks[f"pairs/chosen/change{end}"])[1] for end in ("/low", "", "/high"))
    assert low < mean < high
    # One checkpoint is judged against the reference, and the page has it.
    assert looked.verdicts["dispersion"] in ("no sign", "shows from step 1")
    assert looked.verdicts["harm"].startswith(("no warning: at most", "warned at step 1"))
    assert f"harm: {looked.verdicts['harm']}" in alarms_html([looked]) or looked.alarms
    # Nor is a reward that the diagnosis itself gives to pairs a judge of answers.
    verdict = verdict_of(looked.tracks, method_of(looked.config))
    assert verdict.outcome == "not judged"
    assert verdict.headline == "The policy: not judged, so whether answers got better is not known."
    assert re.match(r"Chosen answers: [+-]\d.* over 19 pairs\.", verdict.certainty)
    assert "step 1)." in alarm_sentence(looked.alarms, looked.verdicts, verdict) or looked.alarms
    printed = capsys.readouterr().out
    # Of what only the checkpoint was asked there is no start.
    [line] = [line for line in printed.splitlines() if "growth of log pi+ - log pi-" in line]
    assert len(re.findall(r"\d\.\d{2}", line)) == 1
    command = command_of(looked).split()
    assert command[:3] == ["python", "train.py", "validate"]
    again = run(*command[2:4], looked.folder / "config.yaml")
    assert tracks_of(Path(again.trainer.log_dir or "")) == tracks_of(looked.folder)


def test_the_reference_is_shown_as_many_batches_as_the_checkpoint(
    tmp_path: Path, lived: Path, run: Run, write_config: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    metrics = DiagnosisModule.metrics

    def counted(module: Any, output: Any, batch: CompletionBatch) -> Any:
        seen.append(tuple(batch.row_numbers.tolist()))
        return metrics(module, output, batch)

    monkeypatch.setattr(DiagnosisModule, "metrics", counted)
    config = diagnosis(tmp_path, lived / "policy")
    config["trainer"] |= {"limit_val_batches": 1}
    config["data"]["init_args"] |= {"max_tokens_per_batch": 64, "val_fraction": 0}
    run("validate", "--config", write_config(config, "limited"))
    assert len(set(seen)) == 1, seen


def test_folders_are_told_apart(tmp_path: Path) -> None:
    for name in ("checkpoint-9", "checkpoint-10"):
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "config.json").write_text("{}")
    found = checkpoints_in(str(tmp_path / "run"))
    assert [Path(path).name for path in found] == ["checkpoint-9", "checkpoint-10"]
    assert checkpoints_in(found[0]) == [found[0]]
    assert checkpoints_in("some/hub-name") == ["some/hub-name"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="expected a checkpoint"):
        checkpoints_in(str(tmp_path / "empty"))


def test_steps_are_the_numbers_of_the_names_where_they_rise() -> None:
    assert step_numbers(["a/checkpoint-50", "a/checkpoint-100"]) == [50, 100]
    assert step_numbers(["a/version_0", "a/version_1"]) == [1, 2]
    assert step_numbers(["policy"]) == [1]


@pytest.mark.parametrize(
    ("monitor", "hook"),
    [
        (RunCheckpoint(), "on_exception"),
        (PolicyExport(), "on_fit_end"),
        (RewardMonitor(), "the reward of a step"),
        (AdaptiveBeta(), "end_step"),
        (RunSummary(), "on_fit_end"),
    ],
    ids=lambda given: type(given).__name__,
)
def test_monitors_that_need_a_training_are_named(monitor: Callback, hook: str) -> None:
    with pytest.raises(ValueError, match=rf"got {type(monitor).__name__}, which acts on .*{hook}.*Leave it out"):
        StaticDiagnosis([monitor])


def test_nobody_trains_with_it(tmp_path: Path, run: Run, write_config: Write) -> None:
    policy = tiny.write_model(tmp_path / "model")
    config = diagnosis(tmp_path, policy)
    config["trainer"]["max_steps"] = 1
    with pytest.raises(ValueError, match="expected `validate`, got a training"):
        run("fit", "--config", write_config(config, "looked"))
    spec = RandomPolicy(**tiny.POLICY["init_args"])
    with pytest.raises(ValueError, match="expected a policy with a path"):
        DiagnosisModule(spec, spec, DPOLoss(), ["somewhere"])


def test_inference_mode_is_refused(tmp_path: Path, run: Run, write_config: Write) -> None:
    config = diagnosis(tmp_path, tiny.write_model(tmp_path / "model"))
    config["trainer"]["inference_mode"] = True
    with pytest.raises(ValueError, match=r"expected trainer\.inference_mode: false"):
        run("validate", "--config", write_config(config, "looked"))
