"""SFT, DPO and PPO write the same curves of the same bank, so that their runs can be laid over one another."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from lightning.pytorch import Callback
from torch.optim import SGD

from callbacks.answers.samples import SampleLogger
from callbacks.diagnostics.degradation import DegradationMonitor
from callbacks.diagnostics.disentanglement import DisentanglementMonitor
from callbacks.diagnostics.dispersion import DispersionMonitor
from callbacks.diagnostics.likelihood import LikelihoodMonitor
from callbacks.diagnostics.mass_gains import MassMonitor
from callbacks.diagnostics.softmax_gradient import SoftmaxGradientMonitor
from datamodules.contracts.prompts import Sampling
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.preference import PreferenceModule
from lightning_modules.sft import SFTModule
from run_folder.rows import tracks_of
from tests.callbacks.rig import ProbedPairs, fit, supervised
from tests.lightning_modules.ppo import rig as ppo
from tests.lightning_modules.stubs import TINY, make_pairs

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    # PPO's module puts its own batch in the place of the loader's.
    pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`"),
]

PAIRS, OPTIMIZER = make_pairs(8), partial(SGD, lr=0.5)


def monitors() -> list[Callback]:
    return [
        LikelihoodMonitor(2, 2),
        SoftmaxGradientMonitor(2, 2),
        DegradationMonitor(2, 2),
        DisentanglementMonitor(2),
        DispersionMonitor(2, 2),
        MassMonitor(2),
        SampleLogger(4, sampling=Sampling(max_new_tokens=6)),
    ]


class Supervised(ProbedPairs):
    """Trains on chosen alone; the bank holds whole pairs, as that of SFTDataModule does."""

    def train_dataloader(self):  # type: ignore[no-untyped-def]  # noqa: ANN201
        return ProbedPairs(supervised(self.examples), self.microbatches, self.accumulate).train_dataloader()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[tuple[int, float]]]]:
    folder, steps = tmp_path_factory.mktemp("runs"), [[0, 1, 2], [3, 4], [5, 6], [0, 7]]
    trainers = {
        "sft": fit(SFTModule(TINY, OPTIMIZER), monitors(), folder, data=Supervised(PAIRS, steps, 1)),
        "dpo": fit(
            PreferenceModule(TINY, DPOLoss(beta=0.5), OPTIMIZER, cache_dir=str(folder / "cache")),
            monitors(),
            folder,
            data=ProbedPairs(PAIRS, steps, 1),
        ),
        "ppo": ppo.fit(folder / "ppo", ppo.module(), ppo.Prompts(PAIRS), monitors(), max_steps=4),
    }
    return {name: tracks_of(Path(trainer.log_dir or "")) for name, trainer in trainers.items()}


def bank_curves(tracks: dict[str, list[tuple[int, float]]]) -> set[str]:
    """What is read off the bank's pairs, and off samples; the rigs' banks differ in their probes."""
    names = {name for name in tracks if "/bank/" in name or name.startswith(("mass/", "on_policy/"))}
    return {name for name in names if not any(kind in name for kind in ("other_chosen", "permuted", "probes"))}


def test_all_objectives_have_the_curves_of_the_bank_at_the_same_steps(
    runs: dict[str, dict[str, list[tuple[int, float]]]],
) -> None:
    sft, dpo, ppo_run = (bank_curves(runs[name]) for name in ("sft", "dpo", "ppo"))
    # What is left out until there is something to take a share of.
    conditional = {"likelihood/bank/drop_share"}
    assert sft - conditional == dpo - conditional == ppo_run - conditional
    assert len(dpo) > 60
    for name in dpo - conditional:
        steps = [[step for step, _ in runs[run][name]] for run in runs]
        assert steps[0] == steps[1] == steps[2], name
    for run in runs.values():
        assert run["likelihood/bank/chosen/change"][0] == (0, 0.0)
        assert run["likelihood/bank/chosen/logp"][0] == pytest.approx(runs["dpo"]["likelihood/bank/chosen/logp"][0])


def test_gradients_at_the_logits_are_there_for_every_kind_that_is_trained_on(
    runs: dict[str, dict[str, list[tuple[int, float]]]],
) -> None:
    kinds = {"sft": ("chosen",), "dpo": ("chosen", "rejected"), "ppo": ("sample_above", "sample_below")}
    for run, trained in kinds.items():
        for kind in trained:
            assert {f"softmax_grad/{kind}/{norm}" for norm in ("l1", "l2", "norm")} <= runs[run].keys(), run
