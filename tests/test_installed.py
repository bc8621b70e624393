"""The wheel: what is in it, and what a fresh environment and another working directory make of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import setup as installation
from tests import tiny

ROOT = Path(__file__).parents[1]
SOURCE = ("prefscope", *installation.CODE, *installation.COMMANDS, "setup.py", "configs", "assets", "pyproject.toml", "MANIFEST.in")
BUILD = "from setuptools import build_meta; build_meta.{}('{}')"


def checked(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What a command prints; it has to succeed."""
    finished = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False, env=os.environ | environment
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, which is built from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("build")
    copy = folder / "checkout"
    for name in (*SOURCE, "README.md", "LICENSE", "constraints.txt", "docs/metrics.md", "docs/rlhf.md"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(ROOT / name, copy / name) if (ROOT / name).is_dir() else shutil.copy2(ROOT / name, copy / name)
    checked(sys.executable, "-c", BUILD.format("build_sdist", folder), cwd=copy)
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        source.extractall(folder, filter="data")
    checked(sys.executable, "-c", BUILD.format("build_wheel", folder), cwd=folder / archive.name.removesuffix(".tar.gz"))
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the commands of a fresh environment: the wheel is installed, its dependencies are borrowed."""
    home = tmp_path_factory.mktemp("environment")
    checked(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    python = home / "bin" / "python"
    checked(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel, cwd=home)
    [packages] = home.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return home / "bin"


def test_the_wheel_holds_the_application_inside_its_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {re.sub(r"-[\d.]+\.dist-info$", "", name.split("/")[0]) for name in names} == {"prefscope"}
    inside = {name.removeprefix("prefscope/application/") for name in names if name.startswith("prefscope/application/")}
    wanted = {
        str(file.relative_to(ROOT))
        for folder in (*installation.CODE, "configs", "assets")
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert inside == wanted | {*installation.COMMANDS, "docs/metrics.md", "docs/rlhf.md"}
    assert {"train.py", "callbacks/base.py", "configs/experiment/toy_dpo.yaml", "assets/arithmetic/base/config.json"} <= inside
    assert not {name.split("/")[0] for name in inside} & {"tests", "bench", "studies", "setup.py", ".venv"}


def test_nothing_of_the_application_is_at_the_top(environment: Path, tmp_path: Path) -> None:
    program = """
import sys, prefscope
ours = [name for name in %r if name in sys.modules]
assert not ours, ours
try:
    import callbacks
except ModuleNotFoundError:
    print(prefscope.__version__)
"""
    said = checked(environment / "python", "-c", program % [*installation.CODE, "torch", "train"], cwd=tmp_path)
    assert said.strip() == checked(environment / "prefscope", "--version", cwd=tmp_path).split()[-1]


def test_a_checkpoint_is_diagnosed_from_another_folder(environment: Path, tmp_path: Path) -> None:
    base = tiny.write_model(tmp_path / "base")
    tiny.write_tokenizer(tmp_path / "run" / "checkpoint-7")
    for file in base.iterdir():
        shutil.copy2(file, tmp_path / "run" / "checkpoint-7" / file.name)
    tiny.write_pairs(tmp_path / "pairs.jsonl", 12)
    program = """
import prefscope, json, sys
found = prefscope.diagnose("run", reference="base", pairs="pairs.jsonl", options=%r)
print(found)
print(json.dumps([found.properties, found.harm, found.table.reset_index().to_dict("records"), str(found.page), str(found.folder)]))
assert "callbacks" not in sys.modules and "torch" not in sys.modules
"""
    options = ["--trainer.accelerator=cpu", "--data.num_probe_prompts=2", "--data.max_length=60"]
    said = checked(environment / "python", "-c", program % options, cwd=tmp_path, OMP_NUM_THREADS="1").splitlines()
    assert said[0].startswith("1 checkpoint, step 7, beside base, on 12 pairs.")
    properties, harm, [row], page, folder = json.loads(said[-1])
    assert set(properties) == {"drastic_drop", "suppression", "dispersion"}
    assert harm
    assert row["step"] == 7
    # The checkpoint is a copy of the base.
    assert row["pairs/chosen/change"] == pytest.approx(0, abs=1e-6)
    assert Path(page) == tmp_path / "report.html"
    assert "prefscope validate --config runs/diagnose/version_0/config.yaml" in Path(page).read_text()
    assert Path(folder) == tmp_path / "runs" / "diagnose" / "version_0"


@pytest.mark.slow
def test_a_shipped_experiment_runs_by_its_name(environment: Path, tmp_path: Path) -> None:
    fit: list[str | Path] = [
        environment / "prefscope",
        "fit",
        "--config",
        "demo_dpo",
        "--trainer.accelerator",
        "cpu",
        "--data.batch_size",
        "8",
    ]
    quick = ["--data.task.num_test", "4", "--data.num_probe_prompts", "4"]
    said = checked(*fit, *quick, "--trainer.max_steps", "2", cwd=tmp_path, OMP_NUM_THREADS="1")
    hint = re.search(r"Resume:  (prefscope fit .*)", said)
    assert hint is not None, said[-2000:]
    # What it says can be typed.
    again = checked(environment / "prefscope", *hint[1].split()[1:], cwd=tmp_path, OMP_NUM_THREADS="1")
    assert "step 4" in again
    page = checked(environment / "prefscope", "report", "runs/demo_dpo/version_0", cwd=tmp_path)
    assert page.strip() == "report.html"
    other = subprocess.run([environment / "prefscope", "fit", "--config", "demo_dop"], cwd=tmp_path, capture_output=True, text=True)
    assert "Did you mean demo_dpo?" in other.stderr
