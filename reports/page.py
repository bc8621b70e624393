"""Writes the report as one HTML page that needs no other file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from reports.catalogue import PLOTS
from reports.groups import Group, grouped
from reports.hover import STYLE as HOVER_STYLE
from reports.missing import is_reinforced, missing_note
from reports.plot import Plot
from reports.runs import Run
from reports.sections.advice import MEANING as ADVICE_MEANING
from reports.sections.advice import advice_html
from reports.sections.before_after import CALLBACK as SAMPLES_CALLBACK
from reports.sections.before_after import MEANING as SAMPLES_MEANING
from reports.sections.before_after import STYLE as SAMPLES_STYLE
from reports.sections.before_after import samples_html
from reports.sections.cards import STYLE as CARDS_STYLE
from reports.sections.cards import cards_html
from reports.sections.details import alarms_html, doctor_html, runs_html
from reports.sections.headline import STYLE as HEADLINE_STYLE
from reports.sections.headline import headline_html
from reports.sections.heatmaps import CALLBACK, MEANING, heatmaps_html
from reports.sections.start_end import html_table
from reports.sections.terms import STYLE as TERMS_STYLE
from reports.sections.terms import terms_html
from reports.style import DARK_TWINS
from reports.svg import panels_svg, variable
from run_folder.heatmap_figure import STYLE

NOTICED = "Warnings and notices"
"""Title of the section."""

HEADLINE_MEANING = (
    "The change of what was judged, from the first reading to the last, and whether it is larger than chance makes it on so "
    "many problems. One run with one seed; another seed may differ."
)
CARDS_MEANING = (
    "Ways in which training on preferences can go wrong. A property that shows is a fact about probabilities, not a proof of "
    "harm: compare it with what the policy writes."
)

_CSS = """
:root { color-scheme: light dark; --bad: #b42318; --good: #1a7f37; --mark: #fff3c4 }
:root { --ground: #fff; --ink: #24292f; --soft: #57606a; --line: #d0d7de; --card: #f6f8fa; LIGHT }
@media (prefers-color-scheme: dark) {
  :root { --bad: #ff7b72; --good: #3fb950; --mark: #5a4a00 }
  :root { --ground: #0d1117; --ink: #e6edf3; --soft: #9da7b1; --line: #30363d; --card: #161b22; DARK }
}
* { box-sizing: border-box }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 0 auto; max-width: 76rem }
body { padding: 1.2rem clamp(.8rem, 3vw, 2rem) 4rem }
h1 { font-size: 1.55rem; margin: .4rem 0 } h2 { font-size: 1.2rem; margin: 0 0 .2rem }
h3 { font-size: 1rem; margin: 1.2rem 0 .2rem }
section { border-top: 1px solid var(--line); padding: 1.4rem 0 1rem }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .9rem; margin: .8rem 0 1.4rem }
a { color: inherit }
.meaning, .note { color: var(--soft); max-width: 62rem; margin: .2rem 0 .8rem } .note { font-size: .9rem }
.scroll { overflow-x: auto }
svg { display: block; width: 100%; height: auto } svg.whole { position: absolute; width: 0; height: 0 }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); gap: .6rem 1rem; align-items: end }
.panels .legend { grid-column: 1 / -1 }
td.worst::after { content: " ◂ worst"; color: var(--bad); font-size: .85em } td.worst { font-weight: 650 }
table { border-collapse: collapse; font-size: .92rem }
th, td { padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top }
td { font-variant-numeric: tabular-nums } tbody tr { border-top: 1px solid var(--line) } tbody th { font-weight: 400 }
.alarm { border-left: 4px solid #d55e00; background: var(--card); padding: .5rem .9rem; margin: .5rem 0 }
pre { background: var(--card); padding: .8rem; overflow-x: auto; font-size: .85rem } summary { cursor: pointer; padding: .3rem 0 }
code { overflow-wrap: anywhere }
"""


def report_page(runs: Sequence[Run]) -> str:
    """The whole page for at least one run."""
    groups = grouped(runs)
    advice = _advice(runs)
    sections = [
        _section("happened", "What happened", HEADLINE_MEANING, headline_html(runs)),
        _section("properties", "The three properties", CARDS_MEANING, cards_html(runs)),
        _samples(runs, groups),
        _section("alarms", NOTICED, "A warning says that harm is likely; a notice says that a property shows.", alarms_html(runs)),
        advice,
        _section("numbers", "First and last reading", _numbers_meaning(groups), html_table(groups)),
        *filter(None, (_figure(plot, groups) for plot in PLOTS)),
        *([] if all(map(is_reinforced, groups)) else _of_pairs(runs, groups)),
        _section("words", "Words", "What the terms of this page mean.", terms_html()),
        _section("runs", "Runs", "How each run was made; settings that differ between runs come first.", runs_html(runs, groups)),
    ]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Prefscope: {escape(", ".join(group.label for group in groups))}</title>
<style>{_css()}
{STYLE}
{HEADLINE_STYLE}
{CARDS_STYLE}
{SAMPLES_STYLE}
{TERMS_STYLE}
{HOVER_STYLE}</style></head><body>
<h1>What the objective did to the policy</h1>
<p class="meaning">{escape("; ".join(group.label for group in groups))}. Lines are means over the runs of a setting, bands their
range; point at one, or touch it, for its values. Words are explained <a href="#words">below</a>. {_colours(groups)}</p>
<nav>{_contents(groups, has_advice=bool(advice))}</nav>
{"".join(sections)}
</body></html>
"""


def _colours(groups: Sequence[Group]) -> str:
    """What the colours mean, on the whole page."""
    if len(groups) > 1:
        return "In figures every setting has a colour; in texts blue is pushed up, orange pushed down."
    return "Blue is chosen, or pushed up; orange is rejected, or pushed down; other colours are neither."


def _css() -> str:
    light = " ".join(f"--{variable(colour)}: {colour};" for colour in DARK_TWINS)
    dark = " ".join(f"--{variable(colour)}: {twin};" for colour, twin in DARK_TWINS.items())
    return _CSS.replace("LIGHT", light).replace("DARK", dark).strip()


def _contents(groups: Sequence[Group], *, has_advice: bool) -> str:
    measured = (plot for plot in PLOTS if any(plot.has(group) and not plot.has_none(group) for group in groups))
    shown = {plot.name: plot.name.replace("_", " ").capitalize() for plot in measured}
    # Runs with rewards alone train on no pairs.
    of_pairs = {} if all(map(is_reinforced, groups)) else {"tokens": "Tokens", "data": "Data"}
    first = {
        "happened": "What happened",
        "properties": "Properties",
        "samples": "Samples",
        "alarms": NOTICED,
        **({"advice": "What would help"} if has_advice else {}),
        "numbers": "Numbers",
    }
    places = {**first, **shown, **of_pairs, "words": "Words", "runs": "Runs"}
    return "".join(f'<a href="#{name}">{escape(title)}</a>' for name, title in places.items())


def _section(name: str, title: str, meaning: str, body: str, note: str = "") -> str:
    notes = f'<p class="note">{note}</p>' if note else ""
    return f"""<section id="{name}"><h2>{escape(title)}</h2>
<p class="meaning">{escape(meaning)}</p>
{body}
{notes}</section>
"""


def _figure(plot: Plot, groups: Sequence[Group]) -> str:
    figure = plot.draw(groups)
    if figure is None:
        if plot.is_optional or all(map(plot.has_none, groups)):
            return ""
        return _section(plot.name, plot.title, plot.meaning, "", _missing(plot, groups))
    lacking = [group for group in groups if plot.has_none(group) or not plot.has(group)]
    note = _missing(plot, lacking) if lacking else ""
    body = panels_svg(figure, plot.name, f"{plot.title}. {plot.meaning}")
    return _section(plot.name, plot.title, plot.meaning, body, note)


def _missing(plot: Plot, groups: Sequence[Group]) -> str:
    return missing_note(plot.callback, groups, plot.has_none, plot.reads)


def _samples(runs: Sequence[Run], groups: Sequence[Group]) -> str:
    body = samples_html(runs)
    note = "" if body else missing_note(SAMPLES_CALLBACK, groups)
    return _section("samples", "What the policy writes", SAMPLES_MEANING, body, note)


def _advice(runs: Sequence[Run]) -> str:
    body = advice_html(runs)
    return _section("advice", "What would help", ADVICE_MEANING, body) if body else ""


def _of_pairs(runs: Sequence[Run], groups: Sequence[Group]) -> list[str]:
    risks = "What the data risked, as the data doctor found it."
    return [_heatmaps(runs, groups), _section("data", "The pairs, before training", risks, doctor_html(runs))]


def _heatmaps(runs: Sequence[Run], groups: Sequence[Group]) -> str:
    body = heatmaps_html(runs)
    note = "" if body else missing_note(CALLBACK, groups, is_reinforced, "losses of pairs")
    return _section("tokens", "Token by token", MEANING, body, note)


def _numbers_meaning(groups: Sequence[Group]) -> str:
    several = any(len(group.runs) > 1 for group in groups)
    ranges = "; in brackets the range over runs at the end" if several else ""
    return f"First -> last reading{ranges}. Log-likelihoods are of the frozen probe bank, losses of the batches of the step."
