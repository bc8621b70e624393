from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from PIL import Image
from torch.optim import SGD

from callbacks.answers.texts import prompts_and_completions, token_texts
from callbacks.diagnostics.probe_bank import BankBatch
from callbacks.output.token_heatmap import TokenHeatmap, pair_heats, token_pushes
from datamodules.contracts.batches import Role
from datamodules.contracts.packing import pack
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.flex_dpo import FlexDPOLoss
from lightning_modules.losses.simpo import SimPOLoss
from lightning_modules.objective_module import ObjectiveModule
from lightning_modules.preference import PreferenceModule
from lightning_modules.sft import SFTModule
from run_folder.heatmap_figure import DOWN, UNIT, UP, PairHeat, SideHeat, draw_pairs, page_of
from run_folder.rows import read_rows
from tests.callbacks.rig import PAIRS, BigramPolicy, BigramSpec, Letters, ProbedPairs, events, fit

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


def preference(folder: Path, loss: object = None) -> PreferenceModule:
    return PreferenceModule(BigramSpec(), loss or DPOLoss(beta=0.5), partial(SGD, lr=0.3), cache_dir=str(folder / "cache"))  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", [DPOLoss(beta=0.5), FlexDPOLoss(beta_chosen=0.5, beta_rejected=0.1), SimPOLoss(), None])
def test_pushes_are_the_gradient_at_explicit_logits(loss: object, tmp_path: Path) -> None:
    module: ObjectiveModule = preference(tmp_path, loss) if loss else SFTModule(BigramSpec(), partial(SGD, lr=0.3))
    fit(module, [], tmp_path, data=ProbedPairs(PAIRS, [[0, 1]], 1))
    policy, batch = module.policy, pack(PAIRS[:3])
    assert isinstance(policy, BigramPolicy)
    baseline = torch.linspace(-3, -0.1, batch.num_targets)
    stats = policy.forward(batch)
    logits = policy.logits.pop()
    with torch.no_grad():
        evaluated = policy.forward(batch)
    bank = BankBatch(batch, evaluated, baseline)
    found = [side for heat in pair_heats(bank, token_pushes(module, bank), Letters(), 99) for side in heat.sides]

    loss = module.objective(replace(batch, reference_token_logps=baseline), stats).loss_sum
    gradient = torch.autograd.grad(loss, logits)[0]
    counts = batch.lengths.tolist()
    for side, rows, ids in zip(found, torch.split(gradient, counts), torch.split(batch.target_ids, counts), strict=True):
        assert [abs(push) for push in side.pushes] == pytest.approx(rows.norm(dim=1).tolist(), rel=1e-5)
        # A step against the gradient raises the token's own logit where its entry is below 0.
        own = rows.gather(1, ids[:, None]).squeeze(1)
        assert [push > 0 for push in side.pushes] == (own < 0).tolist()


def test_tokens_prompts_and_the_divergence_are_those_of_the_pair() -> None:
    batch = pack(PAIRS[:2])
    with torch.no_grad():
        stats = BigramPolicy().forward(batch)
    bank = BankBatch(batch, stats, stats.logps)
    first, second = pair_heats(bank, torch.ones(batch.num_targets), Letters(), max_tokens=3)
    assert (first.prompt, second.prompt) == ("ab", "b")
    assert [(side.label, side.tokens, side.divergent) for side in first.sides] == [
        ("chosen", ("c", "d", "e"), 2),
        ("rejected", ("c", "d", "f"), 2),
    ]
    assert [side.probs[0] for side in second.sides] == pytest.approx(stats.logps[[9, 11]].exp().tolist())
    assert prompts_and_completions(batch)[1] == ([2], [[7, 0], [8, 8, 0]])


def test_tokens_without_a_readable_text_are_shown_as_numbers() -> None:
    class Pieces:
        eos_token_id = None

        def decode(self, token_ids: list[int]) -> str:
            return {1: "a b\n", 2: "\ufffd", 3: ""}[token_ids[0]]

    assert token_texts(Pieces(), [1, 2, 3]) == ["a·b⏎", "<2>", "<3>"]
    assert token_texts(None, [7]) == ["7"]


