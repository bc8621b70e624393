"""Measures how well models order held-out AlpacaEval pairs: `python -m bench.alpaca_results MODEL`.

After `python -m bench.alpaca_rm ...`; prints a table of docs/results/rlhf/alpaca.md. A pair is a model's answer and the baseline's,
to a prompt that was not trained on; a tie counts 1/2. An arm is read on all folds that have it, each by the model that was trained
on the other prompts. Ranges are 95% intervals of a bootstrap over prompts, since pairs of a prompt share an answer.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bench.alpaca_held_out import FILE, Floats, Rewards, answers, kept, right, scored
from bench.alpaca_pairs import Fold, all_folds
from bench.alpaca_rm import ARMS, exported, folder
from bench.toy_tables import table
from datamodules.batches import CompletionBatch
from lightning_modules.models.reward_model import RewardModelSpec
from lightning_modules.models.specs import PretrainedPolicy

DRAWS = 2000
CLOSE = 1.1
"""Lengths within this ratio are close."""
RULE = "longer wins"
UNTRAINED = "log-likelihood, untrained"


@dataclass(frozen=True)
class Pairs:
    """Held-out pairs, with the rewards of both sides."""

    prompts: NDArray[np.int64]
    """`[pairs]` number of the prompt."""
    margins: dict[str, Floats]
    """Reward -> `[pairs]` that of the better answer less that of the worse."""
    ratios: Floats
    """`[pairs]` tokens of the longer answer by those of the shorter."""


def lengths(batch: CompletionBatch) -> Tensor:
    """The rule "longer wins" as a reward: tokens."""
    return batch.lengths.float()


def log_probs(path: str) -> Rewards:
    """Of a policy, summed over the answer."""
    policy = PretrainedPolicy(path=path).build().eval()
    return lambda batch: policy(batch).sum_by_sequence()


def reward_model(path: str) -> Rewards:
    """Its number."""
    return RewardModelSpec(path).build().eval()


def rewards(model: str, fold: Fold) -> dict[str, Floats]:
    """Reward -> `[answers]`, of every run that is complete and of the rules beside them; one model in memory at a time."""
    found = {RULE: scored(lengths, model, fold)}
    for name, arm in ARMS.items():
        path, file = exported(name, fold), folder(name, fold) / FILE
        if not path.is_dir():
            continue
        if path.name == "reward_model":
            found[arm.title] = kept(file, partial(reward_model, str(path)), model, fold)
        else:
            after = kept(file, partial(log_probs, str(path)), model, fold)
            found[UNTRAINED] = kept(fold.folder / "untrained.npy", partial(log_probs, model), model, fold)
            found[f"{arm.title}: log-likelihood"] = after
            found[f"{arm.title}: implicit reward"] = after - found[UNTRAINED]
    return found


def pairs(model: str, fold: Fold, longer_than: int = 0) -> Pairs:
    """Every answer with its prompt's baseline, where one of the two has more tokens than that."""
    of, of_answers = answers(model, fold), rewards(model, fold)
    others, baseline = of.against_baseline
    shorter, longer = np.sort([of_answers[RULE][others], of_answers[RULE][baseline]], axis=0)
    where = longer > longer_than
    margins = {name: of.margins(values)[where] for name, values in of_answers.items()}
    return Pairs(of.prompts[others][where], margins, (longer / shorter)[where])


def together(folds: Sequence[Pairs], name: str) -> Pairs:
    """The pairs of all folds with a reward, and that and the rule's margins."""
    held = [fold for fold in folds if name in fold.margins]
    offsets = np.cumsum([0, *(fold.prompts.max() + 1 for fold in held)])
    return Pairs(
        np.concatenate([fold.prompts + offset for fold, offset in zip(held, offsets, strict=False)]),
        {each: np.concatenate([fold.margins[each] for fold in held]) for each in (RULE, name)},
        np.concatenate([fold.ratios for fold in held]),
    )


def interval(values: Floats, prompts: NDArray[np.int64]) -> str:
    """Mean and its 95% range, prompts drawn anew."""
    prompts = np.unique(prompts, return_inverse=True)[1]
    sums = np.bincount(prompts, values, minlength=prompts.max() + 1)
    counts = np.bincount(prompts, minlength=prompts.max() + 1)
    drawn = np.random.default_rng(0).integers(len(counts), size=(DRAWS, len(counts)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975])
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def lines(folds: Sequence[Pairs]) -> Iterator[list[str]]:
    """A line for each reward."""
    titles = [arm.title for arm in ARMS.values()]
    names = dict.fromkeys(name for fold in folds for name in fold.margins)
    # A fold has some of the arms; the rules come first, which are no arm's.
    for name in sorted(names, key=lambda name: next((i for i, title in enumerate(titles) if name.startswith(title)), -1)):
        held = together(folds, name)
        ours, rule = right(held.margins[name]), right(held.margins[RULE])
        groups = (rule == 1, rule == 0, held.ratios <= CLOSE)
        each = [f"{(right(fold.margins[name]) - right(fold.margins[RULE])).mean():+.3f}" for fold in folds if name in fold.margins]
        size = f"{len(ours)} of {len(np.unique(held.prompts))}"
        parts = [f"{ours[where].mean():.3f}" for where in groups]
        yield [name, size, interval(ours, held.prompts), interval(ours - rule, held.prompts), " ".join(each), *parts]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--max_tokens", type=int, default=Fold(0).max_tokens, help="as bench.alpaca_rm had it")
    parser.add_argument("--longer_than", type=int, default=0, help="leave pairs of two answers of up to so many tokens out")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    made = [fold for fold in all_folds(arguments.max_tokens) if any(exported(name, fold).is_dir() for name in ARMS)]
    folds = [pairs(arguments.model, fold, arguments.longer_than) for fold in made]
    held = together(folds, RULE)
    margins = held.margins[RULE]
    print(f"{len(margins)} pairs, {len(np.unique(held.prompts))} prompts. Longer is better in {(margins > 0).sum()}, ", end="")
    print(f"shorter in {(margins < 0).sum()}; lengths within {CLOSE - 1:.0%} in {(held.ratios <= CLOSE).sum()}.\n")
    shares = ["right", f'above "{RULE}"', "in each fold", "longer is better", "shorter is better", "close lengths"]
    print(table(["reward", "pairs of prompts", *shares], lines(folds)))


if __name__ == "__main__":
    main()
