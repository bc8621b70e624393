"""docs/rlhf.md names every metric that reward models, PPO and on-policy preferences write, and nothing that none of them writes."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from torch.optim import SGD

from callbacks.diagnostics.reward_monitor import RewardMonitor
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.models.scalars.reward_model import RewardModelSpec
from lightning_modules.on_policy import OnPolicyPreferenceModule
from lightning_modules.ppo.module import PPOModule
from lightning_modules.ppo.settings import PPOSettings
from lightning_modules.reward import RewardModule
from lightning_modules.rewards.judge_reward import JudgeReward
from lightning_modules.rewards.model_reward import ModelReward
from tests.lightning_modules.ppo.rig import EvenJudge, Prompts, fit
from tests.lightning_modules.stubs import TINY, InMemoryPairs, make_pairs

pytestmark = [
    pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`"),
    pytest.mark.filterwarnings("ignore:Rollout"),
    pytest.mark.filterwarnings("ignore:The reward model does not separate"),
]
DOCS = Path(__file__).parents[3] / "docs"
SHARED = ("train/", "val/loss", "val/rewards/")
"""Names that the modules have in common: on the page of metrics."""


def names_of(trainer: Trainer) -> set[str]:
    trainer.loggers[0].save()
    header = (Path(str(trainer.log_dir)) / "metrics.csv").read_text().splitlines()[0]
    return set(header.split(",")) - {"step", "epoch"}


class Validated(InMemoryPairs):
    def val_dataloader(self) -> object:
        return self.train_dataloader()


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder, optimizer = tmp_path_factory.mktemp("runs"), partial(SGD, lr=0.01)
    TINY.build().save(folder / "policy")
    reward = RewardModule(RewardModelSpec(str(folder / "policy")), optimizer)
    pairs = Validated(make_pairs(4), [[0, 1], [2, 3]], 1)
    watched = [RewardMonitor(1)]
    found = names_of(fit(folder / "rm", reward, pairs, watched, limit_val_batches=1.0, max_steps=2))
    reward.reward_model.save(folder / "reward_model")
    sources = [JudgeReward(EvenJudge()), ModelReward(str(folder / "reward_model"))]
    found |= names_of(fit(folder / "ppo", PPOModule(TINY, sources, optimizer), max_steps=1))
    settings = PPOSettings(kl_in_loss=0.1, preservation=0.1)
    found |= names_of(fit(folder / "grpo", PPOModule(TINY, sources, optimizer, settings=settings), max_steps=1))
    on_policy = OnPolicyPreferenceModule(TINY, DPOLoss(), [JudgeReward(EvenJudge())], optimizer)
    return found | names_of(fit(folder / "on_policy", on_policy, Prompts(), max_steps=1))


def documented() -> dict[str, re.Pattern[str]]:
    cells = [line.split("|")[1] for line in (DOCS / "rlhf.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    found = [name for cell in cells for name in re.findall(r"`([^`]+/[^`]+)`", cell)]
    return {name: re.compile(re.sub(r"<[a-z]+>", "[^/]+", name)) for name in found}


def test_every_metric_is_on_the_page(names: set[str]) -> None:
    own = {name for name in names if not name.startswith(SHARED)}
    assert len(own) > 25
    assert sorted(name for name in own if not any(pattern.fullmatch(name) for pattern in documented().values())) == []


def test_nothing_on_the_page_is_out_of_date(names: set[str]) -> None:
    assert [name for name, pattern in documented().items() if not any(map(pattern.fullmatch, names))] == []
