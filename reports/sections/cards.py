"""Shows the paper's three properties, one card each: size, first step, and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from reports.runs import Run
from reports.style import SIDES
from run_folder.properties import FELL, Shown, shown_properties
from run_folder.rows import read_rows

_WORST = 3
"""Tokens that a card names."""

STYLE = """
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: .8rem; margin: .6rem 0 }
.card { border: 1px solid var(--line); border-top: 4px solid var(--soft); padding: .6rem .9rem; border-radius: 4px }
.card.shows { border-top-color: var(--bad) } .card h3 { margin: 0 } .card p { margin: .25rem 0 } .card .size { font-size: 1.35rem }
.card code { background: var(--card); padding: 0 .2rem; white-space: nowrap }
""".strip()
"""What `cards_html` needs of its page, beside the colour --bad."""


@dataclass(frozen=True)
class Card:
    """One property of one run."""

    property: str
    """As notices name it, which alone say whether and since when it shows (`callbacks.alarms.notices`)."""
    title: str
    meaning: str
    """What it is, for readers who meet it here."""
    size: str | None
    """Its numbers at the end, in words; None where nothing was measured."""
    tokens: tuple[str, ...] = ()
    """The worst ones, each with its numbers."""


def cards_of(run: Run) -> tuple[Card, ...]:
    """Drastic drop, degradation, dispersion."""
    return _drop(run), _degradation(run), _dispersion(run)


def cards_html(runs: Sequence[Run]) -> str:
    """A row of three cards for each run."""
    rows = []
    for run in runs:
        title = f"<h3>{escape(run.name)}</h3>\n" if len(runs) > 1 else ""
        rows.append(f'{title}<div class="cards">{"".join(_card_html(card, run) for card in cards_of(run))}</div>')
    return "\n".join(rows)


def state_of(card: Card, run: Run) -> str:
    """Whether the property shows, in words: as the run's own notices said."""
    shown = _shown(card, run)
    if shown is not None:
        return f"{'showed' if shown.is_over else 'shows'}, {shown.said()}"
    if card.size is None:
        return "not measured"
    verdict = run.verdicts.get(card.property)
    if verdict is not None:
        return "does not show" if verdict == "no sign" else verdict
    return "no sign so far" if run.alarms else "not judged: nobody listened to the end (PropertyAlarm)"


def _shown(card: Card, run: Run) -> Shown | None:
    return shown_properties(run.alarms, run.verdicts).get(card.property)


def _last(run: Run, name: str) -> float | None:
    track = run.tracks.get(name)
    return track[-1][1] if track else None


def _drop(run: Run) -> Card:
    meaning = "Rejected answers fall, and other prompts' chosen answers fall with them, though no pair asks for it."
    changes = {side: _last(run, f"likelihood/bank/{side}/change") for side in SIDES}
    sides = ", ".join(f"{side} {change:+.1f} nats" for side, change in changes.items() if change is not None)
    others, ratio = _last(run, "harm/others_fall"), _last(run, "harm/collateral")
    far = "" if others is None or ratio is None else f"others fell by {others:.2f} of their spread, {ratio:.2f} times as far"
    size = " ".join(filter(None, (far, f"({sides})" if far and sides else sides)))
    return Card("drastic_drop", "Drastic drop", meaning, size or None, _fallen(run, "rejected") if size else ())


def _degradation(run: Run) -> Card:
    meaning = "The margin grows while chosen answers fall: the model unlearns what it was shown as good."
    share = _last(run, "likelihood/bank/drop_share")
    fell = next((value for name in FELL if (value := _last(run, name)) is not None), None)
    parts = ["" if share is None else f"drop share {share:.2f}", "" if fell is None else f"chosen fell in {fell:.0%} of the pairs"]
    size = ", ".join(filter(None, parts))
    return Card("suppression", "Degradation", meaning, size or None, _fallen(run, "chosen") if size else ())


def _dispersion(run: Run) -> Card:
    track = run.tracks.get("dispersion/bank/off_data_mass")
    meaning = "Probability leaves all known answers to a prompt and goes to answers that nobody has checked."
    size = f"off the data: {track[0][1]:.3f} → {track[-1][1]:.3f} a token" if track else None
    rows = read_rows(run.folder, "gaining_tokens")
    gained = zip(rows[-1]["tokens"], rows[-1]["gains"], strict=True) if rows else ()
    return Card("dispersion", "Dispersion", meaning, size, tuple(f"{token} +{gain:.4f}" for token, gain in gained)[:_WORST])


def _fallen(run: Run, side: str) -> tuple[str, ...]:
    """Tokens of a side, in the pairs that the heat-map follows, whose probability fell most from its first reading to its last."""
    first, last = ({row["example"]: row for row in run.heatmaps if row["step"] == step} for step in _ends(run))
    falls: list[tuple[float, str]] = []
    for example in first.keys() & last.keys():
        before, after = (rows[example].get(side) for rows in (first, last))
        if before and after:
            columns = zip(before["probs"], after["probs"], after["tokens"], strict=False)
            falls += [(now - then, f"{token} {then:.2f} → {now:.2f}") for then, now, token in columns if now < then]
    return tuple(words for _, words in sorted(falls)[:_WORST])


def _ends(run: Run) -> tuple[int, int]:
    steps = [row["step"] for row in run.heatmaps] or [0]
    return min(steps), max(steps)


def _card_html(card: Card, run: Run) -> str:
    shown = _shown(card, run)
    shows = " shows" if shown is not None and not shown.is_over else ""
    size = f'<p class="size">{escape(card.size)}</p>' if card.size is not None else ""
    worst = ", ".join(f"<code>{escape(token)}</code>" for token in card.tokens)
    named = f'<p class="note">Worst tokens: {worst}</p>' if worst else ""
    return f"""<div class="card{shows}"><h3>{escape(card.title)}</h3><p><b>{escape(state_of(card, run))}</b></p>{size}
<p class="note">{escape(card.meaning)}</p>{named}</div>"""
