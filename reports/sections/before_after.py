"""Shows answers of the policy to the same prompts before and after training, side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from html import escape
from typing import Any

from reports.runs import Run
from run_folder.rows import read_rows

CALLBACK = "callbacks.answers.samples.SampleLogger"

MEANING = (
    "Answers to the same prompts, of the policy as it started and as it ended: the likeliest one, and one drawn at random. "
    "Marked: what changed."
)

STYLE = """
.texts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: .3rem 1rem }
.texts { margin: .3rem 0 1rem }
.texts > div { background: var(--card); padding: .4rem .7rem; white-space: pre-wrap; overflow-wrap: anywhere }
.texts small { display: block; color: var(--soft) } mark { background: var(--mark); color: inherit; padding: 0 }
""".strip()
"""What `samples_html` needs of its page, beside the colour --mark."""


def samples_html(runs: Sequence[Run]) -> str:
    """Every prompt with its answers at the first and at the last reading, a run at a time; empty where no run has any."""
    return "\n".join(filter(None, (_run_html(run, is_named=len(runs) > 1) for run in runs)))


def _run_html(run: Run, *, is_named: bool) -> str:
    rows = read_rows(run.folder, "samples")
    if not rows:
        return ""
    examples: dict[int, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["step"]):
        examples.setdefault(row.get("example", 0), []).append(row)
    title = f"<h3>{escape(run.name)}</h3>\n" if is_named else ""
    return title + "\n".join(_example_html(readings[0], readings[-1]) for readings in examples.values())


def _example_html(first: dict[str, Any], last: dict[str, Any]) -> str:
    parts = [f'<p class="prompt">{escape(str(last.get("prompt", "")))}</p>']
    for name, words in (("greedy", "likeliest answer"), ("sampled", "drawn at random")):
        before, after = str(first.get(name, "")), str(last.get(name, ""))
        old, new = marked(before, after)
        cells = (f"<div><small>{words}, step {row['step']}</small>{text}</div>" for row, text in ((first, old), (last, new)))
        parts.append(f'<div class="texts">{"".join(cells)}</div>')
    return "\n".join(parts)


def marked(before: str, after: str) -> tuple[str, str]:
    """Both texts as HTML, the words that differ marked."""
    old, new = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (before, after))
    codes = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return (
        "".join(_piece("".join(old[start:end]), tag) for tag, start, end, _, _ in codes),
        "".join(_piece("".join(new[start:end]), tag) for tag, _, _, start, end in codes),
    )


def _piece(text: str, tag: str) -> str:
    return escape(text) if tag == "equal" or not text else f"<mark>{escape(text)}</mark>"
