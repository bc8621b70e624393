"""Writes what the warnings of a run read: callbacks/alarms/calibration.json, from all labelled runs but the family apart."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from callbacks.alarms.features import FEATURES
from studies.study import ROOT
from studies.verdict.families import LabelledRun
from studies.verdict.fit import Model, Scored, chosen, fit, probability_of, threshold_of, trainable

SIZE_OF = {"embedded": (863_104, 76), "second": (1_385_472, 298), "poem": (1_247_232, 3_075), "SmolLM2": (134_515_008, 49_152)}
"""Family -> (parameters, vocabulary)."""
FARTHEST = 0.99
"""Quantile of the calibration's own distances beyond which a reading is outside."""


def write_calibration(path: Path, runs: Sequence[LabelledRun], scored: Sequence[Scored]) -> Model:
    """Fit to all families, with the threshold and the probabilities of the held-out scores; returns the model."""
    members = trainable(runs)
    model = fit(members, chosen)
    known = [one for one in scored if one.run.family in SIZE_OF]
    table = np.concatenate([run.sizes for run in members])
    centre, precision = table.mean(0), np.linalg.pinv(np.cov(table.T) + 1e-4 * np.eye(table.shape[1]))
    apart = table - centre
    distances = np.sqrt(np.einsum("ij,jk,ik->i", apart, precision, apart))
    families = dict.fromkeys(run.family for run in members)
    sizes, vocabularies = zip(*(SIZE_OF[family] for family in families), strict=True)
    content = {
        "made_by": "python -m studies page verdict",
        "features": [feature.name for feature in FEATURES],
        "weights": _rounded(model.weights),
        "intercept": round(model.intercept, 4),
        "probability_of": _rounded(probability_of(scored)),
        "threshold": math.ceil(1e4 * threshold_of(scored)) / 1e4,
        "wrong": _scores(known, is_wrong=True),
        "fine": _scores(known, is_wrong=False),
        "centre": _rounded(centre),
        "precision": [_rounded(row) for row in precision],
        "limit": round(float(np.quantile(distances, FARTHEST)), 4),
        "parameters": [min(sizes), max(sizes)],
        "vocabulary": [min(vocabularies), max(vocabularies)],
        "objectives": sorted({objective_of(run) for run in members}),
        "runs": {family: _counts(members, family) for family in families},
    }
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in content.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return model


def objective_of(run: LabelledRun) -> str:
    """Class of its loss, or of its module."""
    config: dict[str, Any] = yaml.safe_load((ROOT / run.cell.folder / "config.yaml").read_text(encoding="utf-8"))
    model = config["model"]
    named = model["init_args"].get("loss") or model
    return str(named["class_path"]).rsplit(".", 1)[-1]


def _counts(runs: Sequence[LabelledRun], family: str) -> list[int]:
    wrong = [run.outcome.is_wrong for run in runs if run.family == family]
    return [wrong.count(False), wrong.count(True)]


def _scores(scored: Sequence[Scored], *, is_wrong: bool) -> list[float]:
    """Highest scores, rounded down: none comes to a threshold, which is rounded up, by rounding."""
    return sorted(math.floor(1e4 * one.highest) / 1e4 for one in scored if one.run.outcome.is_wrong == is_wrong)


def _rounded(values: Any) -> list[float]:  # noqa: ANN401
    return [round(float(value), 4) for value in values]
