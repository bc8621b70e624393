"""Whole runs in the true precisions: parameters change their type, batches, buffers and what the numbers mean do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision

from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.specs import PretrainedPolicy
from lightning_modules.objective_module import ObjectiveModule
from lightning_modules.optimization.precision import parameter_precision, require_supported_precision
from run_folder.rows import read_rows
from tests import tiny
from tests.conftest import Run

MONITORS = ["likelihood.LikelihoodMonitor", "softmax_gradient.SoftmaxGradientMonitor", "dispersion.DispersionMonitor"]
DTYPES = {"32-true": torch.float32, "bf16-true": torch.bfloat16, "64-true": torch.float64}
TOLERANCES = {"bf16-true": 5e-3, "64-true": 1e-5}
LOGP = "likelihood/chosen/logp"

ROUNDED = {"class_path": "lightning_modules.optimization.stochastic_rounding.StochasticAdamW", "init_args": {"lr": 0.01}}

Fit = Callable[..., tuple[CausalLMPolicy, list[dict[str, Any]], Path]]


@pytest.fixture
def fit(run: Run, tmp_path: Path, write_config: Callable[[Mapping[str, Any], str], Path]) -> Fit:
    """Three steps of the tiny Llama; the policy, the likelihood rows and the run folder."""

    def fit(precision: str, *, supervised: bool = False, rounded: bool = True) -> tuple[CausalLMPolicy, list[dict[str, Any]], Path]:
        callbacks = [{"class_path": f"callbacks.diagnostics.{name}", "init_args": {"every_n_steps": 1}} for name in MONITORS]
        callbacks += [{"class_path": "callbacks.saving.policy_export.PolicyExport"}]
        config = {
            "seed_everything": 1,
            "trainer": tiny.trainer(tmp_path, callbacks, max_steps=3, precision=precision),
            "model": tiny.module(tmp_path, supervised=supervised, **({"optimizer": ROUNDED} if rounded else {})),
            "data": tiny.pair_data(tmp_path, supervised=supervised),
        }
        cli = run("fit", "--config", write_config(config, precision))
        folder = Path(cast(str, cli.trainer.log_dir))
        policy = cast(ObjectiveModule, cli.model).policy
        assert isinstance(policy, CausalLMPolicy)
        return policy, read_rows(folder, "likelihood"), folder

    return fit


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_parameters_have_the_precision_and_everything_else_stays(fit: Fit, precision: str) -> None:
    plain, plain_rows, _ = fit("32-true")
    policy, rows, folder = fit(precision)
    assert {parameter.dtype for parameter in policy.parameters()} == {DTYPES[precision]}
    for (name, buffer), (_, expected) in zip(policy.named_buffers(), plain.named_buffers(), strict=True):
        assert torch.equal(buffer, expected), name
    (first,), (expected_first,) = ([row for row in found if row["step"] == 1] for found in (rows, plain_rows))
    assert first[LOGP] == pytest.approx(expected_first[LOGP], rel=TOLERANCES[precision])
    # The reference is the policy as it starts, converted as the policy is: sums of equal log-probs, in the store's float32.
    assert first["likelihood/chosen/change"] == pytest.approx(0, abs=1e-5)
    assert first["likelihood/rejected/change"] == pytest.approx(0, abs=1e-5)
    again = PretrainedPolicy(str(folder / "policy")).build()
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_supervised_training_too(fit: Fit, precision: str) -> None:
    policy, rows, _ = fit(precision, supervised=True)
    _, plain_rows, _ = fit("32-true", supervised=True)
    assert {parameter.dtype for parameter in policy.parameters()} == {DTYPES[precision]}
    logps, expected = ([row[LOGP] for row in found if LOGP in row] for found in (rows, plain_rows))
    # After three steps that bfloat16 parameters round, the two are still close.
    assert logps == pytest.approx(expected, rel=4 * TOLERANCES[precision])
    assert len(logps) == 3


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_half_precision_weights_are_refused_where_steps_would_be_rounded_away(fit: Fit, precision: str) -> None:
    with pytest.raises(ValueError, match=r"expected float32 weights under AdamW, got .*StochasticAdamW"):
        fit(precision, rounded=False)


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("16-mixed", "expected a GPU under trainer.precision: 16-mixed, got a CPU, on which Lightning would train in bf16-mixed"),
        ("16", "expected a GPU under trainer.precision: 16-mixed"),
        ("transformer-engine", "expected trainer.precision to be one of 32-true, .*, got transformer-engine, .*Use bf16-mixed"),
        ("transformer-engine-float16", "got transformer-engine-float16"),
    ],
)
def test_what_would_be_another_precision_is_refused_before_anything_is_built(precision: str, message: str, run: Run) -> None:
    config = Path(__file__).parents[1] / "configs" / "experiment" / "arithmetic_dpo.yaml"
    with pytest.raises(ValueError, match=message):
        run("fit", "--config", config, "--trainer.accelerator", "cpu", "--trainer.precision", precision)


@pytest.mark.parametrize("precision", [None, 32, "32", "bf16", "64-true", "bf16-true", "16-true"])
def test_lightnings_other_names_are_taken(precision: Any) -> None:
    """And one letter more is another name."""
    require_supported_precision(precision, "cpu")
    with pytest.raises(ValueError, match=r"expected trainer\.precision to be one of"):
        require_supported_precision(f"{precision}x", "cpu")


def test_only_the_true_precisions_are_replaced() -> None:
    plain, mixed = Precision(), MixedPrecision("bf16-mixed", "cpu")
    assert parameter_precision(plain) is plain
    assert parameter_precision(mixed) is mixed
    replaced = parameter_precision(HalfPrecision("bf16-true"))
    assert replaced.precision == "bf16-true"
    assert parameter_precision(replaced) is replaced

    class Other(Precision):
        """As a package's plugin is."""

    with pytest.raises(ValueError, match=r"expected trainer\.precision to be one of .*, got Other"):
        parameter_precision(Other())
    tied = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    parameter_precision(DoublePrecision()).convert_module(tied)
    assert tied[0].weight is tied[1].weight
    assert tied[0].weight.dtype == torch.float64
