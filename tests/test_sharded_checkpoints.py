"""Checkpoints of two processes under FSDP2: whole or not there, of adapters alone, and read by other numbers of processes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch.multiprocessing.spawn import ProcessException
from torch.optim import AdamW

from bench.gloo import together
from callbacks.saving.checkpoint import RunCheckpoint
from callbacks.saving.checkpoint_file import require_whole
from callbacks.saving.policy_export import PolicyExport
from lightning_modules.models.adapters.lora import LoraSpec
from lightning_modules.models.specs import RandomPolicy
from lightning_modules.sft import SFTModule
from tests.lightning_modules.ppo.rig import fit
from tests.lightning_modules.stubs import TINY, InMemoryPairs, make_pairs
from tests.test_resume import differences

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
]
STEPS = 4
LARGE = replace(TINY, config=TINY.config | {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 2048})
ADAPTED = replace(LARGE, lora=LoraSpec(r=1, target_modules=["q_proj"]))
SPECS: Mapping[str, RandomPolicy] = {
    "plain": LARGE,
    "adapted": ADAPTED,
    "other": replace(ADAPTED, seed=4),
    "elsewhere": replace(ADAPTED, lora=LoraSpec(r=1, target_modules=["v_proj"])),
}


def strategy(name: str) -> Strategy | str:
    if name == "one":
        return "auto"
    return DDPStrategy() if name == "ddp" else sharded(name)


def sharded(name: str) -> ModelParallelStrategy:
    """`folder` or `file`."""
    return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=name == "folder")


def train(home: Path, name: str, spec: str, kind: str, start: str | None = None) -> None:
    """In each process: four steps with a checkpoint at every second one, or on from that of step 2 of another run."""
    torch.set_num_threads(1)
    module, data = SFTModule(SPECS[spec], optimizer=partial(AdamW, lr=1e-2)), InMemoryPairs(make_pairs(4), [[0, 1], [2, 3]], 1)
    options: dict[str, Any] = {"max_steps": STEPS, "enable_checkpointing": True, "strategy": strategy(kind)}
    options |= {"devices": 1 if kind == "one" else 2}
    checkpoint = None if start is None else at_step(home / start, 2)
    fit(home / name, module, data, [RunCheckpoint(2, keep_all=True, max_share=None), PolicyExport()], checkpoint, **options)


def at_step(folder: Path, step: int) -> Path:
    [found] = folder.rglob(f"epoch=*step={step}.ckpt")
    return found


def size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.iterdir())


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    [file] = folder.rglob("policy/model.safetensors")
    return load_file(file)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharded")


def whole(home: Path, kind: str) -> Path:
    """The run over the adapters that was left alone; made when first asked for."""
    if not (home / kind).exists():
        together(2, train, home, kind, "adapted", kind)
    return home / kind


@pytest.mark.parametrize("kind", ["folder", pytest.param("file", marks=pytest.mark.slow)])
def test_it_holds_the_adapters_alone_and_goes_on_to_the_same_bits(home: Path, kind: str) -> None:
    together(2, train, home, f"plain_{kind}", "plain", kind)
    assert size_of(at_step(whole(home, kind), 2)) <= 0.02 * size_of(at_step(home / f"plain_{kind}", 2))
    together(2, train, home, f"resumed_{kind}", "adapted", kind, kind)
    assert list(differences(weights(home / f"resumed_{kind}"), weights(home / kind))) == []


READERS = (("file", "ddp"), ("ddp", "file"), ("ddp", "folder"))
"""Who wrote, and who goes on."""


@pytest.mark.parametrize(("start", "kind"), [("file", "one"), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in READERS)])
def test_a_file_is_read_under_any_strategy(home: Path, start: str, kind: str) -> None:
    expected = weights(whole(home, start))
    together(1 if kind == "one" else 2, train, home, f"{kind}_from_{start}", "adapted", kind, start)
    for key, weight in weights(home / f"{kind}_from_{start}").items():
        assert (expected[key] - weight).norm() <= 1e-5 * weight.norm(), key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        ("other", "folder", "were trained on, got other weights"),
        ("other", "file", "were trained on, got other weights"),
        ("elsewhere", "file", "expected the adapters that wrote the checkpoint, got others: .*lora_A.* was absent"),
        # Refused by torch, which says so on another process than the one that is heard here.
        ("elsewhere", "folder", ""),
    ],
)
def test_others_are_refused(home: Path, spec: str, kind: str, words: str) -> None:
    whole(home, kind)
    with pytest.raises(ProcessException) as refused:
        together(2, train, home, f"{spec}_{kind}", spec, kind, kind)
    assert re.search(words, str(refused.value), re.DOTALL)
    assert not list((home / f"{spec}_{kind}").rglob("epoch=*"))


def test_a_folder_is_there_whole_or_not_at_all(home: Path) -> None:
    found = at_step(whole(home, "folder"), 2)
    require_whole(found)
    assert not list(home.rglob("*.partial"))
    part = next(found.glob("*.distcp"))
    content = part.read_bytes()
    middle = len(content) // 2
    for damaged in (content[:middle], content[:middle] + b"\x00\x01\x02\x03" + content[middle + 4 :], None):
        part.write_bytes(damaged) if damaged is not None else part.unlink()
        with pytest.raises(ValueError, match=rf"damaged \({part.name} is (not what was written|missing)\). There is also .*step=4"):
            require_whole(found)
    part.write_bytes(content)
    (found / ".metadata").rename(found / "away")
    with pytest.raises(ValueError, match="it was not written to its end"):
        require_whole(found)
    (found / "away").rename(found / ".metadata")
    require_whole(found)
