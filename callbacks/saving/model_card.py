"""Writes the model card of an export: data, settings, results, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCardData
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from typing_extensions import override

from callbacks.output.console import say
from callbacks.output.hyperparameters import final_metrics, hyperparameters
from callbacks.saving.policy_export import PolicyExport
from run_folder.files import run_folder
from run_folder.verdict import alarm_sentence, method_of, verdict_of

CARD = "README.md"
"""Name of the card in an export's folder: what the hub shows."""


class ModelCard(Callback):
    """Writes `README.md` into the exported folder when a fit has ended, and pushes the folder to the hub where that is asked for.

    The card has the verdict, what was noticed and warned of, settings, final metrics and the digests of data and reference, so that
    a person who takes the weights can see what they are. List it behind the export and the alarms.

    Args:
        push_to: repository on the Hugging Face hub (`name/model`), made if it is not there, private; null pushes nothing. It takes
            the token that `hf auth login` has kept. A push that fails is named with its reason; the folder stays.
    """

    def __init__(self, push_to: str | None = None) -> None:
        self.push_to = push_to
        self._console = Console()

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = run_folder(trainer)
        if not trainer.is_global_zero or folder is None or not (folder / "config.yaml").is_file():
            return
        made_with: Mapping[str, str] = getattr(pl_module, "digests", {})
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        for exported in [callback.written for callback in _exports(trainer) if callback.written is not None]:
            (exported / CARD).write_text(card(folder, trainer.global_step, metrics, made_with), encoding="utf-8")
            if self.push_to is not None:
                self._push(exported, self.push_to)

    def _push(self, folder: Path, name: str) -> None:
        try:
            api = HfApi()
            api.create_repo(name, private=True, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=folder)
        # Whatever the hub says, the run is done and its weights are here.
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            say(self._console, f"Nothing was pushed to {name} ({reason}). To try again: hf upload {name} {folder}")
            return
        say(self._console, f"Pushed to https://huggingface.co/{name}")


def card(run: Path, step: int, logged: Mapping[str, float], made_with: Mapping[str, str]) -> str:
    """The text of a card.

    Args:
        run: the run's folder.
        step: optimizer steps that were taken.
        logged: what the module logged last.
        made_with: `{what: digest}` of data and reference.
    """
    # Loaded when a run has ended: it need not wait for it at its start.
    from reports.runs import load_run

    found = load_run(run)
    method = method_of(found.config)
    verdict = verdict_of(found.tracks, method)
    alarms = alarm_sentence(found.alarms, found.verdicts, verdict)
    base = _base(found.config)
    data = ModelCardData(
        base_model=base if base is not None and not Path(base).exists() else None,
        library_name="transformers",
        tags=["prefscope", method.lower().replace(" ", "-")],
    )
    parts = [
        f"---\n{data.to_yaml()}\n---\n\n# {run.parent.name} {run.name}\n\n{verdict.sentences()} {alarms}",
        f"{method}, {step} optimizer steps" + (f", from `{base}`." if base else ".") + "",
        '```python\nfrom transformers import AutoModelForCausalLM\n\nmodel = AutoModelForCausalLM.from_pretrained(".")\n```'
        if not method.startswith("The reward")
        else "A sequence classifier with one output: the reward.",
        _table("What was measured last", {name: f"{value:.4g}" for name, value in final_metrics(run, logged).items()}),
        _table("Made with (sha256)", made_with),
        _table("Settings", {name: str(value) for name, value in hyperparameters(run).items()}),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _exports(trainer: Trainer) -> list[PolicyExport]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, PolicyExport)]


def _base(config: Mapping[str, Any]) -> str | None:
    arguments = (config.get("model") or {}).get("init_args") or {}
    recipe = arguments.get("policy") or arguments.get("reward_model") or {}
    path = (recipe.get("init_args") or recipe).get("path")
    return None if path is None else str(path)


def _table(title: str, rows: Mapping[str, str]) -> str:
    if not rows:
        return ""
    lines = [f"| {name} | {value.replace('|', '/')} |" for name, value in rows.items()]
    return "\n".join([f"## {title}", "", "| | |", "|---|---|", *lines])
