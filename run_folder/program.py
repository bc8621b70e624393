"""Spells commands as the user called this process: `prefscope fit`, or `python train.py fit` in a checkout."""

from __future__ import annotations

import re
import sys
from pathlib import Path

PROGRAM = "prefscope"
_SPELLINGS = (
    (r"(?:\.venv/bin/)?python train\.py", PROGRAM),
    (r"(?<![\w/.])train\.py (?=fit|validate|test|predict)", f"{PROGRAM} "),
    (r"(?:(?:\.venv/bin/)?python )?(?<![\w/.])(diagnose|report|demo|advise)\.py", rf"{PROGRAM} \1"),
    (r"(?:\.venv/bin/)?python -m datamodules\.(pool|cache)\b", rf"{PROGRAM} \1"),
    (r"[^\s'\"]*configs/experiment/([\w<>]+)\.yaml", r"\1"),
    (r"pip install '\.\[(\w+)\]'", rf"pip install '{PROGRAM}[\1]'"),
)
"""What texts of the application say -> what it is called once it is installed."""


def is_installed_command() -> bool:
    """Whether this process was started as `prefscope`, or as `python -m prefscope`."""
    called = Path(sys.argv[0] if sys.argv else "")
    return called.stem == PROGRAM or (called.name == "__main__.py" and called.parent.name == PROGRAM)


def spelled(text: str) -> str:
    """A text whose commands can be typed as this process was called. Texts are written for a checkout."""
    if not is_installed_command():
        return text
    for pattern, spelling in _SPELLINGS:
        text = re.sub(pattern, spelling, text)
    return text
