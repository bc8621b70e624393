"""What stands first on the page: headline, property cards, samples before and after; marks and words."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from reports.page import report_page
from reports.runs import Run, load_run
from reports.sections.before_after import marked, samples_html
from reports.sections.cards import cards_html, cards_of, state_of
from reports.sections.headline import headline_html
from reports.sections.terms import TERMS
from run_folder.heatmap_figure import PairHeat, SideHeat, pairs_html
from tests.reports.made_up import config, heatmap_rows, write_run


def rows_of(name: str, **tracks: list[float]) -> dict[str, list[dict[str, Any]]]:
    """Rows at steps 0, 10, 20, ... of metrics whose slashes are written as two underscores."""
    length = max(map(len, tracks.values()))
    metrics = {metric.replace("__", "/"): values for metric, values in tracks.items()}
    return {name: [{"step": 10 * place, **{m: v[place] for m, v in metrics.items()}} for place in range(length)]}


def run_with(folder: Path, **rows: list[dict[str, Any]]) -> Run:
    return load_run(write_run(folder / "made_up" / "version_0", rows))


def test_the_headline_says_what_was_judged(tmp_path: Path) -> None:
    accuracy = rows_of("accuracy", task__accuracy=[0.5, 0.2], task__problems=[100.0, 100.0])
    page = headline_html([run_with(tmp_path, **accuracy)])
    assert '<div class="headline worse">' in page
    assert "lost 30 points of accuracy: 0.500 -&gt; 0.200" in page
    # 1.96 sqrt(.25 / 100 + .16 / 100) = .1255
    assert "Beyond chance: 95% interval of the change [-43, -17] points on 100 problems." in page
    assert "Warnings and notices: not judged." in page


def test_the_headline_of_what_nobody_judged_is_no_all_clear(tmp_path: Path) -> None:
    page = headline_html([run_with(tmp_path)])
    assert '<div class="headline not-judged">' in page
    assert "better" not in re.sub(r"whether answers got better is not known", "", page)


def test_cards_say_since_when_as_the_notices_do(tmp_path: Path) -> None:
    first, last = heatmap_rows()
    after = last["rejected"] | {"probs": [0.9, 0.05]}
    notices = [{"step": 25, "since": 20, "property": "drastic_drop"}, {"step": 15, "since": 10, "property": "dispersion"}]
    verdicts = {"drastic_drop": "shows from step 20", "suppression": "no sign"}
    rows = {
        **rows_of("likelihood", likelihood__bank__drop_share=[0.5, 1.5, 1.25], likelihood__bank__chosen__change=[0.0, -1.0, -2.0]),
        **rows_of("harm", harm__others_fall=[0.1, 0.2, 0.5], harm__collateral=[0.1, 0.2, 0.25]),
        **rows_of("degradation", degradation__bank__displaced=[0.0, 0.4, 0.25]),
        **rows_of("dispersion", dispersion__bank__off_data_mass=[0.1, 0.1, 0.2]),
        "token_heatmap": [first, {**last, "rejected": after}],
        "gaining_tokens": [{"step": 20, "tokens": ["x", "y"], "gains": [0.25, 0.125]}],
        "alarms": notices,
        "judged": [{"step": 30, "verdicts": verdicts | {"dispersion": "showed from step 10, no longer at the end"}}],
    }
    run = run_with(tmp_path, **rows)
    drop, degradation, dispersion = cards_of(run)
    assert drop.size == "others fell by 0.50 of their spread, 0.25 times as far (chosen -2.0 nats)"
    assert (drop.tokens, dispersion.tokens) == (("d 0.20 → 0.05",), ("x +0.2500", "y +0.1250"))
    assert (degradation.size, degradation.tokens) == ("drop share 1.25, chosen fell in 25% of the pairs", ())
    states = ["shows, since step 20", "does not show", "showed, from step 10, no longer at the end"]
    assert [state_of(card, run) for card in (drop, degradation, dispersion)] == states
    assert cards_html([run]).count('class="card shows"') == 1
    said = "Shows: drastic drop (since step 20), dispersion (from step 10, no longer at the end)."
    assert said in headline_html([run])


def test_a_property_that_nobody_judged_is_not_absent(tmp_path: Path) -> None:
    run = run_with(tmp_path, **rows_of("dispersion", dispersion__bank__off_data_mass=[0.1, 0.1, 0.9]))
    page = cards_html([run])
    assert (page.count("not measured"), page.count("not judged: nobody listened")) == (2, 1)


def test_a_property_that_was_not_measured_is_not_absent(tmp_path: Path) -> None:
    assert cards_html([run_with(tmp_path)]).count("not measured") == 3


def test_samples_stand_side_by_side_and_mark_what_changed(tmp_path: Path) -> None:
    rows = [
        {"step": step, "example": 0, "prompt": "<p>", "chosen": "c", "greedy": f"so {number}.", "sampled": "same"}
        for step, number in ((0, 44), (20, 45), (40, 47))
    ]
    page = samples_html([run_with(tmp_path, samples=rows)])
    assert "&lt;p&gt;" in page
    assert [int(step) for step in re.findall(r"likeliest answer, step (\d+)", page)] == [0, 40]
    assert "so <mark>44</mark>." in page
    assert "so <mark>47</mark>." in page
    assert "45" not in page
    assert marked("a <b>", "a <b>") == ("a &lt;b&gt;", "a &lt;b&gt;")


def test_the_worst_of_several_runs_is_marked(tmp_path: Path) -> None:
    runs = []
    for number, end in enumerate((0.9, 0.4)):
        rows = rows_of("accuracy", task__accuracy=[0.5, end])
        runs.append(load_run(write_run(tmp_path / f"run_{number}" / "version_0", rows, config(lr=float(number)))))
    page = report_page(runs)
    assert re.search(r'accuracy of the task</th><td>0\.500 -&gt; 0\.900</td><td class="worst">0\.500 -&gt; 0\.400</td>', page)
    assert page.count('class="worst"') == 1


def test_words_are_explained_in_the_page(tmp_path: Path) -> None:
    page = report_page([run_with(tmp_path)])
    assert 'href="#words"' in page
    assert all(f"<dt>{term}</dt>" in page for term in TERMS)
    assert "docs/" not in page


def test_the_token_that_is_pushed_down_hardest_is_marked() -> None:
    side = SideHeat("rejected", ("a", "b", "c"), (0.25, -0.125, -0.5), (0.5, 0.5, 0.5), 1)
    page = pairs_html([PairHeat("p", (side,))])
    assert re.findall(r'<span class="(\w+)"[^>]*>(\w)</span>', page) == [("first", "b"), ("worst", "c")]
    both = pairs_html([PairHeat("p", (replace(side, divergent=2),))])
    assert re.findall(r'<span class="([^"]+)"[^>]*>(\w)</span>', both) == [("first worst", "c")]
    up = pairs_html([PairHeat("p", (replace(side, pushes=(0.5, 0.25, 0.125), divergent=None),))])
    assert "<span class" not in up


def test_a_broken_sample_row_breaks_no_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "made_up" / "version_0", {})
    (folder / "diagnostics" / "samples.jsonl").write_text(json.dumps({"step": 0}) + "\n")
    run = replace(load_run(folder), alarms=[])
    assert "step 0" in samples_html([run])
