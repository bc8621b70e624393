"""The options of `advise.py`, and what it does with them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml
from rich.console import Console

from advice.answer import Answer, answered
from advice.forks import Fit, Forks, has_judge, reading_options
from advice.origin import Origin, find_origin
from advice.progress import shown_progress
from advice.remedies import all_remedies, chosen_remedies
from advice.settings import MISSING, Config, value_at, with_values
from advice.trial import Trial
from advice.weights import Printed, assumed, weights_origin
from run_folder.rows import tracks_of

CENTRE = "head/centre"
"""Geometric mean over pairs of ||s_w|| / ||s_l||, as DisentanglementMonitor writes it (docs/derivations.md 5.5)."""


def arguments(args: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, parsed; what it does not know is kept in `further`: options of `train.py fit`, which go to every fork."""
    parser = argparse.ArgumentParser(
        prog="advise.py",
        description="Which remedy would have helped a run? Forks it before its first warning, tries each, and says which did. "
        "Options of `train.py fit` go to every fork: --data.train.path FILE for a file that has moved.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="folder of a run, runs/<experiment>/version_N")
    parser.add_argument(
        "--from", dest="step", type=int, metavar="STEP", help="optimizer step to fork at (default: before the first warning)"
    )
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of a fork (default: %(default)s)")
    parser.add_argument("--budget-minutes", type=float, default=10.0, metavar="M", help="for all forks (default: %(default)s)")
    parser.add_argument("--remedies", default="default", help="default, all, or names of configs/remedies with commas between")
    parser.add_argument("--neutral-text", type=Path, metavar="FILE", help="text whose perplexity counts where there is no judge")
    parser.add_argument("--problems", type=int, metavar="N", help="held-out problems to answer; as many as the run's own monitor")
    parser.add_argument(
        "--pairs", metavar="FILE", help="of another trainer's checkpoint: prompts with a chosen and a rejected answer"
    )
    parser.add_argument("--reference", metavar="BASE", help="of another trainer's checkpoint: what it started from")
    asked, further = parser.parse_known_args(args)
    if asked.pairs is None and any("." not in name for name in options_of(further)):
        parser.error(f"unrecognized arguments: {' '.join(further)}")
    asked.further = further
    return asked


def advise(asked: argparse.Namespace, fit: Fit, console: Console, printed: Printed) -> Answer:
    """Try the remedies on the run, and tell which helped.

    Raises:
        ValueError: if the run cannot be forked, nothing can be judged, or the time does not do; in words.
    """
    require_sane(asked)
    if asked.pairs is not None:
        origin = weights_origin(asked, printed)
        console.print(assumed(origin.config, asked.run), soft_wrap=True, highlight=False)
    else:
        origin = changed_origin(find_origin(asked.run, asked.step, asked.steps), asked.further)
    return advise_origin(origin, asked, fit, console, advice_folder(origin, asked.steps))


def advise_origin(origin: Origin, asked: argparse.Namespace, fit: Fit, console: Console, folder: Path) -> Answer:
    """The same for a run that is known."""
    known = all_remedies()
    remedies, untried = chosen_remedies(asked.remedies, origin.config, known)
    options = reading_options(origin.config, asked.neutral_text)
    if asked.problems is not None:
        options["num_problems"] = asked.problems
    facts = facts_of(origin, options)
    console.print(opening(origin, asked.steps), soft_wrap=True, highlight=False)
    forks = Forks(origin, folder, fit, options)
    with shown_progress(forks, len([one for one in remedies if one.trains]), asked.steps, console) as on_task:
        outcome = Trial(forks, asked.steps, 60 * asked.budget_minutes, on_task).run(remedies, untried, facts)
    answer = answered(origin, asked.steps, outcome, known, facts, folder)
    for name in (*outcome.last, "control"):
        forks.forget(name)
    return answer


def options_of(words: Sequence[str]) -> dict[str, str]:
    """`--data.train.path FILE` and `--data.train.path=FILE`, by the path; a word that belongs to no option under its own name."""
    found: dict[str, str] = {}
    open_name = ""
    for word in words:
        name, is_given, value = word.removeprefix("--").partition("=")
        if word.startswith("--"):
            found[name] = value if is_given else ""
            open_name = "" if is_given else name
        elif open_name:
            found[open_name], open_name = word, ""
        else:
            found[word] = ""
    return found


def changed_origin(origin: Origin, further: Sequence[str]) -> Origin:
    """The run with settings that are said anew: a folder or a file that has moved.

    Raises:
        ValueError: if its config has no such setting.
    """
    options = options_of(further)
    unknown = [name for name in options if value_at(origin.config, name) is MISSING]
    if unknown:
        raise ValueError(f"expected settings of {origin.run}/config.yaml, got --{unknown[0]}: it has none of that name.")
    values = {name: yaml.safe_load(value) for name, value in options.items()}
    return replace(origin, config=with_values(origin.config, values))


def require_sane(asked: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing.

    Raises:
        ValueError: in words.
    """
    if asked.pairs is not None and asked.step is not None:
        raise ValueError("expected no --from with --pairs: another trainer's checkpoint is forked where it stands.")
    if asked.steps < 1:
        raise ValueError(f"expected --steps >= 1, got {asked.steps}. A fork of 20 steps is usual.")
    if asked.problems is not None and asked.problems < 2:
        raise ValueError(f"expected --problems >= 2, got {asked.problems}. An interval takes a hundred or more.")
    if asked.budget_minutes <= 0:
        raise ValueError(f"expected --budget-minutes > 0, got {asked.budget_minutes:g}.")
    if asked.neutral_text is not None and not asked.neutral_text.is_file():
        raise ValueError(f"expected a text file for --neutral-text, got {asked.neutral_text}: there is none.")


def advice_folder(origin: Origin, steps: int) -> Path:
    """Beside the run, never within: `runs/<experiment>/advice_version_N/from_S_steps_K`."""
    return origin.run.parent / f"advice_{origin.run.name}" / f"from_{origin.step}_steps_{steps}"


def facts_of(origin: Origin, options: Config) -> Config:
    """What remedies may name beside the config: the judge, and what the run had measured when it is forked."""
    centre = [value for step, value in tracks_of(origin.run).get(CENTRE, []) if step <= max(origin.step, 1)]
    facts: Config = {"measured": {"centre": centre[-1]}} if centre else {}
    # Null takes the judge of the task.
    judged = {"judge": {"init_args": {"judge": options.get("judge")}}} if has_judge(origin.config, options) else {}
    return facts | judged | {"max_new_tokens": options["max_new_tokens"]}


def opening(origin: Origin, steps: int) -> str:
    """What is forked, and why there."""
    why = (
        f"before its first warning ({origin.warning['property'].replace('_', ' ')}, step {origin.warning['step']})."
        if origin.warning and origin.step < origin.warning["step"]
        else "as asked."
        if origin.warning
        else "which gave no warning: is it going as well as it could?"
    )
    loss = value_at(origin.config, "model.loss.class_path")
    what = f" ({loss.rsplit('.', 1)[-1]})" if isinstance(loss, str) else ""
    if not origin.is_exact:
        return f"{value_at(origin.config, 'model.policy.path')}{what}, forked as it stands. {_length(steps)}"
    return f"{origin.run}{what}, forked at step {origin.step}, {why} {_length(steps)}"


def _length(steps: int) -> str:
    return f"Each fork takes {steps} step{'s' * (steps != 1)}."
