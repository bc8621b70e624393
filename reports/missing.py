"""What is said of numbers that runs do not have: what switches them on, or that their objective has none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from reports.groups import Group

_GRADIENT = "softmax_grad/"

HasNone = Callable[[Group], bool]
"""Whether a group's objective has no such numbers, whatever is switched on."""


def never(group: Group) -> bool:
    """Every objective has them."""
    return False


def is_reinforced(group: Group) -> bool:
    """Whether it maximises a reward of what it samples, and trains on no pairs."""
    return "objective/rlhf_reward" in group.metrics()


def has_no_likelihood_slopes(group: Group) -> bool:
    """Whether its loss is no function of the likelihoods of whole answers to a prompt: by rewards, by tokens, by single answers."""
    measured = [name for name in group.metrics() if name.startswith(_GRADIENT)]
    return is_reinforced(group) or (bool(measured) and not any(name.endswith("/log_pi_gradient") for name in measured))


def has_no_pair_incentives(group: Group) -> bool:
    """Whether its loss reads anything but the two likelihoods of a pair: groups of answers have some between the two."""
    return has_no_likelihood_slopes(group) or any(name.startswith(f"{_GRADIENT}ranked/") for name in group.metrics())


def missing_note(callback: str, groups: Sequence[Group], has_none: HasNone = never, reads: str = "") -> str:
    """HTML: why groups lack what a callback writes.

    Args:
        callback: its class path.
        groups: that lack it.
        has_none: whether that is in the nature of a group's objective.
        reads: what the callback is about, for those: "losses of pairs".
    """
    absent = [group for group in groups if has_none(group)]
    rest = [group for group in groups if not has_none(group)]
    silent, off = [group for group in rest if is_on(group, callback)], [group for group in rest if not is_on(group, callback)]
    said = [f"{_named(absent)}: nothing to measure, since it is about {escape(reads)}."] if absent else []
    if silent:
        said.append(f"{_named(silent)}: {escape(callback.rsplit('.', 1)[-1])} is on and has written none of it.")
    if off:
        said.append(f"Not measured by {_named(off)}. To have it measured: <code>--trainer.callbacks+={escape(callback)}</code>")
    return " ".join(said)


def is_on(group: Group, callback: str) -> bool:
    """Whether a callback is among those of every run of a group."""
    return all(callback in _callbacks(run.config) for run in group.runs)


def _callbacks(config: object) -> list[str]:
    """Class paths of a config's callbacks, of which there may be a list, one, or none."""
    trainer = config.get("trainer") if isinstance(config, dict) else None
    listed = trainer.get("callbacks") if isinstance(trainer, dict) else None
    items = listed if isinstance(listed, list) else [listed]
    return [str(item.get("class_path")) for item in items if isinstance(item, dict)]


def _named(groups: Sequence[Group]) -> str:
    return escape(", ".join(group.label for group in groups))
