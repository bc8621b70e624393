"""Every config against the code: it parses, names each class once, and hides nothing."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Hashable, Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser
from packaging.requirements import Requirement
from typing_extensions import override

from lightning_modules.losses.base import Loss
from tests.lightning_modules.losses.cases import all_loss_classes
from tests.parsing import Parse, parsing

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
EXPERIMENTS = sorted((CONFIGS / "experiment").glob("*.yaml"))
LOSSES = sorted((CONFIGS / "model" / "loss").glob("*.yaml"))
PARTS = [(part, path) for part in ("trainer", "model", "data") for path in sorted((CONFIGS / part).glob("*.yaml"))]
BASE = CONFIGS / "experiment" / "smollm2_hh_dpo.yaml"


def relative(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


class StrictLoader(yaml.SafeLoader):
    """YAML without its silent trap: of a key that stands twice, the last one wins."""

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise ValueError(f"{node.start_mark}: {twice} stands twice")
        return super().construct_mapping(node, deep)


def load(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), StrictLoader)


@pytest.fixture(scope="module")
def parse() -> Iterator[Parse]:
    with parsing() as parse_only:
        yield parse_only


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("subcommand", ["fit", "validate"])
def test_experiments_parse(parse: Parse, path: Path, subcommand: str) -> None:
    config = parse(subcommand, "--config", path)
    assert config.model.class_path.startswith("lightning_modules.")
    assert config.data.class_path.startswith("datamodules.")
    assert config.trainer.logger.init_args.name == path.stem


@pytest.mark.parametrize(
    ("experiment", "option"), [("arithmetic_ppo_rm", "init_args.path"), ("arithmetic_rto", "init_args.policy.init_args.path")]
)
def test_the_model_that_rewards_is_named_on_the_command_line(parse: Parse, experiment: str, option: str) -> None:
    """An option of a list's items reaches the last one: so the model stands last."""
    path = ROOT / "configs" / "experiment" / f"{experiment}.yaml"
    config = parse("fit", "--config", path, f"--model.rewards.{option}", "elsewhere")
    assert config.model.init_args.rewards[-1][option] == "elsewhere"


@pytest.mark.parametrize(("part", "path"), PARTS, ids=[relative(path) for _, path in PARTS])
def test_parts_parse(parse: Parse, part: str, path: Path) -> None:
    config = parse("fit", "--config", BASE, f"--{part}", path)
    for key, value in load(path).items():
        if key == "class_path":
            assert config[part].class_path == value


@pytest.mark.parametrize("path", LOSSES, ids=lambda path: path.stem)
def test_losses_parse_with_every_field_at_its_default(path: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Loss, "loss")
    loss = parser.instantiate(parser.parse_args([f"--loss={path}"])).loss
    assert path.stem == type(loss).__module__.rsplit(".", 1)[1]
    assert loss == type(loss)()
    assert set(load(path).get("init_args", {})) == {field.name for field in fields(loss)}


def test_every_loss_has_a_config() -> None:
    concrete = all_loss_classes()
    named = {load(path)["class_path"] for path in LOSSES}
    found = {f"{loss.__module__}.{loss.__qualname__}" for loss in concrete}
    assert found == named, "each loss has configs/model/loss/<its file's name>.yaml, with every field at its default"


@cache
def composed(path: Path) -> tuple[tuple[str, str], ...]:
    """(key, class_path) of every class a config names, parts included, in order."""
    return tuple(_classes(load(path), path, ""))


