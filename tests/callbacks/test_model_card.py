"""The card of an export: what it says, and what becomes of a push."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard as HubCard
from lightning.pytorch import Callback
from rich.console import Console
from torch.optim import SGD

from callbacks.saving import model_card
from callbacks.saving.model_card import CARD, ModelCard, card
from callbacks.saving.policy_export import PolicyExport
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.preference import PreferenceModule
from tests.callbacks.rig import BigramSpec, fit
from tests.reports.made_up import write_run

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


def test_it_says_what_was_done_and_what_became_of_it(tmp_path: Path) -> None:
    accuracy = [{"step": 0, "task/accuracy": 0.6}, {"step": 9, "task/accuracy": 0.4}]
    run = write_run(tmp_path / "made_up" / "version_0", {"accuracy": accuracy})
    text = card(run, 9, {"train/loss": 0.5}, {"training data": "0a1b"})
    assert HubCard(text).data.get("tags")[0] == "prefscope"
    assert "lost 20 points of accuracy: 0.600 -> 0.400" in text
    for row in ("| train/loss | 0.5 |", "| task/accuracy | 0.4 |", "| training data | 0a1b |", "| model.optimizer.lr | 1e-05 |"):
        assert row in text
    assert "9 optimizer steps" in text


class Hub:
    """Keeps what was pushed."""

    pushed: list[dict[str, Any]]

    def __init__(self) -> None:
        type(self).pushed = []

    def create_repo(self, name: str, **options: bool) -> None:
        assert options == {"private": True, "exist_ok": True}

    def upload_folder(self, **options: Any) -> None:
        assert (options["folder_path"] / CARD).is_file()
        type(self).pushed.append(options)


class Offline(Hub):
    def create_repo(self, name: str, **options: bool) -> None:
        raise ConnectionError("no hub")


@pytest.mark.parametrize("hub", [Hub, Offline])
def test_a_push_takes_the_folder_and_a_failure_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: type[Hub]) -> None:
    monkeypatch.setattr(model_card, "HfApi", hub)
    monkeypatch.setattr(model_card, "card", lambda *_: "a card")
    export, writer, printed = PolicyExport(), ModelCard(push_to="me/it"), io.StringIO()
    writer._console = Console(file=printed, width=300)
    module = PreferenceModule(BigramSpec(), DPOLoss(beta=0.5), partial(SGD, lr=0.3), cache_dir=str(tmp_path / "cache"))
    trainer = fit(module, [export, _Config(), writer], tmp_path)
    assert export.written is not None
    assert export.written.parent == Path(str(trainer.log_dir))
    assert (export.written / CARD).read_text() == "a card"
    if hub is Offline:
        expected = f"Nothing was pushed to me/it (ConnectionError: no hub). To try again: hf upload me/it {export.written}\n"
        assert printed.getvalue() == expected
    else:
        assert Hub.pushed == [{"repo_id": "me/it", "folder_path": export.written}]


class _Config(Callback):
    """The file that the command line writes."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        (Path(trainer.log_dir) / "config.yaml").write_text("model: {}\n")
