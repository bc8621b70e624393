from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch.optim import SGD

from callbacks.diagnostics.disentanglement import DisentanglementMonitor, against_realised, band, explained
from callbacks.mathematics.ches import ches
from callbacks.mathematics.head_geometry import HeadReader, PairGeometry
from callbacks.readings import Counted
from datamodules.contracts.packing import pack
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.flex_dpo import FlexDPOLoss
from lightning_modules.preference import PreferenceModule
from lightning_modules.sft import SFTModule
from run_folder.rows import read_rows
from tests.callbacks.rig import PAIRS, BigramSpec, ProbedPairs, fit, supervised
from tests.lightning_modules.stubs import TINY, make_pairs

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")

GEOMETRY = PairGeometry(
    torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64),
    torch.tensor([3.0, 4.0, 1.0], dtype=torch.float64),
    torch.tensor([4.0, -1.0, 0.0], dtype=torch.float64),
)


def test_band_of_numbers_made_by_hand() -> None:
    found = band(GEOMETRY, (torch.tensor([0.1, 0.0, 0.1]), torch.tensor([0.2, 0.0, 0.1])))
    # Pair 1: dL+ = 0.1 * 4 - 0.2 * 4 < 0: violated. Pair 2 is not pushed. Pair 3: chosen has no gradient to rise by.
    assert found["band_violated"] == Counted(torch.tensor(2.0, dtype=torch.float64), torch.tensor(2))
    torch.testing.assert_close(found["chosen/predicted"], torch.tensor([-0.4, 0.0, 0.0], dtype=torch.float64), atol=1e-7, rtol=0)
    torch.testing.assert_close(found["rejected/predicted"], torch.tensor([-1.4, 0.0, -0.1], dtype=torch.float64), atol=1e-7, rtol=0)
    cosine, centre, ratio = found["cosine"], found["log_centre"], found["log_incentive_ratio"]
    assert isinstance(cosine, Counted)
    assert isinstance(centre, Counted)
    assert isinstance(ratio, Counted)
    assert [cosine.total.item(), cosine.number.item()] == pytest.approx([4 / 6 - 1 / 4, 2])
    assert [centre.total.exp().item(), centre.number.item()] == pytest.approx([2 / 3 * 1 / 4, 2])
    assert [ratio.total.exp().item(), ratio.number.item()] == pytest.approx([0.5, 2])


def _padded(values: tuple[torch.Tensor, ...], known: torch.Tensor) -> dict[str, Counted]:
    x, y = values
    return against_realised((x, y), (y, torch.ones(48)), (known, known))


def test_explained_is_the_squared_correlation() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 40, generator=generator, dtype=torch.float64)
    y = 3 * x + 2 * y + 5
    everywhere = torch.ones(40, dtype=torch.bool)
    # Eight more that have not moved beyond rounding count for nothing.
    padded, known = (torch.cat([values, torch.full((8,), 7.0)]) for values in (x, y)), torch.arange(48) < 40
    for values in (against_realised((x, y), (y, torch.ones(40)), (everywhere, everywhere)), _padded(tuple(padded), known)):
        means = {name: (value.total / value.number).item() for name, value in values.items()}
        assert means["sign_agreement"] == pytest.approx((x.sign() == y.sign()).double().mean().item())
    expected = torch.corrcoef(torch.stack([x, y]))[0, 1].item() ** 2
    assert explained(means, "chosen") == pytest.approx(expected)
    assert explained(means, "rejected") is None, "what never varies is not explained"


@pytest.mark.parametrize(("rate", "moves"), [(0.0, False), (0.5, True)])
def test_what_has_not_moved_is_left_out(rate: float, moves: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cached reference that rounded otherwise than the training pass, as it does where batches are packed otherwise."""
    attach = ProbedPairs.set_reference_logps

    def rounded(self: ProbedPairs, split: str, token_logps: torch.Tensor) -> None:
        noise = torch.rand(len(token_logps), generator=torch.Generator().manual_seed(0)) - 0.5
        attach(self, split, token_logps + 2e-6 * noise)

    monkeypatch.setattr(ProbedPairs, "set_reference_logps", rounded)
    module = PreferenceModule(TINY, DPOLoss(), partial(SGD, lr=rate), cache_dir=str(tmp_path))
    data = ProbedPairs(make_pairs(4), [[0, 1], [2, 3], [0, 2], [1, 3]], 2)
    trainer = fit(module, [DisentanglementMonitor(every_n_steps=2)], tmp_path, data=data, accumulate=2)
    first, second = read_rows(Path(trainer.log_dir or ""), "disentanglement")
    promised = {"head/sign_agreement", "head/chosen/explained", "head/rejected/explained"}
    assert not promised & first.keys()
    assert (promised & second.keys() == promised) == moves
    assert moves or not promised & second.keys()


def test_rows_are_the_geometry_of_the_policy_each_step_started_from(tmp_path: Path) -> None:
    pairs, loss, rate = make_pairs(4), FlexDPOLoss(beta_chosen=0.5, beta_rejected=0.3), 0.5
    module = PreferenceModule(TINY, loss, partial(SGD, lr=rate), cache_dir=str(tmp_path))
    data = ProbedPairs(pairs, [[0, 1], [2, 3], [0, 2], [1, 3]], 2)
    trainer = fit(module, [DisentanglementMonitor(every_n_steps=2)], tmp_path, data=data, accumulate=2)
    first, second = read_rows(Path(trainer.log_dir or ""), "disentanglement")
    assert (first["step"], second["step"]) == (1, 2)
    policy, batch = TINY.build(), pack(pairs)
    stats = policy(batch)
    geometry = HeadReader().geometry_of(policy, batch, stats)
    assert geometry is not None
    assert stats.hidden is not None
    assert first["head/chosen/norm"] == pytest.approx(geometry.chosen_norms.mean().item(), rel=1e-5)
    assert first["head/centre"] == pytest.approx(geometry.log_centre().mean().exp().item(), rel=1e-5)
    assert first["head/cosine"] == pytest.approx(geometry.cosine.mean().item(), rel=1e-5)
    assert first["head/ches"] == pytest.approx(ches(stats.hidden, batch)["ches"].mean().item(), rel=1e-5)
    assert first["head/incentive_ratio"] == pytest.approx(0.5 / 0.3)
    incentives = torch.full((4,), 0.25), torch.full((4,), 0.15)
    assert first["head/rejected/predicted"] == pytest.approx(geometry.predicted(incentives)[1].mean().item(), rel=1e-5)
    assert first["head/band_violated"] == pytest.approx((~geometry.in_band(incentives)).double().mean().item())
    assert "head/chosen/explained" not in first, "nothing has moved yet"
    assert 0 <= second["head/chosen/explained"] <= 1
    assert second["head/chosen/norm"] != first["head/chosen/norm"]


def test_pairs_without_a_head_and_heads_without_pairs_write_nothing(tmp_path: Path) -> None:
    monitor, optimizer = DisentanglementMonitor(1), partial(SGD, lr=0.1)
    bigram = PreferenceModule(BigramSpec(), DPOLoss(), optimizer, cache_dir=str(tmp_path))
    run = fit(bigram, [monitor], tmp_path)
    assert read_rows(Path(run.log_dir or ""), "disentanglement") == []
    run = fit(SFTModule(TINY, optimizer), [monitor], tmp_path, data=ProbedPairs(supervised(PAIRS), [[0, 1], [2, 3]], 1))
    assert read_rows(Path(run.log_dir or ""), "disentanglement") == []
