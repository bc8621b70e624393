"""What stands in TensorBoard: fewer tags than in the rows, a description on each, settings beside where runs end."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_SCALAR
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from callbacks.output.dashboard import LAYOUT
from callbacks.output.hyperparameters import final_metrics, hyperparameters
from run_folder.descriptions import description_of, table_rows
from run_folder.tensorboard import RunLogger, is_shown
from tests.reports.made_up import write_run


def written(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_a_tag_comes_with_the_words_of_the_page(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, name="run")
    for step, value in ((1, 0.5), (2, 0.75)):
        logger.log_metrics({"likelihood/bank/drop_share": value, "nobody/knows": 1.0}, step)
    logger.finalize("success")
    events = written(Path(logger.log_dir))
    assert [(event.step, event.value) for event in events.Scalars("likelihood/bank/drop_share")] == [(1, 0.5), (2, 0.75)]
    said = events.SummaryMetadata("likelihood/bank/drop_share").summary_description
    assert said.startswith("-Delta- / (Delta+ - Delta-): the part of the margin's growth")
    # The server's fast loader keeps metadata that name their plugin and class alone.
    metadata = events.SummaryMetadata("likelihood/bank/drop_share")
    assert (metadata.plugin_data.plugin_name, metadata.data_class) == ("scalars", DATA_CLASS_SCALAR)
    assert events.SummaryMetadata("nobody/knows").summary_description == ""


def test_a_row_of_a_table_is_read_by_its_columns() -> None:
    page = "| metric | unit | range | what |\n|---|---|---|---|\n| `a/<side>`, `a/b` | nats | >= 0 | falls |\n| `c` | x | y | z |\n"
    assert table_rows(page) == {"a/<side>": "falls (nats; >= 0)", "a/b": "falls (nats; >= 0)"}


def test_a_name_goes_before_a_pattern() -> None:
    assert description_of("likelihood/chosen/valley").startswith("tokens with p_t < 0.001")
    assert description_of("likelihood/chosen/valley") != description_of("likelihood/drop_gap") != ""


@pytest.mark.parametrize(
    ("tag", "shown"),
    [
        ("likelihood/bank/chosen/change_per_token", True),
        ("likelihood/bank/permuted/change_per_token", True),
        ("likelihood/bank/permuted/logp", False),
        ("softmax_grad/chosen/l2", True),
        ("softmax_grad/chosen/overlap/l2", False),
        ("degradation/bank/chosen/novel/change_per_token", False),
        ("dispersion/bank/probes/change_per_token", True),
        ("train/loss", True),
    ],
)
def test_classes_of_tokens_stay_in_the_rows(tag: str, shown: bool) -> None:
    assert is_shown(tag) is shown


def test_what_is_left_out_is_logged_by_nobody_else(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, name="run")
    logger.log_metrics({"softmax_grad/chosen/overlap/l2": 1.0, "train/loss": 0.5}, 1)
    logger.finalize("success")
    assert written(Path(logger.log_dir)).Tags()["scalars"] == ["train/loss"]


def test_the_overview_has_six_charts_and_comes_first() -> None:
    assert next(iter(LAYOUT)) == "Overview"
    assert len(LAYOUT["Overview"]) == 6


CONFIG = {
    "seed_everything": 3,
    "trainer": {"max_steps": 40, "callbacks": [{"class_path": "a.B"}], "precision": "32-true"},
    "model": {
        "class_path": "m.PreferenceModule",
        "init_args": {"loss": {"class_path": "l.DPOLoss", "init_args": {"beta": 0.1}}, "cache_dir": "x"},
    },
    "data": {"class_path": "d.Pairs", "init_args": {"batch_size": 8}},
}


def test_hyperparameters_are_what_bears_on_learning(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    assert hyperparameters(tmp_path) == {
        "seed_everything": 3,
        "trainer.max_steps": 40,
        "trainer.precision": "32-true",
        "model": "PreferenceModule",
        "model.loss": "DPOLoss",
        "model.loss.beta": 0.1,
        "data": "Pairs",
        "data.batch_size": 8,
    }


def test_final_metrics_are_the_last_ones(tmp_path: Path) -> None:
    rows = {"accuracy": [{"step": step, "task/accuracy": value, "task/score": 1.0} for step, value in ((0, 0.5), (40, 0.75))]}
    folder = write_run(tmp_path / "made_up" / "version_0", rows)
    assert final_metrics(folder, {"val/loss": 0.25, "task/accuracy": 9.0}) == {"task/accuracy": 0.75, "val/loss": 0.25}


def test_the_tab_of_hyperparameters_finds_them(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, name="run")
    logger.log_metrics({"task/accuracy": 0.75}, 40)
    logger.compare_by({"model.loss.beta": 0.1}, {"task/accuracy": 0.75})
    logger.finalize("success")
    events = written(Path(logger.log_dir))
    start = HParamsPluginData.FromString(events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content)
    assert start.session_start_info.hparams["model.loss.beta"].number_value == 0.1
    assert [(event.step, event.value) for event in events.Scalars("task/accuracy")] == [(40, 0.75)]
