"""Refuses an option that a later one would take back without a word: `--data.seed 1 --data other.yaml`."""

from __future__ import annotations

from collections.abc import Sequence


def require_kept_options(arguments: Sequence[str]) -> None:
    """Look for options of a part that stand before the part itself, which comes with values of its own.

    An option that is given again after the part is kept.

    Raises:
        ValueError: if there is one.
    """
    names = [word[2:].partition("=")[0] for word in arguments if word.startswith("--")]
    for place, name in enumerate(names):
        parts = [later for later, other in enumerate(names) if later > place and name.startswith(f"{other}.")]
        if parts and name not in names[parts[-1] :]:
            part = names[parts[-1]]
            raise ValueError(
                f"expected --{part} before --{name}, got it after: a part comes with values of its own, and would drop what was "
                f"set before it. Put --{part} first."
            )