def _classes(value: Any, path: Path, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str) and value.endswith(".yaml"):
        part = (path.parent / value).resolve()
        yield from _classes(load(part), part, key)
    elif isinstance(value, dict):
        if "class_path" in value:
            yield key, value["class_path"]
        for name, item in value.items():
            yield from _classes(item, path, f"{key}.{name}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _classes(item, path, f"{key}[{number}]")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_name_each_class_once(path: Path) -> None:
    """One place, one class: nothing is layered, so nothing can be inherited. Of callbacks there is one of a kind."""
    content = load(path)
    assert set(content) == {"seed_everything", "trainer", "model", "data"}
    keys = [key for key, _ in composed(path)]
    assert len(set(keys)) == len(keys)
    callbacks = [class_path for key, class_path in composed(path) if "callbacks" in key and key.endswith("]")]
    assert len(set(callbacks)) == len(callbacks)


@pytest.mark.parametrize(
    "path", [path for path in EXPERIMENTS if not path.stem.endswith(("_sample", "_test", "diagnose"))], ids=lambda path: path.stem
)
def test_experiments_can_be_resumed_and_never_overwrite(path: Path) -> None:
    """One logger and no list, so that the command line can name a run: --trainer.logger.name."""
    classes = dict(composed(path))
    assert "callbacks.saving.checkpoint.RunCheckpoint" in classes.values()
    assert classes[".trainer.logger"].endswith(("RunLogger", "CSVLogger"))


def test_no_part_but_the_data_names_a_judge() -> None:
    """A judge belongs to its task: the trainer and the model of an experiment serve every task."""
    named = [(path.stem, key) for path in EXPERIMENTS for key, class_path in composed(path) if class_path.startswith("judges.")]
    assert [entry for entry in named if not entry[1].startswith(".data")] == []


def test_the_gpus_trainer_is_the_default_but_for_what_a_gpu_wants(parse: Parse) -> None:
    default, gpu = (load(ROOT / "configs" / "trainer" / f"{stem}.yaml") for stem in ("default", "gpu"))
    for key, values in {"accelerator": ("auto", "gpu"), "precision": ("32-true", "bf16-mixed")}.items():
        assert (default.pop(key), gpu.pop(key)) == values
    callbacks, others = ({entry.pop("class_path"): entry for entry in part.pop("callbacks")} for part in (gpu, default))
    assert callbacks.pop("callbacks.control.matmul_precision.MatmulPrecision") == {"init_args": {"float32": "high"}}
    every = [
        part.pop("callbacks.saving.checkpoint.RunCheckpoint")["init_args"].pop("every_n_train_steps")
        for part in (others, callbacks)
    ]
    assert every == [50, 500]
    assert (gpu, callbacks) == (default, others)
    # Laid over an experiment, it leaves nothing of the trainer that it replaces.
    for experiment in EXPERIMENTS:
        if load(experiment)["trainer"] == "../trainer/default.yaml":
            trainer = parse("fit", "--config", experiment, "--trainer", ROOT / "configs" / "trainer" / "gpu.yaml").trainer
            assert (trainer.precision, trainer.accelerator, len(trainer.callbacks)) == ("bf16-mixed", "gpu", len(others) + 2)
            optimizer = parse("fit", "--config", experiment).model.init_args.optimizer
            assert optimizer.init_args.fused is True


def test_every_part_is_used_or_documented() -> None:
    """A config that no experiment and no study names, and that no document mentions, is dead."""
    documents = "".join(path.read_text(encoding="utf-8") for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")))
    studies = (ROOT / "studies").rglob("*.yaml")
    experiments = "".join(path.read_text(encoding="utf-8") for path in (*EXPERIMENTS, *studies))
    dead = [relative(path) for _, path in PARTS if f"{path.parent.name}/{path.name}" not in experiments + documents]
    assert not dead


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {normal(name): version for name, version in (line.split("==") for line in lines if not line.startswith("#"))}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_lock_has_a_hash_of_every_tested_version() -> None:
    lock = (ROOT / "constraints.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split() for line in lock.splitlines() if not line.startswith("#")]
    # A marker, such as `; sys_platform == 'linux'`, may stand between version and hashes.
    assert {normal(line[0].split("==")[0]): line[0].split("==")[1] for line in lines} == pinned()
    assert [line[0] for line in lines if not re.search(r"--hash=sha256:[0-9a-f]{64}\b", " ".join(line))] == []


def test_the_tested_versions_lie_within_the_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    versions = pinned()
    for line in [*project["dependencies"], *extras["dev"], *extras["judges"]]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(versions[normal(requirement.name)], prereleases=True), line
