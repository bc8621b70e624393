"""Remedies: one overlay of a run's config a file in `configs/remedies`, and whether it can be put on this run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from advice.settings import MISSING, Config, callbacks_of, class_of, value_at, with_values
from callbacks.control.band_follower import BandFollower

FOLDER = Path(__file__).parent.parent / "configs" / "remedies"


@dataclass(frozen=True)
class Remedy:
    """What a file says.

    `set` gives values by dotted path. A mapping `{of: path}` stands for the value there in the run's own config, or among the
    facts that are known of the run; with several paths for the first that has one; `or` is taken where none has; `times`
    multiplies it. `needs` names facts without which it cannot be tried, with the reason in words, `unless` modules for which it
    makes no sense, with theirs. `callbacks` are added. `trains: false` takes no further step.
    """

    name: str
    title: str
    set: Mapping[str, Any] = field(default_factory=dict)
    needs: Mapping[str, str] = field(default_factory=dict)
    unless: Mapping[str, str] = field(default_factory=dict)
    callbacks: Sequence[Config] = ()
    trains: bool = True


class CannotApply(ValueError):
    """The remedy cannot be put on this run; the message is the reason."""


NO_SENSE, NOT_ASKED = "makes no sense for", "not asked for"
"""How the reasons begin why a remedy was not meant to be tried."""


def all_remedies(folder: Path = FOLDER) -> dict[str, Remedy]:
    """Every remedy by the name of its file.

    Raises:
        ValueError: if a file says something that a remedy does not have.
    """
    return {path.stem: _read(path) for path in sorted(folder.glob("*.yaml"))}


def sensible_remedies(config: Config) -> tuple[str, ...]:
    """Names that the run's loss, or else its module, gives as worth trying."""
    loss = class_of(value_at(config, "model.loss"))
    module = class_of(config.get("model"))
    return tuple(getattr(loss if hasattr(loss, "remedies") else module, "remedies", ()))


def chosen_remedies(asked: str, config: Config, known: Mapping[str, Remedy]) -> tuple[list[Remedy], dict[str, str]]:
    """The remedies to try, and of the others why not.

    Args:
        asked: "default" for those that make sense for the loss, "all", or names with commas between them.
        config: of the run.
        known: all of them.

    Raises:
        ValueError: if a name is none.
    """
    sensible = sensible_remedies(config)
    named = {"default": sensible, "all": tuple(known)}.get(asked, tuple(name.strip() for name in asked.split(",")))
    unknown = [name for name in named if name not in known]
    if unknown:
        raise ValueError(f"expected remedies of {FOLDER.name}/ in --remedies, got {unknown[0]!r}. There are: {', '.join(known)}.")
    what = class_of(value_at(config, "model.loss")) or class_of(config.get("model"))
    other = NOT_ASKED if asked not in ("default", "all") else f"{NO_SENSE} {getattr(what, '__name__', 'it')}"
    return [known[name] for name in named], {name: other for name in known if name not in named}


def applied(remedy: Remedy, config: Config, facts: Config) -> Config:
    """The run's config with the remedy on.

    Args:
        remedy: any that trains.
        config: of the run.
        facts: what else is known: `judge`, `max_new_tokens`, `measured`.

    Raises:
        CannotApply: if it needs what the run does not have, or would change nothing of it.
    """
    known = config | facts
    module = str(value_at(config, "model.class_path"))
    if module in remedy.unless:
        raise CannotApply(remedy.unless[module])
    for path, reason in remedy.needs.items():
        if value_at(known, path) in (MISSING, None):
            raise CannotApply(reason)
    changed = with_values(config, {path: _resolved(value, known) for path, value in remedy.set.items()})
    if not remedy.callbacks and _without_nulls(changed) == _without_nulls(config):
        raise CannotApply("it would change nothing of this run")
    kept = callbacks_of(changed)
    if "model.loss" in remedy.set:
        # What steers a field of the loss that was there has nothing to steer now.
        kept = [one for one in kept if not issubclass(class_of(one) or object, BandFollower)]
    return with_values(changed, {"trainer.callbacks": [*kept, *remedy.callbacks]})


def _resolved(value: Any, known: Config) -> Any:  # noqa: ANN401
    if isinstance(value, list):
        return [_resolved(item, known) for item in value]
    if not isinstance(value, dict):
        return value
    if "of" not in value:
        return {key: _resolved(item, known) for key, item in value.items()}
    paths = value["of"] if isinstance(value["of"], list) else [value["of"]]
    found = next((one for path in paths if (one := value_at(known, path)) is not MISSING), MISSING)
    found = value["or"] if found in (MISSING, None) and "or" in value else found
    if found is MISSING:
        raise CannotApply(f"the run has no {' or '.join(paths)}")
    return found * _resolved(value["times"], known) if "times" in value else found


def _without_nulls(node: Any) -> Any:  # noqa: ANN401
    """What a config says, without arguments that leave the default as it is."""
    if isinstance(node, dict):
        return {key: _without_nulls(value) for key, value in node.items() if value is not None}
    return node


def _read(path: Path) -> Remedy:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        return Remedy(path.stem, **content)
    except TypeError as error:
        raise ValueError(f"expected title, set, needs, unless, callbacks and trains in {path}, got: {error}.") from error
