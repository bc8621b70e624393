"""Prints text and tables beside a progress bar, and silences messages of libraries that help nobody."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

from rich.console import Console, RenderableType
from tqdm import tqdm
from transformers.utils.logging import set_tqdm_hook

_ADVERTISEMENT = "💡 Tip: For seamless"
_LONG = 5.0
"""Seconds after which reading or writing weights gets a bar."""


def say(console: Console, *parts: RenderableType) -> None:
    """Print each part above the progress bars, which are cleared meanwhile and drawn again.

    Text stays in one piece, so that commands and paths can be copied.

    Args:
        console: where to.
        parts: texts, tables, panels.
    """
    with tqdm.external_write_mode(file=console.file):
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, str), highlight=False, markup=False)


def silence_libraries() -> None:
    """Leave out an advertisement, a warning about a library's own code, and bars of weights that are read in no time.

    A bar of weights that take longer stays.
    """
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
    # Lightning 2.6 with torch 2.13: its pytree helper, not ours.
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
    # Modules that make their own batches, or complete them, do mean to.
    warnings.filterwarnings("ignore", r"You have overridden `on_after_batch_transfer` in `LightningModule`", UserWarning)
    set_tqdm_hook(_late_bar)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_ADVERTISEMENT)


def _late_bar(make: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:  # noqa: ANN401
    return make(*args, **{"delay": _LONG, **options})
