"""docs/derivations.md: the code cites sections that are there, and the identities hold in float64 by autograd."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "derivations.md").read_text(encoding="utf-8")
ROOMS = (
    "callbacks",
    "command_line",
    "datamodules",
    "diagnosis",
    "judges",
    "lightning_modules",
    "reports",
    "run_folder",
    "bench",
    "studies",
    "docs",
)

BETA_CHOSEN, BETA_REJECTED = 0.1, 0.08
CHOSEN, REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED = 0.3, 1e-3, 0.25, 0.2


def files() -> list[Path]:
    return [path for path in chain(*((ROOT / room).rglob("*.*") for room in ROOMS)) if path.suffix in (".py", ".md")]


def test_every_cited_section_is_there() -> None:
    sections = set(re.findall(r"^\*\*(\d\.\d) ", PAGE, re.MULTILINE)) | set(re.findall(r"^## (\d)\. ", PAGE, re.MULTILINE))
    lists = re.findall(r"derivations\.md,? (\d(?:\.\d)?(?:(?:, | and )\d\.\d)*)", "\n".join(path.read_text() for path in files()))
    cited = {section for found in lists for section in re.findall(r"\d(?:\.\d)?", found)}
    assert len(cited) > 10
    assert cited <= sections


def test_nothing_cites_a_file_that_is_not_in_the_repository() -> None:
    assert [path for path in files() if re.search(r"\bpaper\.md\b", path.read_text())] == []


@pytest.fixture
def probabilities() -> tuple[Tensor, Tensor]:
    return tuple(torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (CHOSEN, REJECTED))  # type: ignore[return-value]


def margin(chosen: Tensor, rejected: Tensor) -> Tensor:
    return BETA_CHOSEN * (chosen / REFERENCE_CHOSEN).log() - BETA_REJECTED * (rejected / REFERENCE_REJECTED).log()


def test_flex_dpo_and_its_gradients(probabilities: tuple[Tensor, Tensor]) -> None:
    """Sections 2.3, 3.1 and 3.2."""
    chosen, rejected = probabilities
    alpha = REFERENCE_CHOSEN**BETA_CHOSEN / REFERENCE_REJECTED**BETA_REJECTED
    z = rejected**BETA_REJECTED / chosen**BETA_CHOSEN
    loss, weight = (1 + alpha * z).log(), torch.sigmoid(-margin(chosen, rejected))
    torch.testing.assert_close(loss, -torch.nn.functional.logsigmoid(margin(chosen, rejected)))
    torch.testing.assert_close(alpha * z / (1 + alpha * z), weight)
    by_chosen, by_rejected = torch.autograd.grad(loss, probabilities)
    torch.testing.assert_close(by_chosen, -BETA_CHOSEN * weight / chosen)
    torch.testing.assert_close(by_rejected, BETA_REJECTED * weight / rejected)
    torch.testing.assert_close(by_rejected / by_chosen, -BETA_REJECTED / BETA_CHOSEN * chosen / rejected)


def test_dpo_as_the_paper_writes_it(probabilities: tuple[Tensor, Tensor]) -> None:
    """Sections 2.1 and 2.2."""
    chosen, rejected = probabilities
    beta, z, alpha = BETA_CHOSEN, rejected / chosen, (REFERENCE_CHOSEN / REFERENCE_REJECTED) ** BETA_CHOSEN
    h = (chosen / REFERENCE_CHOSEN).log() - (rejected / REFERENCE_REJECTED).log()
    by_chosen, by_rejected = torch.autograd.grad(-torch.nn.functional.logsigmoid(beta * h), probabilities)
    common = alpha * beta * z ** (beta - 1) / (1 + alpha * z**beta)
    torch.testing.assert_close(by_chosen, -common * rejected / chosen**2)
    torch.testing.assert_close(by_rejected, common / chosen)
    torch.testing.assert_close(by_rejected / by_chosen, -chosen / rejected)


@pytest.mark.parametrize("delta", [5.0, 6.0])
def test_ipo_slic_and_the_likelihood_term(delta: float, probabilities: tuple[Tensor, Tensor]) -> None:
    """Sections 2.4 and 2.5; the pair is 5.7 nats apart, so that both branches of SLiC are met."""
    chosen, rejected = probabilities
    eta = gamma = 0.1
    h = (chosen / REFERENCE_CHOSEN).log() - (rejected / REFERENCE_REJECTED).log()
    ipo = torch.autograd.grad((h - 1 / (2 * eta)).square(), probabilities)
    torch.testing.assert_close(ipo, (2 * (h - 1 / (2 * eta)) / chosen, -2 * (h - 1 / (2 * eta)) / rejected))
    slic = torch.autograd.grad((delta - chosen.log() + rejected.log()).relu() - eta * chosen.log(), probabilities)
    pushed = float(delta > (chosen / rejected).log())
    torch.testing.assert_close(slic, (-(pushed + eta) / chosen, pushed / rejected))
    with_term = torch.autograd.grad(-torch.nn.functional.logsigmoid(margin(chosen, rejected)) - gamma * chosen.log(), probabilities)
    weight = torch.sigmoid(-margin(chosen, rejected))
    torch.testing.assert_close(with_term[0], -BETA_CHOSEN * weight / chosen - gamma / chosen)


def test_the_gradient_at_the_logits_and_its_norms() -> None:
    """Sections 3.3 and 3.4."""
    torch.manual_seed(0)
    logits = torch.randn(12, dtype=torch.float64, requires_grad=True)
    probs, y = logits.detach().softmax(-1), 3
    (gradient,) = torch.autograd.grad(logits.log_softmax(-1)[y], logits)
    torch.testing.assert_close(gradient, torch.eye(12, dtype=torch.float64)[y] - probs)
    squares = (torch.logsumexp(2 * logits, -1) - 2 * torch.logsumexp(logits, -1)).exp()
    torch.testing.assert_close(gradient.square().sum(), 1 - 2 * probs[y] + squares)
    torch.testing.assert_close(gradient.abs().sum(), 2 * (1 - probs[y]))
    torch.testing.assert_close(gradient.abs().max(), 1 - probs[y])


@pytest.mark.parametrize("ratio", [0.2, 0.7, 1.0, 1.5, 5.0])
def test_the_output_layer_and_the_band(ratio: float) -> None:
    """Sections 5.3 and 5.4, against a step of the layer itself."""
    torch.manual_seed(1)
    weight = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    inputs, targets = torch.randn(2, 3, 4, dtype=torch.float64) + 1, torch.tensor([[0, 2, 5], [0, 3, 3]])

    def likelihoods(layer: Tensor) -> Tensor:
        return (inputs @ layer.T).log_softmax(-1).gather(-1, targets[..., None]).sum((1, 2))

    s_w, s_l = (torch.autograd.grad(value, weight, retain_graph=True)[0] for value in likelihoods(weight))
    probs = (inputs @ weight.detach().T).softmax(-1)
    residuals = torch.eye(7, dtype=torch.float64)[targets] - probs
    inner = ((residuals[0] @ residuals[1].T) * (inputs[0] @ inputs[1].T)).sum()
    torch.testing.assert_close(inner, (s_w * s_l).sum())
    (p, q), (y, v) = probs[:, 1], targets[:, 1].tolist()
    torch.testing.assert_close(residuals[0, 1] @ residuals[1, 1], float(y == v) - q[y] - p[v] + p @ q)
    rho, star = inner / (s_w.norm() * s_l.norm()), s_l.norm() / s_w.norm()
    assert rho > 0
    step = 1e-7
    moved = (likelihoods(weight + step * (ratio * s_w - s_l)) - likelihoods(weight)).detach() / step
    predicted = torch.stack([ratio * s_w.norm() ** 2 - inner, ratio * inner - s_l.norm() ** 2])
    torch.testing.assert_close(moved, predicted, rtol=1e-4, atol=1e-4)
    assert bool(moved[0] > 0 and moved[1] < 0) == bool(rho * star < ratio < star / rho)
