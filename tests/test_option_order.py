"""An option that a later part would take back is refused; no run of a shipped study has one."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line.option_order import require_kept_options
from studies.files import FOLDER, load_study

STUDIES = [path for path in sorted(FOLDER.rglob("*.yaml")) if path.parent.name != "trainers"]


@pytest.mark.parametrize(
    ("arguments", "lost"),
    [
        ("--data.seed 1 --data other.yaml", "--data before --data.seed"),
        ("--data.seed=1 --data=other.yaml", "--data before --data.seed"),
        ("--model.loss.loss.beta 1 --model.loss gated", "--model.loss before --model.loss.loss.beta"),
        ("--data.seed 1 --data.batch_size 2 --data other.yaml --data.seed 1", "--data before --data.batch_size"),
        ("--model.loss simpo --model.loss.beta 1 --model other.yaml", "--model before --model.loss"),
        ("--data other.yaml --data.seed 1", None),
        ("--data.seed 1 --data other.yaml --data.seed 1", None),
        ("--trainer.callbacks.every_n_steps 1 --trainer.callbacks+=LazyLikelihood", None),
        ("--data.seeds 1 --data.seed 2", None),
    ],
)
def test_a_part_comes_before_its_options(arguments: str, lost: str | None) -> None:
    if lost is None:
        require_kept_options(arguments.split())
        return
    with pytest.raises(ValueError, match=f"expected {lost}, got it after: .* Put {lost.split()[0]} first"):
        require_kept_options(arguments.split())


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_studies_give_no_option_that_is_dropped(path: Path) -> None:
    for cell in load_study(str(path.relative_to(FOLDER).with_suffix(""))).cells:
        require_kept_options(cell.command())
