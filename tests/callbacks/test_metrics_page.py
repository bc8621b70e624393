"""docs/metrics.md names every metric a run writes, and nothing that no run writes."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from pkgutil import iter_modules

import pytest
from lightning.pytorch import Callback, Trainer
from torch.optim import SGD
from torch.utils.data import DataLoader

from callbacks import diagnostics
from callbacks.alarms.property_alarm import PropertyAlarm
from callbacks.answers.results_table import ResultsTable
from callbacks.answers.samples import SampleLogger
from callbacks.base import Diagnostic
from callbacks.control.adaptive_beta import AdaptiveBeta
from callbacks.control.batch_beta import BatchBeta
from callbacks.control.reward_calibration import RewardCalibration
from callbacks.diagnostics.accuracy import AccuracyMonitor
from callbacks.diagnostics.freshness import PoolFreshness
from callbacks.diagnostics.pair_accuracy import PairAccuracy, PairSet
from callbacks.diagnostics.reward_monitor import RewardMonitor
from callbacks.diagnostics.source_metrics import SourceMetrics
from callbacks.diagnostics.toy_ledger import ToyLedger
from callbacks.output.token_heatmap import TokenHeatmap
from datamodules.answering import Answering, PromptLoader
from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.prompts import TaskPrompt
from datamodules.pool.scenarios import ScenarioPair, ScenarioView
from datamodules.pool.schema import Response
from datamodules.tasks.arithmetic.task import ArithmeticTask
from datamodules.tasks.base import TaskItem
from datamodules.toy.data import ToyPreferenceDataModule
from judges.base import Judge, Verdict
from lightning_modules.losses.beta_dpo import BetaDPOLoss
from lightning_modules.losses.calibrated import CalibratedLoss
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.flex_dpo import FlexDPOLoss
from lightning_modules.models.toy.specs import ToyPolicySpec
from lightning_modules.preference import PreferenceModule
from lightning_modules.sft import SFTModule
from lightning_modules.trained import OptimizerCallable
from run_folder.descriptions import description_of, pattern_of, table_rows
from tests.callbacks.rig import PAIRS, BigramSpec, ProbedPairs, events, fit, supervised

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")


class Validated(ProbedPairs):
    def val_dataloader(self) -> DataLoader[CompletionBatch]:
        return self.train_dataloader()


class Mixed(Validated):
    """All from one source, as if from a pool."""

    view = ScenarioView((ScenarioPair(0, Response("a", "policy"), Response("b", "policy"), ()),), {}, 1)

    source_names = ("one",)


class FivePoints(Judge):
    name, version, scale = "five points", "1", (1.0, 5.0)

    def judge(self, prompt: str, response: str, answer: str | None = None) -> Verdict:
        return Verdict(5.0, "as always", details={"correct": 1.0})


class Examined(Validated):
    """With two test problems."""

    task = ArithmeticTask()
    judge = None

    def task_prompts(self) -> list[TaskPrompt]:
        return [TaskPrompt(TaskItem(text, "a"), ids) for text, ids in (("ab", (1, 2)), ("b", (2,)))]

    def test_dataloader(self) -> PromptLoader:
        return Answering().loader(self.task_prompts(), self.tokenizer.eos_token_id)


def examined(folder: Path, optimizer: OptimizerCallable) -> Trainer:
    """Supervised training with its accuracy watched, then the test."""
    module, data = SFTModule(BigramSpec(), optimizer), Examined(supervised(PAIRS), [[0, 1], [2, 3]], 1)
    trainer = fit(module, [AccuracyMonitor(FivePoints(), 1), ResultsTable(FivePoints())], folder, data=data)
    trainer.test(module, datamodule=data, verbose=False)
    return trainer


OF_OTHER_RUNS = (ToyLedger, RewardMonitor, SourceMetrics, AccuracyMonitor)
"""They need no argument either, but read the toy, reward models, mixtures and tasks."""


def monitors() -> list[Callback]:
    """Every diagnostic that needs no argument, at every step. It walks the folder, so that a new one is found."""
    found: list[Callback] = []
    for name in sorted(module.name for module in iter_modules(diagnostics.__path__, f"{diagnostics.__name__}.")):
        for kind in vars(import_module(name)).values():
            # A base, which other files' monitors share, has no name of its own.
            if (
                not isinstance(kind, type)
                or not issubclass(kind, Diagnostic)
                or kind.__module__ != name
                or "name" not in vars(kind)
            ):
                continue
            parameters = signature(kind).parameters
            needs_nothing = all(parameter.default is not Parameter.empty for parameter in parameters.values())
            if needs_nothing and kind not in OF_OTHER_RUNS:
                found.append(kind(**{cadence: 1 for cadence in parameters if cadence.endswith("every_n_steps")}))
    return found


def test_the_walk_finds_the_diagnostics() -> None:
    named = {"LikelihoodMonitor", "SoftmaxGradientMonitor", "DegradationMonitor", "DisentanglementMonitor", "DispersionMonitor"}
    assert {*named, "MassMonitor"} <= {type(monitor).__name__ for monitor in monitors()}


@pytest.fixture(scope="module")
def tags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What TensorBoard holds of a preference run, a supervised run and a toy run, by kind."""
    folder, optimizer = tmp_path_factory.mktemp("runs"), partial(SGD, lr=0.3)
    cache, microbatches = str(folder / "cache"), [[0, 1, 2], [3, 4], [0, 1], [2, 3, 4]]
    toy = ToyPreferenceDataModule(num_seeds=2)
    runs = [
        fit(
            PreferenceModule(BigramSpec(), DPOLoss(beta=0.5), optimizer, cache_dir=cache),
            [*monitors(), TokenHeatmap(), SampleLogger(), SourceMetrics(1), PoolFreshness()],
            folder,
            data=Mixed([replace(pair, source="one") for pair in PAIRS], microbatches, 1),
        ),
        fit(SFTModule(BigramSpec(), optimizer), monitors(), folder, data=Validated(supervised(PAIRS), microbatches, 1)),
        fit(
            PreferenceModule(ToyPolicySpec(num_seeds=2, width=8), FlexDPOLoss(), optimizer, cache_dir=cache),
            [
                *monitors(),
                ToyLedger(every_n_steps=1),
                AdaptiveBeta(),
                PropertyAlarm(),
                PairAccuracy({"toy": PairSet(split="train")}),
            ],
            folder,
            data=toy,
            max_steps=3,
        ),
        fit(
            PreferenceModule(ToyPolicySpec(num_seeds=2, width=8), CalibratedLoss(), optimizer, cache_dir=cache),
            [RewardCalibration()],
            folder,
            data=toy,
            max_steps=1,
        ),
        fit(
            PreferenceModule(ToyPolicySpec(num_seeds=2, width=8), BetaDPOLoss(), optimizer, cache_dir=cache),
            [BatchBeta()],
            folder,
            data=toy,
            max_steps=1,
        ),
    ]
    runs.append(examined(folder, optimizer))
    found: dict[str, set[str]] = {}
    for run in runs:
        for kind, names in events(run).Tags().items():
            if isinstance(names, list):
                found.setdefault(kind, set()).update(names)
    return found


