"""The paper's three properties, a card each: how large, since which step, at which tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from reports.runs import Run
from reports.style import SIDES
from run_folder.rows import Track, read_rows

_WORST = 3
"""Tokens that a card names."""

_MOST_FELL, _GREW = 0.5, 0.05
"""Share of pairs, and share of the mass at the start, above which a property is said to show."""

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

    title: str
    meaning: str
    """What it is, for readers who meet it here."""
    is_measured: bool
    size: str = ""
    """Its number, in words."""
    since: int | None = None
    """The step from which it has shown up to the end; None where it does not show at the end."""
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
        rows.append(f'{title}<div class="cards">{"".join(map(_card_html, cards_of(run)))}</div>')
    return "\n".join(rows)


def shown_since(track: Track, holds: Callable[[float], bool]) -> int | None:
    """First step of the readings at the end that all hold; None where the last one does not."""
    since = None
    for step, value in reversed(track):
        if not holds(value):
            break
        since = step
    return since


def _drop(run: Run) -> Card:
    track = run.tracks.get("likelihood/bank/drop_share", [])
    meaning = "The margin grows because rejected answers fall, not because chosen ones rise. Above 1 the chosen ones fall too."
    if not track:
        return Card(
            "Drastic drop", meaning, is_measured="likelihood/bank/chosen/change" in run.tracks, size="the margin did not grow"
        )
    changes = {side: run.tracks.get(f"likelihood/bank/{side}/change") for side in SIDES}
    sides = ", ".join(f"{side} {change[-1][1]:+.1f} nats" for side, change in changes.items() if change)
    size = f"drop share {track[-1][1]:.2f}" + (f" ({sides})" if sides else "")
    return Card("Drastic drop", meaning, True, size, shown_since(track, lambda share: share > 1), _fallen(run, "rejected"))


def _degradation(run: Run) -> Card:
    names = ("degradation/bank/displaced", "degradation/displaced")
    track = next((run.tracks[name] for name in names if name in run.tracks), None)
    meaning = "Chosen answers become less likely than they were before training: the model unlearns what it was shown as good."
    if not track:
        return Card("Degradation", meaning, is_measured=False)
    size = f"chosen fell in {track[-1][1]:.0%} of the pairs"
    return Card("Degradation", meaning, True, size, shown_since(track, lambda share: share > _MOST_FELL), _fallen(run, "chosen"))


def _dispersion(run: Run) -> Card:
    track = run.tracks.get("dispersion/bank/off_data_mass")
    meaning = "Probability leaves every answer that the data knows for a prompt, and goes where nobody has looked."
    if not track:
        return Card("Dispersion", meaning, is_measured=False)
    start, end = track[0][1], track[-1][1]
    size = f"off the data: {start:.3f} → {end:.3f} a token"
    since = shown_since(track, lambda mass: mass > (1 + _GREW) * start)
    rows = read_rows(run.folder, "gaining_tokens")
    gained = zip(rows[-1]["tokens"], rows[-1]["gains"], strict=True) if rows else ()
    return Card("Dispersion", meaning, True, size, since, tuple(f"{token} +{gain:.4f}" for token, gain in gained)[:_WORST])


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


def _card_html(card: Card) -> str:
    if not card.is_measured:
        state, shows = "not measured", ""
    elif card.since is None:
        state, shows = "does not show at the end", ""
    else:
        state, shows = f"shows, since step {card.since}", " shows"
    size = f'<p class="size">{escape(card.size)}</p>' if card.is_measured else ""
    worst = ", ".join(f"<code>{escape(token)}</code>" for token in card.tokens)
    named = f'<p class="note">Worst tokens: {worst}</p>' if worst else ""
    return f"""<div class="card{shows}"><h3>{escape(card.title)}</h3><p><b>{state}</b></p>{size}
<p class="note">{escape(card.meaning)}</p>{named}</div>"""
