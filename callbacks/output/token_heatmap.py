"""Draws the gradient of the loss at the logits, token by token, on a few pairs that stay the same through the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.answers.texts import decoder_of, prompts_and_completions, text_of, token_texts
from callbacks.diagnostics.probe_bank import BankBatch, ProbeBaseline
from callbacks.mathematics.leaf_gradients import with_gradients
from callbacks.mathematics.pair_tokens import TokenClass, pair_tokens
from callbacks.schedule import Schedule, Scheduled
from datamodules.contracts.batches import Role
from datamodules.contracts.ranges import require_at_least
from datamodules.contracts.stores import Tokenizer, require
from lightning_modules.contracts import HasObjective
from lightning_modules.token_stats import softmax_gradient_l2
from run_folder.files import append_row, run_folder
from run_folder.heatmap_figure import PairHeat, SideHeat, draw_pairs, page_of
from run_folder.rows import ROWS
from run_folder.shown import holds_pictures, show_picture


def token_pushes(module: HasObjective, bank: BankBatch) -> Tensor:
    """`[K]` norm of the gradient of each unit's own loss at the logits, on a batch that was only evaluated; exact for any loss.

    Above 0 where a step raises the token's own logit, below 0 where it lowers it. Where the batch
    carries no reference log-probs the baseline stands in, which is the reference of a run that starts from it.
    """
    batch = bank.batch
    if batch.reference_token_logps is None:
        batch = replace(batch, reference_token_logps=bank.baseline_token_logps)
    output = with_gradients(module, batch, bank.stats)
    gradients, apart = output.token_gradients(), output.divergence_gradients()
    assert gradients is not None, "they have just been made"
    own = gradients
    if apart is not None and output.stats.divergence is not None:
        probs = bank.stats.logps.exp()
        own = gradients * (1 - probs) + apart * (probs - output.stats.divergence.reference_logps.exp())
    # Against the gradient: a token whose log-prob the loss wants lower (g > 0) is pushed down.
    return -own.sign() * softmax_gradient_l2(gradients, bank.stats, apart)


def pair_heats(bank: BankBatch, pushes: Tensor, decoder: Tokenizer | None, max_tokens: int) -> list[PairHeat]:
    """Every prompt of the batch with its chosen and rejected completion, their tokens and what pushes them."""
    stats, classes = bank.stats, pair_tokens(bank.batch).classes
    counts = bank.batch.lengths.tolist()
    columns = [torch.split(values, counts) for values in (pushes, stats.logps.exp(), classes)]
    roles, sequence, heats = bank.batch.roles.tolist(), 0, []
    for prompt, completions in prompts_and_completions(bank.batch):
        sides = []
        for token_ids in completions:
            if roles[sequence] in (Role.CHOSEN, Role.REJECTED):
                texts = token_texts(decoder, token_ids[:max_tokens])
                push, prob, kind = (part[sequence][:max_tokens].tolist() for part in columns)
                sides.append(SideHeat(bank.batch.kinds[sequence], tuple(texts), tuple(push), tuple(prob), _first_divergent(kind)))
            sequence += 1
        heats.append(PairHeat(text_of(decoder, prompt), tuple(sides)))
    return heats


class TokenHeatmap(Scheduled):
    """Draws the first prompts of the probe bank: TensorBoard images, HTML pages and rows, when training starts, ends, and between.

    Needs no backward pass, and no forward pass beyond the probe bank's. Works for objectives that read their batch through
    token log-probs (SFT, the DPO family). What is drawn: `heatmap_figure.UNIT`.

    Args:
        every_n_steps: cadence in optimizer steps.
        num_examples: prompts that are drawn.
        max_tokens: tokens drawn of a completion, the first ones.
    """

    def __init__(self, every_n_steps: int = 200, num_examples: int = 3, max_tokens: int = 200) -> None:
        require_at_least(1, num_examples=num_examples, max_tokens=max_tokens)
        self.schedule = Schedule(every_n_steps)
        self.num_examples = num_examples
        self.max_tokens = max_tokens
        self._baseline = ProbeBaseline()

    @override
    def has_begun(self, trainer: Trainer) -> bool:
        return self._baseline.is_taken

    @override
    def act(self, trainer: Trainer, pl_module: LightningModule) -> None:
        bank = self._baseline.evaluate(pl_module)
        if trainer.is_global_zero:
            decoder, module = decoder_of(trainer), require(pl_module, HasObjective)
            heats = (heat for part in bank for heat in pair_heats(part, token_pushes(module, part), decoder, self.max_tokens))
            pairs = list(islice(heats, self.num_examples))
            if pairs:
                self._write(trainer, pairs)

    def _write(self, trainer: Trainer, pairs: list[PairHeat]) -> None:
        step = trainer.global_step
        title = f"What the loss does to each token, step {step}"
        folder = run_folder(trainer)
        if holds_pictures(trainer):
            show_picture(trainer, "softmax_grad/tokens", draw_pairs(pairs, title), step)
        if folder is not None:
            page = folder / ROWS / "token_heatmap" / f"step_{step:06d}.html"
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(page_of(pairs, title), encoding="utf-8")
        for number, pair in enumerate(pairs):
            append_row(trainer, "token_heatmap", {"step": step, "example": number, **_row(pair)})

    @override
    def state_dict(self) -> dict[str, Any]:
        return self._baseline.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._baseline.load_state_dict(state_dict)


def _first_divergent(classes: list[int]) -> int | None:
    return classes.index(TokenClass.DIVERGENT) if TokenClass.DIVERGENT in classes else None


def _row(pair: PairHeat) -> Mapping[str, Any]:
    sides = {side.label: {"tokens": side.tokens, "pushes": side.pushes, "probs": side.probs} for side in pair.sides}
    return {"prompt": pair.prompt, **sides}