HEAT = PairHeat(
    "What is <2 + 2>?",
    (
        SideHeat("chosen", ("four", "·is", "·it", "$x$"), (0.5, 0.1, 0.0, 0.2), (0.5, 0.9, 1.0, 0.25), 0),
        SideHeat("rejected", ("five", "·中", "·it"), (-0.5, -0.1, 0.0), (0.01, 0.1, 1.0), None),
    ),
)


def test_the_figure_shows_both_directions_in_their_colours() -> None:
    with warnings.catch_warnings():
        # A character the font does not have would warn.
        warnings.simplefilter("error")
        figure = draw_pairs([HEAT], "A title")
        buffer = BytesIO()
        figure.savefig(buffer, format="png")
    pixels = (imread(BytesIO(buffer.getvalue()))[..., :3] * 255).round().astype(int).reshape(-1, 3)
    for color in (UP, DOWN):
        expected = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        # The whole box of a token, not a speck of the legend.
        assert (np.abs(pixels - expected).max(1) <= 2).sum() > 300
    texts = {text.get_text() for axes in figure.axes for text in axes.texts} | {text.get_text() for text in figure.texts}
    assert {"A title", UNIT, "What is <2 + 2>?", "chosen", "rejected"} <= texts
    assert any("·□·it" in text for text in texts), "a box for the character the font lacks, in its place"


def test_a_long_completion_takes_more_lines_and_stays_inside() -> None:
    long = PairHeat("p", (SideHeat("chosen", ("word",) * 100, (0.1,) * 100, (0.5,) * 100, None),))
    short = PairHeat("p", (SideHeat("chosen", ("word",), (0.1,), (0.5,), None),))
    tall, low = draw_pairs([long], "t"), draw_pairs([short], "t")
    # 24 words of 4 characters fill a line of 96.
    assert tall.get_figheight() - low.get_figheight() == pytest.approx(4 * 1.45 * 0.155)
    assert tall.get_figwidth() == low.get_figwidth()


def test_the_page_escapes_text_and_tells_the_numbers() -> None:
    page = page_of([HEAT], "Step 3 & more")
    assert "What is &lt;2 + 2&gt;?" in page
    assert "Step 3 &amp; more" in page
    assert 'title="p = 0.01, push = -0.5">five</span>' in page
    assert f"background:{UP.lower()};color:white" in page
    assert "·中" in page
    assert page.count('class="first"') == 1
    assert "-0.5 (orange: pushed down) to +0.5 (blue: pushed up)" in page


def test_a_run_leaves_images_pages_and_rows(tmp_path: Path) -> None:
    trainer = fit(preference(tmp_path), [TokenHeatmap(every_n_steps=3, num_examples=1)], tmp_path)
    folder = Path(trainer.log_dir or "")
    pages = sorted(path.name for path in (folder / "diagnostics" / "token_heatmap").iterdir())
    assert pages == ["step_000000.html", "step_000003.html", "step_000004.html"]
    images = events(trainer).Images("softmax_grad/tokens")
    assert [image.step for image in images] == [0, 3, 4]
    assert Image.open(BytesIO(images[0].encoded_image_string)).size[0] > 900
    rows = read_rows(folder, "token_heatmap")
    assert [(row["step"], row["example"], row["prompt"]) for row in rows] == [(step, 0, "ab") for step in (0, 3, 4)]
    assert rows[0]["chosen"]["tokens"] == ["c", "d", "e", "."]
    # Margin 0: shared tokens are pushed up on one side as far as down on the other.
    assert rows[0]["chosen"]["pushes"][:2] == pytest.approx([-push for push in rows[0]["rejected"]["pushes"][:2]])


def test_supervised_data_is_drawn_without_a_rejected_side(tmp_path: Path) -> None:
    module = SFTModule(BigramSpec(), partial(SGD, lr=0.3))
    examples = [type(e)(e.prompt_ids, tuple(c for c in e.completions if c.role is Role.CHOSEN)) for e in PAIRS]
    trainer = fit(module, [TokenHeatmap()], tmp_path, data=ProbedPairs(examples, [[0, 1]], 1))
    row = read_rows(Path(trainer.log_dir or ""), "token_heatmap")[0]
    assert set(row) == {"step", "example", "prompt", "chosen"}
    assert min(row["chosen"]["pushes"]) > 0
