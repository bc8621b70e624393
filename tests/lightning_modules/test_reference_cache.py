"""A cached file of reference log-probs that a disk has spoilt is computed anew, not trained against."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins.precision import Precision

from lightning_modules.references.log_probs import ReferenceScorer
from tests.callbacks.rig import PAIRS, BigramSpec, ProbedPairs


def scored(folder: Path) -> torch.Tensor:
    data = ProbedPairs(PAIRS, [[0, 1, 2], [3, 4]], 1)
    data.setup("fit")
    ReferenceScorer(BigramSpec(), folder).attach(data, device=torch.device("cpu"), precision=Precision())
    parts = [batch.reference_token_logps for batch in data.scoring_dataloader("train")]
    return torch.cat([part for part in parts if part is not None])


@pytest.mark.parametrize("damage", [lambda content: content[:-40] + bytes(40), lambda content: content[:-40], lambda content: b""])
def test_a_damaged_file_is_named_and_computed_anew(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    right = scored(tmp_path)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.warns(UserWarning, match=f"{file.name} are damaged"):
        assert torch.equal(scored(tmp_path), right)
    # Whole again: a second look warns of nothing, and changes nothing.
    written = file.read_bytes()
    assert torch.equal(scored(tmp_path), right)
    assert file.read_bytes() == written
