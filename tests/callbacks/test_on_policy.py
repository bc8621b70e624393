from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from torch.optim import SGD

from callbacks.answers.samples import SampleLogger
from callbacks.mathematics.sample_statistics import ScoredSamples, distinct, divergence, floor_of, repetition, score, shape
from datamodules.contracts.prompts import Sampling
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.models.policy import SampledCompletion
from lightning_modules.models.toy.specs import ToyPolicySpec
from lightning_modules.preference import PreferenceModule
from lightning_modules.sft import SFTModule
from run_folder.rows import read_rows
from tests.callbacks.rig import PAIRS, BigramPolicy, BigramSpec, ProbedPairs, fit, supervised

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


def scored(ids: list[tuple[int, ...]], logps: list[float], reference: list[float]) -> ScoredSamples:
    return ScoredSamples(tuple(ids), (True,) * len(ids), torch.tensor(logps).double(), torch.tensor(reference).double())


def test_repetition_by_hand() -> None:
    assert repetition([1, 2, 1, 2, 1, 2], 2) == pytest.approx(3 / 5), "12 21 12 21 12: two are new"
    assert repetition([1, 2, 3, 4, 5]) == 0
    assert repetition([7] * 10) == pytest.approx(6 / 7)
    assert repetition([1, 2, 3]) == 0, "no piece of four"


def test_distinct_counts_over_all_samples() -> None:
    assert distinct([(1, 2), (1, 3)], 1) == pytest.approx(3 / 4)
    assert distinct([(1, 2), (1, 2)], 2) == pytest.approx(1 / 2)
    assert distinct([(1,)], 2) == 0


def test_numbers_of_samples_made_by_hand() -> None:
    samples = scored([(1, 2), (3,), (4, 4, 4, 4, 4, 4)], [-1.0, -2.0, -3.0], [-2.0, -1.0, -9.0])
    assert divergence(samples) == pytest.approx({"kl": 2.0, "kl_per_token": 6 / 9})
    found = shape(samples, floor=-1.2)
    assert found == pytest.approx(
        {
            "reference_logp_per_token": -3.5 / 3,
            "out_of_reference": 1 / 3,
            "repetition": 2 / 3 / 3,
            "distinct_1": 4 / 9,
            "distinct_2": 2 / 6,
            "length": 3.0,
            "cut": 0.0,
        }
    )


def test_floor_is_the_first_percentile() -> None:
    samples = scored([(1,)] * 101, [0.0] * 101, [-float(number) for number in range(101)])
    assert floor_of(samples) == pytest.approx(-99)


def test_sampled_kl_is_the_exact_one() -> None:
    """Every response of one token weighted by its own probability: what the mean over samples estimates, in closed form."""
    policy, reference = ToyPolicySpec(num_seeds=1, width=8, seed=1).build(), ToyPolicySpec(num_seeds=1, width=8, seed=2).build()
    logs = policy.logits().log_softmax(-1)[0, 0].detach().double()
    reference_logs = reference.logits().log_softmax(-1)[0, 0].detach().double()
    groups = [[SampledCompletion((token,), logs[token : token + 1].float(), False) for token in range(10)]]
    samples = score(reference, [[0]], groups, torch.device("cpu"))
    torch.testing.assert_close(samples.reference_logps, reference_logs, rtol=1e-5, atol=1e-6)
    exact = (logs.exp() * (logs - reference_logs)).sum()
    torch.testing.assert_close((logs.exp() * (samples.logps - samples.reference_logps)).sum(), exact, rtol=1e-5, atol=1e-6)


def test_scores_follow_the_order_of_prompts_and_samples() -> None:
    reference, prompts = BigramPolicy(), [[1, 2], [3]]
    groups = [[SampledCompletion((a, b), torch.zeros(2), True) for a, b in product((4, 5), (6,))] for _ in prompts]
    found = score(reference, prompts, groups, torch.device("cpu"))
    alone = [score(reference, [prompts[p]], [[groups[p][s]]], torch.device("cpu")).reference_logps for p in (0, 1) for s in (0, 1)]
    torch.testing.assert_close(found.reference_logps, torch.cat(alone))


SAMPLING = Sampling(max_new_tokens=2, temperature=1.0)


def test_rows_of_a_run_start_at_the_reference_and_leave_it(tmp_path: Path) -> None:
    module = PreferenceModule(BigramSpec(), DPOLoss(beta=0.5), partial(SGD, lr=2.0), cache_dir=str(tmp_path / "cache"))
    logger = SampleLogger(every_n_steps=2, num_prompts=2, sampling=SAMPLING, num_samples=3)
    trainer = fit(module, [logger], tmp_path)
    start, middle, end = read_rows(Path(trainer.log_dir or ""), "on_policy")
    assert (start["step"], middle["step"], end["step"]) == (0, 2, 4)
    assert start["on_policy/kl"] == pytest.approx(0, abs=1e-5)
    assert start["on_policy/out_of_reference"] <= 0.5
    assert end["on_policy/kl"] != pytest.approx(0, abs=1e-3)
    assert start["on_policy/length"] == 3
    assert start["on_policy/cut"] == 0
    resumed = SampleLogger()
    resumed.load_state_dict(logger.state_dict())
    assert resumed.state_dict() == logger.state_dict() != {"floor": None}


def test_supervised_runs_are_measured_alike_and_other_draws_have_no_kl(tmp_path: Path) -> None:
    data = ProbedPairs(supervised(PAIRS), [[0, 1], [2]], 1)
    narrow = Sampling(max_new_tokens=2, temperature=0.5)
    optimizer = partial(SGD, lr=0.3)
    trainer = fit(SFTModule(BigramSpec(), optimizer), [SampleLogger(1, 1, narrow)], tmp_path, data=data)
    rows = read_rows(Path(trainer.log_dir or ""), "on_policy")
    assert len(rows) == 3
    assert "on_policy/kl" not in rows[0]
    assert rows[-1]["on_policy/reference_logp_per_token"] == pytest.approx(rows[0]["on_policy/reference_logp_per_token"])
    plain = fit(SFTModule(BigramSpec(), optimizer), [SampleLogger(1, 1, narrow, against_reference=False)], tmp_path, data=data)
    assert read_rows(Path(plain.log_dir or ""), "on_policy") == []
    assert len(read_rows(Path(plain.log_dir or ""), "samples")) == 3