def documented() -> dict[str, re.Pattern[str]]:
    """The names in the first column of the page's tables, as patterns: `<...>` stands for one part of a name."""
    return {name: pattern_of(name) for name in table_rows(PAGE)}


def test_every_metric_has_its_description_in_tensorboard(tags: dict[str, set[str]]) -> None:
    assert sorted(tag for tag in tags["scalars"] - {"epoch", "hp_metric"} if not description_of(tag)) == []


def test_every_metric_is_on_the_page(tags: dict[str, set[str]]) -> None:
    patterns = documented().values()
    # Lightning's own: a counter, and the optimizer's rate where it is monitored.
    metrics = tags["scalars"] - {"epoch", "hp_metric"}
    assert len(metrics) > 100
    assert sorted(name for name in metrics if not any(pattern.fullmatch(name) for pattern in patterns)) == []
    assert tags["images"] == {"softmax_grad/tokens"}
    assert tags["histograms"] == {f"softmax_grad/{side}/{norm}" for side in ("chosen", "rejected") for norm in ("l1", "l2")}


def test_nothing_on_the_page_is_out_of_date(tags: dict[str, set[str]]) -> None:
    stale = [name for name, pattern in documented().items() if not any(map(pattern.fullmatch, tags["scalars"]))]
    assert stale == []


def test_placeholders_do_not_swallow_names_of_their_own() -> None:
    patterns = documented()
    assert patterns["likelihood/<kind>/logp"].fullmatch("likelihood/chosen/logp")
    assert not patterns["likelihood/<kind>/logp"].fullmatch("likelihood/bank/chosen/logp")
    assert not any(pattern.fullmatch("likelihood/chosen/logps") for pattern in patterns.values())
