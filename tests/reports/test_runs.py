"""Reading run folders, and laying runs of one config over one another."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from reports.groups import differences, grouped, settings
from reports.runs import load_run
from tests.reports.made_up import STEPS, config, language_rows, toy_rows, write_run


def test_rows_and_event_files_become_tracks(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "made_up" / "version_0", language_rows()))
    assert run.name == "made_up/version_0"
    assert run.tracks["train/loss"] == [(5, 0.75), (10, 0.5)]
    assert run.tracks["likelihood/bank/rejected/logp"] == [(0, -60.0), (5, -61.0), (10, -62.0)]
    assert run.alarms == run.heatmaps == []


@pytest.mark.parametrize(
    "cut",
    [b'{"step": 10, "train/lo', b'{"step": 10, "train/x": 1.0', b"\xff\n", b"null\n", b'{"train/x": 1.0}\n', b"[" * 9999],
)
def test_a_row_that_a_full_disk_cut_is_left_out_and_named(tmp_path: Path, cut: bytes) -> None:
    folder = write_run(tmp_path / "made_up" / "version_0", language_rows())
    whole = load_run(folder)
    path = folder / "diagnostics" / "likelihood.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + cut)
    with pytest.warns(UserWarning, match=re.escape(f"{path} line {len(lines) + 1} is left out")):
        run = load_run(folder)
    assert run.tracks == whole.tracks


def test_a_line_separator_within_a_text_is_no_end_of_a_row(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "made_up" / "version_0", {})
    row = {"step": 1, "message": "a\u2028b"}
    (folder / "diagnostics" / "alarms.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert load_run(folder).alarms == [row]


def test_other_damaged_files_of_a_run_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "made_up" / "version_0", language_rows())
    (folder / "data_doctor.json").write_text('{"rows": ')
    with pytest.warns(UserWarning, match="data_doctor.json is left out"):
        assert load_run(folder).doctor == {}
    for damage in ("a: [", "", "- 1"):
        (folder / "config.yaml").write_text(damage)
        with pytest.raises(ValueError, match=r"in .*config.yaml, got"):
            load_run(folder)


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "made_up" / "version_3", language_rows())
    with pytest.raises(ValueError, match=r"expected the folder of a run .*Did you mean .*version_3\?"):
        load_run(tmp_path / "made_up")
    with pytest.raises(ValueError, match=r"Give folders such as runs/<experiment>/version_0"):
        load_run(tmp_path / "nowhere")


def test_a_run_that_measured_nothing_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "empty" / "version_0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed_everything: 0")
    with pytest.raises(ValueError, match="measured nothing"):
        load_run(folder)


def test_seeds_of_one_config_are_a_curve_with_a_band(tmp_path: Path) -> None:
    runs = [
        load_run(write_run(tmp_path / "made_up" / f"version_{seed}", language_rows(offset), config(seed)))
        for seed, offset in enumerate((0.0, 3.0, -6.0))
    ]
    (group,) = grouped(runs)
    assert group.label == "made_up (3 runs)"
    curve = group.curve("likelihood/bank/chosen/logp")
    assert curve is not None
    assert curve.steps.tolist() == list(STEPS)
    assert curve.mean.tolist() == [-51.0, -52.0, -53.0]
    assert curve.low.tolist() == [-56.0, -57.0, -58.0]
    assert curve.high.tolist() == [-47.0, -48.0, -49.0]
    assert group.curve("likelihood/nothing") is None


def test_seeds_that_have_names_of_their_own_share_what_is_common(tmp_path: Path) -> None:
    runs = [load_run(write_run(tmp_path / f"dpo_s1_seed{seed}" / "version_0", {}, config(seed))) for seed in (0, 1)]
    assert [group.label for group in grouped(runs)] == ["dpo_s1 (2 runs)"]


def test_groups_are_named_by_what_differs(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "made_up" / f"version_{n}", language_rows(), config(n, lr)) for n, lr in enumerate((1e-5, 3e-5))
    ]
    assert [group.label for group in grouped([load_run(folder) for folder in folders])] == [
        "made_up: lr 1e-05",
        "made_up: lr 3e-05",
    ]


def test_another_class_counts_by_its_name_alone() -> None:
    first = {"loss.class_path": "losses.dpo.DPOLoss", "loss.init_args.beta": "0.1", "steps": "3"}
    second = {"loss.class_path": "losses.simpo.SimPOLoss", "loss.init_args.gamma": "0.5", "steps": "3"}
    assert differences([first, second]) == ["loss.class_path"]


def test_settings_leave_out_seeds_and_places() -> None:
    assert settings(config(seed=1)) == settings(config(seed=2))
    assert settings(config(lr=1e-5)) != settings(config(lr=2e-5))


def test_seeds_within_a_run_are_members(tmp_path: Path) -> None:
    (group,) = grouped([load_run(write_run(tmp_path / "toy" / "version_0", toy_rows()))])
    chosen = group.curve("toy/own_chosen")
    assert chosen is not None
    assert chosen.values.tolist() == [[0.1, 0.3]] * len(STEPS)
    # One seed has no such number at any step: there is no step that all have.
    assert group.curve("toy/gradient/log10_pi/rejected") is None


def test_what_is_not_finite_after_a_transform_is_left_out(tmp_path: Path) -> None:
    rows = {"toy": [{"step": step, "toy/own_chosen": value} for step, value in zip(STEPS, (0.1, 0.01, 0.0), strict=True)]}
    (group,) = grouped([load_run(write_run(tmp_path / "toy" / "version_0", rows))])
    curve = group.curve("toy/own_chosen", np.log10)
    assert curve is not None
    assert curve.mean[:2] == pytest.approx([-1.0, -2.0])
    assert math.isnan(curve.mean[2])
