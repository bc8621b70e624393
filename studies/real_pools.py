"""Samples and judges the pools of a study of models: each one's own responses, and another's for the off-policy scenarios."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from datamodules.pool.files import read_pool, write_pool
from datamodules.pool.merge import merge_rows
from datamodules.pool.schema import POLICY
from studies.study import ROOT, Study

PATH, POOL = "--model.policy.path", "--data.pool"


def prepare(study: Study) -> None:
    """Write the pool that each level of the factor `model` names. A pool that is there stays; one that was cut goes on.

    The setting `sampling` says how: `experiment` and `options` of `train.py predict`, `candidates` of the model itself, `others` of
    the model that `other_of` names for it.
    """
    with contextlib.chdir(ROOT):
        for model in dict.fromkeys(cell.levels["model"] for cell in study.cells):
            pool = Path(_option(study, model, POOL))
            if not pool.exists():
                _make(study, model, pool)


def _make(study: Study, model: str, pool: Path) -> None:
    sampling = study.settings["sampling"]
    other = sampling["other_of"][model]
    parts = {POLICY: (model, sampling["candidates"]), other: (other, sampling["others"])}
    for source, (sampled, count) in parts.items():
        _sample(study, _option(study, sampled, PATH), pool.parent / f"{source}.jsonl", source, count)
    write_pool(pool, merge_rows(row for source in parts for row in read_pool(pool.parent / f"{source}.jsonl")[0].values()))


def _sample(study: Study, path: str, pool: Path, source: str, count: int) -> None:
    """`count` candidates for every problem, by one model; those that the file has are not drawn again."""
    from train import main as train

    sampling = study.settings["sampling"]
    options: Sequence[object] = [
        *("--config", f"configs/experiment/{sampling['experiment']}.yaml", *sampling["options"]),
        *(PATH, path, "--data.num_samples", count),
        *("--trainer.callbacks.pool", pool, "--trainer.callbacks.source", source),
        *("--trainer.logger.save_dir", pool.parent, "--trainer.logger.name", f"sample_{source}"),
    ]
    train(["predict", *map(str, options)])


def _option(study: Study, model: str, name: str) -> str:
    options = study.grid["model"][model].options
    return options[options.index(name) + 1]
