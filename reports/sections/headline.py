"""Writes the first lines of the page: the result of each run, and how certain it is."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from reports.runs import Run
from run_folder.verdict import Outcome, alarm_sentence, method_of, verdict_of

_SIGNS: dict[Outcome, str] = {"better": "▲ better", "worse": "▼ worse", "same": "= within chance", "not judged": "? not judged"}
"""Read without colours."""

STYLE = """
.headline { border-left: 5px solid var(--soft); background: var(--card); padding: .7rem 1rem; margin: .6rem 0 }
.headline p { margin: .2rem 0 } .headline .said { font-size: 1.2rem; font-weight: 650 } .headline .sign { font-weight: 650 }
.headline.worse { border-color: var(--bad) } .headline.better { border-color: var(--good) }
""".strip()
"""What `headline_html` needs of its page, beside the colours --bad and --good."""


def headline_html(runs: Sequence[Run]) -> str:
    """A box a run: what became of what was judged, how the margin grew, how sure the first is, what the alarms said."""
    return "\n".join(_box(run, is_named=len(runs) > 1) for run in runs)


def _box(run: Run, *, is_named: bool) -> str:
    verdict = verdict_of(run.tracks, method_of(run.config))
    name = f"{escape(run.name)} · " if is_named else ""
    rest = " ".join(filter(None, (verdict.cause, verdict.certainty)))
    alarms = alarm_sentence(run.alarms, run.verdicts, verdict)
    return f"""<div class="headline {verdict.outcome.replace(" ", "-")}">
<p class="note">{name}<span class="sign">{_SIGNS[verdict.outcome]}</span></p>
<p class="said">{escape(verdict.headline)}</p>
<p>{escape(rest)}</p>
<p class="note">{escape(alarms)}</p></div>"""
