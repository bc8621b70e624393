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
from studies.verdict.families import ANSWERED, LabelledRun
from studies.verdict.fit import Model, Scored, Sizes, chosen, fit, held_out, probability_of, threshold_of, trainable, with_judged

SIZE_OF = {"embedded": (863_104, 76), "second": (1_385_472, 298), "poem": (1_247_232, 3_075), "SmolLM2": (134_515_008, 49_152)}
"""Family -> (parameters, vocabulary)."""
FARTHEST = 0.99
"""Quantile of the calibration's own distances beyond which a reading is outside."""


def write_calibration(path: Path, runs: Sequence[LabelledRun]) -> Model:
    """Write both models, that of the bank alone and that where answers are judged; returns the first."""
    answered = [run for run in runs if run.family in ANSWERED]
    model, bank = _part(runs, chosen)
    parts = {"bank": bank, "judged": _part(answered, with_judged)[1]}
    lines = ['  "made_by": "python -m studies page verdict"', f'  "features": {json.dumps([feature.name for feature in FEATURES])}']
    for name, part in parts.items():
        rows = ",\n".join(f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in part.items())
        lines.append(f"  {json.dumps(name)}: {{\n{rows}\n  }}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return model


def _part(runs: Sequence[LabelledRun], sizes: Sizes) -> tuple[Model, dict[str, Any]]:
    """Fit to all families, with the threshold and the probabilities of the held-out scores."""
    members, scored = trainable(runs), held_out(runs, sizes)
    model = fit(members, sizes)
    known = [one for one in scored if one.run.family in SIZE_OF]
    table = np.concatenate([sizes(run) for run in members])
    centre, precision = table.mean(0), np.linalg.pinv(np.cov(table.T) + 1e-4 * np.eye(table.shape[1]))
    # What the model does not weigh is 0 there, and says nothing of how far a reading is.
    weighed = table.std(0) > 0
    precision[~weighed] = precision[:, ~weighed] = 0.0
    apart = table - centre
    distances = np.sqrt(np.einsum("ij,jk,ik->i", apart, precision, apart))
    families = dict.fromkeys(run.family for run in members)
    parameters, vocabularies = zip(*(SIZE_OF[family] for family in families), strict=True)
    return model, {
        "weights": _rounded(model.weights),
        "intercept": round(model.intercept, 4),
        "probability_of": _rounded(probability_of(scored)),
        "threshold": math.ceil(1e4 * threshold_of(scored)) / 1e4,
        "wrong": _scores(known, is_wrong=True),
        "fine": _scores(known, is_wrong=False),
        "centre": _rounded(centre),
        "precision": [_rounded(row) for row in precision],
        "limit": round(float(np.quantile(distances, FARTHEST)), 4),
        "parameters": [min(parameters), max(parameters)],
        "vocabulary": [min(vocabularies), max(vocabularies)],
        "objectives": sorted({objective_of(run) for run in members}),
        "runs": {family: _counts(members, family) for family in families},
    }


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
